//! Norms of the residual stream; sums in float64.

use super::Rows;
use crate::backend::NormWeights;
use rayon::prelude::*;
use tamborim_model::NormKind;

/// Every row of `x` normalized.
pub fn apply(norm: &NormWeights<Vec<f32>>, x: &Rows) -> Rows {
    let mut y = x.clone();
    y.data.par_chunks_mut(x.cols).for_each(|row| match norm.norm.kind {
        NormKind::Rms => rms(row, &norm.weight, norm.norm.eps),
        NormKind::Layer => layer(row, norm),
    });
    y
}

/// RMSNorm of every head: as many channels as the norm has weights.
pub fn per_head(norm: &NormWeights<Vec<f32>>, x: &Rows) -> Rows {
    let mut y = x.clone();
    y.data.par_chunks_mut(norm.weight.len()).for_each(|head| rms(head, &norm.weight, norm.norm.eps));
    y
}

/// RMSNorm of every `head_dim` channels by themselves, as far as there are weights.
pub fn heads(norm: &NormWeights<Vec<f32>>, head_dim: usize, x: &Rows) -> Rows {
    let mut y = x.clone();
    y.data.par_chunks_mut(x.cols).for_each(|row| {
        for (head, weight) in row.chunks_exact_mut(head_dim).zip(norm.weight.chunks_exact(head_dim)) {
            rms(head, weight, norm.norm.eps);
        }
    });
    y
}

fn layer(row: &mut [f32], norm: &NormWeights<Vec<f32>>) {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(norm.norm.eps)).sqrt();
    for (x, w) in row.iter_mut().zip(&norm.weight) {
        *x = ((f64::from(*x) - mean) * scale) as f32 * w;
    }
    if let Some(bias) = &norm.bias {
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

/// `x * rsqrt(mean(x^2) + eps) * weight`, in place.
fn rms(row: &mut [f32], weight: &[f32], eps: f32) {
    let mean = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / row.len() as f64;
    let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    for (x, w) in row.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}
