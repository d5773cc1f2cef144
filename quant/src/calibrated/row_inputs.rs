//! Which inputs of a head matter to which of its rows.
//!
//! Logits that are wrong by e cost, to second order, `1/2 e^T (diag(p) - p p^T) e` of divergence, p being the model's own
//! probabilities. So row r has a curvature of its own, `E[p_r (1 - p_r) x x^T]`, made by the few inputs after which its
//! token is plausible.

use rayon::prelude::*;

/// Samples in all, if after no input any token were certain: weights add up to 1 at most for each input. 8 bytes each.
const SAMPLES: f32 = 16_777_216.0;

/// Rows whose weights are added before one looks where a sample falls.
const TOGETHER: usize = 64;

/// Inputs of a head, and for each row a sample of those after which its token is plausible.
#[derive(Clone, Debug)]
pub struct RowInputs {
    width: usize,
    /// Weight for which there is one sample.
    step: f32,
    /// (inputs, width)
    inputs: Vec<f32>,
    of_row: Vec<Vec<Sample>>,
}

/// An input, and what `p (1 - p)` it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) input: u32,
    pub(super) weight: f32,
}

impl RowInputs {
    /// Before the first of `count` inputs of `width` channels to a head of so many rows.
    pub fn new(count: usize, width: usize, rows: usize) -> RowInputs {
        let step = count as f32 / SAMPLES;
        RowInputs { width, step, inputs: Vec::with_capacity(count * width), of_row: vec![Vec::new(); rows] }
    }

    /// Adds inputs, and the probabilities (inputs, rows) of the tokens after each.
    ///
    /// # Panics
    /// If these are not of as many inputs.
    pub fn add(&mut self, inputs: &[f32], probabilities: &[f32]) {
        let first = self.inputs.len() / self.width;
        let rows = self.of_row.len();
        assert_eq!(inputs.len() / self.width, probabilities.len() / rows, "probabilities of each input");
        self.inputs.extend_from_slice(inputs);
        let sampled: Vec<Vec<(usize, f32)>> = probabilities
            .par_chunks_exact(rows)
            .enumerate()
            .map(|(i, p)| {
                let weights: Vec<f32> = p.iter().map(|p| p - p * p).collect();
                sample(&weights, self.step, unit(first + i))
            })
            .collect();
        for (input, sampled) in (first as u32..).zip(sampled) {
            for (row, weight) in sampled {
                self.of_row[row].push(Sample { input, weight });
            }
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn rows(&self) -> usize {
        self.of_row.len()
    }

    pub(super) fn input(&self, index: u32) -> &[f32] {
        &self.inputs[index as usize * self.width..][..self.width]
    }

    /// The samples of a row, thinned out to about `most`.
    pub(super) fn of_row(&self, row: usize, most: usize) -> Vec<Sample> {
        let samples = &self.of_row[row];
        if samples.len() <= most {
            return samples.clone();
        }
        let weights: Vec<f32> = samples.iter().map(|s| s.weight).collect();
        let step = weights.iter().sum::<f32>() / most as f32;
        let thinned = sample(&weights, step, unit(row));
        thinned.into_iter().map(|(i, weight)| Sample { input: samples[i].input, weight }).collect()
    }
}

/// Systematic sampling: one place for each `step` of the running sum of weights, the first after the part `start` of a step,
/// with the weight that it stands for, the step or its own where that is more.
fn sample(weights: &[f32], step: f32, start: f32) -> Vec<(usize, f32)> {
    let mut left = step * start;
    let mut taken = Vec::new();
    for (block, weights) in weights.chunks(TOGETHER).enumerate() {
        let sum = sum(weights);
        if sum < left {
            left -= sum;
            continue;
        }
        for (i, weight) in weights.iter().enumerate() {
            left -= weight;
            if left <= 0.0 {
                taken.push((block * TOGETHER + i, weight.max(step)));
                left += step * (-left / step).floor() + step;
            }
        }
    }
    taken
}

fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// A number in (0, 1] for each index, without any pattern: splitmix64.
fn unit(index: usize) -> f32 {
    let mut z = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f32 * 2f32.powi(-24) + 2f32.powi(-24)
}
