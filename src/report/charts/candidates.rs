//! Several candidates in one picture.

use super::frame::*;
use crate::Result;
use crate::output::bytes;
use crate::report::Report;
use crate::report::palette::{CANDIDATE, MUTED, REFERENCE};

/// Whether no other candidate is both as small and as near to the reference, for each.
pub fn pareto_front(reports: &[Report]) -> Vec<bool> {
    let beats = |a: &Report, b: &Report| {
        let as_good = a.candidate.bytes <= b.candidate.bytes && a.kld.mean <= b.kld.mean;
        as_good && (a.candidate.bytes < b.candidate.bytes || a.kld.mean < b.kld.mean)
    };
    reports.iter().map(|r| !reports.iter().any(|other| beats(other, r))).collect()
}

/// Candidates by size and mean divergence; a line joins those that none beats in both. `names` are theirs.
pub fn size_against_kld(reports: &[Report], names: &[String]) -> Result<Chart> {
    let positive: Vec<f64> = reports.iter().map(|r| r.kld.mean).filter(|k| *k > 0.0).collect();
    let (low, high) =
        (positive.iter().copied().fold(f64::INFINITY, f64::min), positive.iter().copied().fold(0.0, f64::max));
    if positive.is_empty() {
        return Ok(Chart::default());
    }
    // A candidate without any difference has its place at the lower edge.
    let height = |r: &Report| r.kld.mean.max(low / 2.0).log10();
    let y = Scale::logarithmic(low / 2.0, high * 1.5, "");
    let largest = reports.iter().map(|r| r.candidate.bytes).max().unwrap_or(1) as f64;
    let mut x = Scale::linear(1.12 * largest, "");
    x.marks.iter_mut().for_each(|(at, word)| *word = bytes(*at as u64));
    let front = pareto_front(reports);
    let at = |r: &Report| (r.candidate.bytes as f64, height(r));
    let mut line: Vec<_> = reports.iter().zip(&front).filter(|(_, f)| **f).map(|(r, _)| at(r)).collect();
    line.sort_by(|a, b| a.0.total_cmp(&b.0));
    let description = format!(
        "Size of the file against mean KL divergence of {} candidates; on the front: {}",
        reports.len(),
        names.iter().zip(&front).filter(|(_, f)| **f).map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
    );
    Picture { title: "Size against KL divergence", description, x, y }.draw(|f| {
        f.line(line, CANDIDATE, 3)?;
        for ((r, name), front) in reports.iter().zip(names).zip(&front) {
            f.dot(at(r), if *front { CANDIDATE } else { REFERENCE }, 11)?;
            f.word(at(r), 0.02, name, MUTED)?;
        }
        Ok(())
    })
}
