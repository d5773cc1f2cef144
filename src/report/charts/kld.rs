//! Where the KL divergence is.

use super::frame::*;
use crate::Result;
use crate::report::numbers::{significant, thousands};
use crate::report::palette::{CANDIDATE, FLOOR, INK, MUTED};
use crate::report::{Report, data::PositionBucket};

/// Positions by their divergence, on a logarithmic scale.
pub fn distribution(r: &Report) -> Result<Chart> {
    // The bin that also holds zeros is as wide as the others here.
    let bins: Vec<(f64, f64, f64)> = r
        .kld_histogram
        .iter()
        .map(|b| (if b.from > 0.0 { b.from } else { b.to / 10f64.powf(0.2) }.log10(), b.to.log10(), b.positions as f64))
        .collect();
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return Ok(Chart::default()) };
    // Noise that is far below everything is not worth the room.
    let floor = r.noise_floor.iter().map(|f| f.kld_mean).fold(0.0, f64::max).log10();
    let floor = Some(floor).filter(|floor| *floor > first.0 - 1.5);
    let lowest = floor.map_or(first.0, |floor| first.0.min(floor));
    let x = Scale::logarithmic(10f64.powf(lowest), 10f64.powf(last.1), "");
    let total = r.positions as f64;
    let share = |count: f64| 100.0 * count / total;
    let y = Scale::linear(1.12 * share(bins.iter().map(|b| b.2).fold(0.0, f64::max)), " %");
    let description = format!(
        "Histogram of the KL divergence of {} positions: mean {}, median {}, 99 % below {}, largest {} nats",
        thousands(r.positions as u64),
        significant(r.kld.mean),
        significant(r.kld.median),
        significant(r.kld.p99),
        significant(r.kld.max)
    );
    Picture { title: "Distribution of the KL divergence", description, x, y }.draw(|f| {
        for &(from, to, count) in &bins {
            f.bar((from + 0.01, 0.0), (to - 0.01, share(count)), CANDIDATE)?;
        }
        if r.kld.mean > 0.0 {
            f.upright(r.kld.mean.log10(), INK, "mean", 0)?;
        }
        floor.map_or(Ok(()), |floor| f.upright(floor, FLOOR, "runtime's noise", 1))
    })
}

/// The mean divergence along the window.
pub fn by_position(r: &Report) -> Result<Chart> {
    let end = |b: &PositionBucket| (b.to as f64).log2();
    let (Some(first), Some(last)) = (r.by_position.first(), r.by_position.last()) else { return Ok(Chart::default()) };
    let top = |b: &PositionBucket| b.kld_interval.map_or(b.kld_mean, |i| i[1]);
    let y = Scale::linear(1.05 * r.by_position.iter().map(top).fold(0.0, f64::max), "");
    let places = r.by_position.iter().map(|b| (end(b), tokens(b.to)));
    let x = Scale { from: end(first) - 0.4, to: end(last) + 0.4, marks: sparse(places.collect()) };
    let description = format!(
        "Mean KL divergence by place in the window: {} nats over the first {} tokens, {} nats over places {} to {}",
        significant(first.kld_mean),
        first.to,
        significant(last.kld_mean),
        last.from,
        last.to - 1
    );
    Picture { title: "KL divergence by position", description, x, y }.draw(|f| {
        f.line(r.by_position.iter().map(|b| (end(b), b.kld_mean)).collect(), CANDIDATE, 4)?;
        for b in &r.by_position {
            if let Some([low, high]) = b.kld_interval {
                f.line(vec![(end(b), low), (end(b), high)], CANDIDATE, 3)?;
            }
            f.dot((end(b), b.kld_mean), CANDIDATE, 10)?;
        }
        Ok(())
    })
}

/// The mean divergence of each set of texts.
pub fn by_domain(r: &Report) -> Result<Chart> {
    if r.by_domain.len() < 2 {
        return Ok(Chart::default());
    }
    let mut domains: Vec<_> = r.by_domain.iter().collect();
    domains.sort_by(|a, b| a.kld_mean.total_cmp(&b.kld_mean));
    let longest = domains.iter().flat_map(|d| [d.kld_mean, d.kld_interval.map_or(0.0, |i| i[1])]).fold(0.0, f64::max);
    let x = Scale::linear(longest * 1.05, "");
    let n = domains.len() as f64;
    let short = |name: &str| name.strip_prefix("RedPajama").unwrap_or(name).chars().take(16).collect::<String>();
    let marks = domains.iter().zip(0..).map(|(d, i)| (f64::from(i) + 0.5, short(&d.name))).collect();
    let y = Scale { from: 0.0, to: n, marks };
    let worst = domains.last().map_or(String::new(), |d| format!(", largest in {}", d.name));
    let description = format!("Mean KL divergence of {} sets of texts{worst}", domains.len());
    Picture { title: "KL divergence by domain", description, x, y }.draw(|f| {
        for (i, d) in (0..).zip(&domains) {
            let middle = f64::from(i) + 0.5;
            f.bar((0.0, middle - 0.3), (d.kld_mean, middle + 0.3), CANDIDATE)?;
            if let Some([low, high]) = d.kld_interval {
                f.line(vec![(low, middle), (high, middle)], INK, 4)?;
            }
        }
        f.line(vec![(r.kld.mean, 0.0), (r.kld.mean, n)], MUTED, 3)
    })
}

/// `4096` as `4k`, where it is a power of two.
pub fn tokens(n: usize) -> String {
    match n {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{}M", n >> 20),
        n if n >= 1024 && n.is_multiple_of(1024) => format!("{}k", n >> 10),
        n => n.to_string(),
    }
}

/// At most eight marks, the last among them.
pub fn sparse(marks: Vec<(f64, String)>) -> Vec<(f64, String)> {
    let every = marks.len().div_ceil(8).max(1);
    let last = marks.len().saturating_sub(1);
    marks.into_iter().enumerate().filter(|(i, _)| (last - i).is_multiple_of(every)).map(|(_, m)| m).collect()
}
