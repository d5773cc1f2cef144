//! Rotary position embedding, rotate-half, with the table of the trained model.

use super::Rows;
use half::bf16;
use rayon::prelude::*;
use tamborim_model::mixers::{Rope, RopeTable};

/// Angles per position: `1 / base^(2 i / dims)` for each pair i, in float32 as trained, the power of float64 rounded once.
pub fn frequencies(rope: &Rope) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f32 / rope.dims as f32;
    (0..rope.dims / 2).map(|i| 1.0 / f64::from(rope.base).powf(f64::from(exponent(i))) as f32).collect()
}

/// cos and sin of some positions: rows of `dims / 2`.
pub struct Table {
    cos: Rows,
    sin: Rows,
}

impl Table {
    /// The table for positions `start .. start + count`, step by step as the training code computes it on a CPU: every
    /// intermediate is float32, powers and cosines are those of float64 rounded once, the result is rounded to bfloat16
    /// where the model was trained so.
    pub fn new(rope: &Rope, start: u64, count: usize) -> Table {
        let half = rope.dims / 2;
        let theta = frequencies(rope);
        let round = |x: f64| match rope.table {
            RopeTable::Bf16 => bf16::from_f32(x as f32).to_f32(),
            RopeTable::F32 => x as f32,
        };
        let (mut cos, mut sin) = (Rows::zeros(count, half), Rows::zeros(count, half));
        cos.data.par_chunks_mut(half).zip(sin.data.par_chunks_mut(half)).enumerate().for_each(|(t, (cos, sin))| {
            let position = (start + t as u64) as f32 / rope.condense;
            for i in 0..half {
                let (s, c) = f64::from(position * theta[i]).sin_cos();
                cos[i] = round(c);
                sin[i] = round(s);
            }
        });
        Table { cos, sin }
    }

    /// Turns the first channels of every head of every row of `x`.
    pub fn rotate(&self, x: &mut Rows, head_dim: usize) {
        let half = self.cos.cols;
        x.data.par_chunks_mut(x.cols).enumerate().for_each(|(t, row)| {
            let (cos, sin) = (self.cos.row(t), self.sin.row(t));
            for head in row.chunks_exact_mut(head_dim) {
                let (low, high) = head[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (low[i], high[i]);
                    low[i] = a * cos[i] - b * sin[i];
                    high[i] = b * cos[i] + a * sin[i];
                }
            }
        });
    }
}
