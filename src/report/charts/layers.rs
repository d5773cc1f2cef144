//! Where in the model the difference grows.

use super::frame::*;
use crate::Result;
use crate::report::numbers::significant;
use crate::report::palette::{KINDS, REFERENCE};
use crate::report::{LayerDistance, Report};

/// Relative distance of the residual streams after each block; dots tell what the block mixes with.
pub fn by_layer(r: &Report) -> Result<Chart> {
    let Some(last) = r.by_layer.last() else { return Ok(Chart::default()) };
    let mut mixers: Vec<&str> = Vec::new();
    for layer in &r.by_layer {
        if !mixers.contains(&layer.mixer.as_str()) {
            mixers.push(&layer.mixer);
        }
    }
    let kind = |mixer: &str| KINDS[mixers.iter().position(|m| *m == mixer).unwrap_or(0) % KINDS.len()];
    let share = |x: f64| 100.0 * x;
    let largest = r.by_layer.iter().map(|l| l.relative_distance).fold(0.0, f64::max);
    let y = Scale::linear(1.1 * share(largest), " %");
    let mut x = Scale::between(0.0, r.by_layer.len() as f64, "");
    x.from = 0.5;
    x.to += 0.5;
    x.marks.retain(|(at, _)| at.fract() == 0.0 && *at >= 1.0);
    let description = format!(
        "Relative distance of the hidden states after each of {} blocks; {} % after the last",
        r.by_layer.len(),
        significant(share(last.relative_distance))
    );
    let chart = Picture { title: "Distance by layer", description, x, y }.draw(|f| {
        let at = |l: &LayerDistance| (l.block as f64 + 1.0, share(l.relative_distance));
        f.line(r.by_layer.iter().map(at).collect(), REFERENCE, 3)?;
        for layer in &r.by_layer {
            f.dot(at(layer), kind(&layer.mixer), 10)?;
        }
        Ok(())
    })?;
    Ok(Chart { legend: mixers.iter().map(|m| (kind(m), (*m).to_owned())).collect(), ..chart })
}
