//! Second moments: `x^T x` of rows x, added to exact sums.

use super::matmul::{Matrix, product};
use super::simd::dispatch;
use rayon::prelude::*;
use tamborim_quant::{Sums, accumulate};

/// Tokens whose products are summed in float32.
pub const TOKENS: usize = 256;

/// Rows of the triangle handled by one task: enough of them to amortize the packing of a product's other operand.
const ROWS: usize = 128;
/// Columns of a product: its float32 and float64 numbers stay in a core's cache.
const COLUMNS: usize = 512;

/// Rows `first ..` of a triangle, at most [`ROWS`], with their sums.
struct Band<'s> {
    /// The block's first channel.
    channel: usize,
    /// Rows of the triangle above this band.
    first: usize,
    rows: usize,
    values: &'s mut [f64],
    rests: &'s mut [f32],
}

/// Adds the moments of `x`, rows of as many numbers as the sums' input is wide, to `sums`.
pub fn add(x: &[f32], sums: &mut Sums) {
    let (width, block) = (sums.moments.width, sums.moments.block);
    sums.moments.count += (x.len() / width) as u64;
    let (mut values, mut rests) = (&mut sums.moments.lower[..], &mut sums.rests[..]);
    let mut bands = Vec::new();
    for channel in (0..width).step_by(block) {
        let extent = block.min(width - channel);
        for first in (0..extent).step_by(ROWS) {
            let rows = ROWS.min(extent - first);
            let len = triangle(first + rows) - triangle(first);
            let (band_values, other_values) = values.split_at_mut(len);
            let (band_rests, other_rests) = rests.split_at_mut(len);
            bands.push(Band { channel, first, rows, values: band_values, rests: band_rests });
            (values, rests) = (other_values, other_rests);
        }
    }
    bands.into_par_iter().for_each_init(|| (Vec::new(), Vec::new()), |scratch, band| band.add(x, width, scratch));
}

/// Numbers in the first `rows` rows of a lower triangle.
fn triangle(rows: usize) -> usize {
    rows * (rows + 1) / 2
}

impl Band<'_> {
    fn add(self, x: &[f32], width: usize, (products, terms): &mut (Vec<f32>, Vec<f64>)) {
        let Band { channel, first, rows, values, rests } = self;
        for column in (0..first + rows).step_by(COLUMNS) {
            let columns = COLUMNS.min(first + rows - column);
            terms.clear();
            terms.resize(rows * columns, 0.0);
            products.resize(rows * columns, 0.0);
            for x in x.chunks(TOKENS * width) {
                let tokens = x.len() / width;
                let left = Matrix::new(&x[channel + first..], width).transposed();
                let right = Matrix::new(&x[channel + column..], width);
                product(products, columns, left, right, [rows, columns, tokens]);
                widen_add(terms, products);
            }
            for (row, terms) in terms.chunks_exact(columns).enumerate() {
                // Of row r the triangle has columns up to r.
                let end = (first + row + 1).min(column + columns);
                if end > column {
                    let at = triangle(first + row) - triangle(first) + column;
                    let n = end - column;
                    accumulate(&mut values[at..][..n], &mut rests[at..][..n], &terms[..n]);
                }
            }
        }
    }
}

dispatch! {
    fn widen_add(sums: &mut [f64], terms: &[f32]) {
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += f64::from(*term);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * i % 8191) as f32 * 0.37).sin()).collect()
    }

    #[test]
    fn moments_equal_float64_in_whole_matrices_and_in_blocks() {
        for (width, block, tokens) in [(1, 1, 1), (5, 2, 3), (130, 130, 300), (700, 700, 7), (700, 350, 257)] {
            let x = numbers(width * tokens);
            let mut sums = Sums::new(Vec::new(), width, block);
            add(&x, &mut sums);
            add(&x, &mut sums);
            assert_eq!(sums.moments.count, 2 * tokens as u64);
            let mut channel = 0;
            for (n, triangle) in sums.moments.triangles() {
                let mut found = triangle.iter();
                for i in 0..n {
                    for j in 0..=i {
                        let at = |t: usize, c: usize| f64::from(x[t * width + channel + c]);
                        let truth: f64 = 2.0 * (0..tokens).map(|t| at(t, i) * at(t, j)).sum::<f64>();
                        let error = (found.next().unwrap() - truth).abs();
                        assert!(error < 2e-6 * tokens as f64, "{width} {block} {tokens}: {i} {j}: {error}");
                    }
                }
                channel += n;
            }
            assert_eq!(channel, width);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let x = numbers(300 * 400);
        let run = |threads| {
            let mut sums = Sums::new(Vec::new(), 400, 400);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| add(&x, &mut sums));
            sums
        };
        assert_eq!(run(1), run(3));
    }
}
