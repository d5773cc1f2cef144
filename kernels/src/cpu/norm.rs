//! Norms of the residual stream; sums in float64.

use super::Rows;
use rayon::prelude::*;
use tamborim_model::{Norm, NormKind};

/// A norm and its weights.
pub struct NormWeights {
    /// Formula and epsilon.
    pub norm: Norm,
    /// Scale per channel.
    pub weight: Vec<f32>,
    /// Offset per channel; LayerNorm only.
    pub bias: Option<Vec<f32>>,
}

impl NormWeights {
    /// Every row of `x` normalized.
    pub fn apply(&self, x: &Rows) -> Rows {
        let mut y = x.clone();
        y.data.par_chunks_mut(x.cols).for_each(|row| match self.norm.kind {
            NormKind::Rms => rms(row, &self.weight, self.norm.eps),
            NormKind::Layer => self.layer(row),
        });
        y
    }

    fn layer(&self, row: &mut [f32]) {
        let n = row.len() as f64;
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + f64::from(self.norm.eps)).sqrt();
        for (x, w) in row.iter_mut().zip(&self.weight) {
            *x = ((f64::from(*x) - mean) * scale) as f32 * w;
        }
        if let Some(bias) = &self.bias {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    }
}

/// `x * rsqrt(mean(x^2) + eps) * weight`, in place.
pub fn rms(row: &mut [f32], weight: &[f32], eps: f32) {
    let mean = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / row.len() as f64;
    let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    for (x, w) in row.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}
