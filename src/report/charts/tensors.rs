//! What each weight matrix lost.

use super::frame::*;
use crate::Result;
use crate::report::numbers::significant;
use crate::report::palette::KINDS;
use crate::report::{Report, TensorError};

/// The calibrated error where there is one, else that of the weights.
pub fn error_of(t: &TensorError) -> f64 {
    t.output_error.unwrap_or(t.relative_error)
}

/// Matrices by their error, largest first; colors tell their types, which are bits.
pub fn by_tensor(r: &Report) -> Result<Chart> {
    let mut tensors: Vec<_> = r.by_tensor.iter().filter(|t| error_of(t) > 0.0).collect();
    tensors.sort_by(|a, b| error_of(b).total_cmp(&error_of(a)));
    let (Some(worst), Some(best)) = (tensors.first(), tensors.last()) else { return Ok(Chart::default()) };
    let mut types: Vec<(&str, f64)> = Vec::new();
    for t in &tensors {
        if !types.iter().any(|(name, _)| *name == t.r#type) {
            types.push((&t.r#type, t.bits_per_weight));
        }
    }
    types.sort_by(|a, b| a.1.total_cmp(&b.1));
    let kind = |t: &TensorError| KINDS[types.iter().position(|(name, _)| *name == t.r#type).unwrap_or(0) % KINDS.len()];
    let percent = |x: f64| format!("{} %", significant(100.0 * x));
    // What is smaller than a thousandth of the largest lies at the lower edge.
    let lowest = error_of(best).max(1e-3 * error_of(worst));
    let y = Scale::logarithmic(100.0 * lowest, 100.0 * error_of(worst), " %");
    let mut x = Scale::between(0.0, tensors.len() as f64, "");
    (x.from, x.to) = (-0.02 * x.to, 1.02 * x.to);
    let description = format!(
        "Relative error of {} weight matrices, sorted, from {} ({}) down to {} ({})",
        tensors.len(),
        percent(error_of(worst)),
        worst.name,
        percent(error_of(best)),
        best.name
    );
    let chart = Picture { title: "Error by tensor", description, x, y }.draw(|f| {
        for (i, t) in (0..).zip(&tensors) {
            f.dot((f64::from(i), (100.0 * error_of(t).max(lowest)).log10()), kind(t), 9)?;
        }
        Ok(())
    })?;
    let legend =
        types.iter().zip(KINDS.iter().cycle()).map(|((name, bits), kind)| (*kind, format!("{name}, {bits} bits")));
    Ok(Chart { legend: legend.collect(), ..chart })
}
