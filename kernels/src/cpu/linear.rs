//! `y = x W^T + b` with W in any format: rows of W are decoded into a small float32 panel in front of each product.

use super::Rows;
use super::matmul::{Matrix, product_into};
use super::simd::dot;
use rayon::prelude::*;
use tamborim_quant::Tensor;

/// Rows of W handled by one task. Large enough to amortize packing, small enough that a panel stays in cache and that
/// every thread gets work.
const PANEL: usize = 64;
/// Up to this many tokens, plain dot products beat packing for GEMM.
const FEW: usize = 4;

/// A linear map: (outputs, inputs), and a bias.
pub struct Linear<'a> {
    weight: Tensor<'a>,
    bias: Option<Vec<f32>>,
}

impl<'a> Linear<'a> {
    /// A map of `weight` (outputs, inputs) and a bias of as many outputs.
    pub fn new(weight: Tensor<'a>, bias: Option<Vec<f32>>) -> Linear<'a> {
        Linear { weight, bias }
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.weight.rows()
    }

    /// Row `i` of W, decoded.
    pub fn decode_row(&self, i: usize, out: &mut [f32]) {
        self.weight.format.decode(self.weight.row(i), out);
    }

    /// `x W^T + b`: (tokens, outputs).
    pub fn apply(&self, x: &Rows) -> Rows {
        let (tokens, n) = (x.rows(), self.outputs());
        debug_assert_eq!(x.cols, self.weight.cols());
        let mut y = Rows::zeros(tokens, n);
        if tokens == 0 {
            return y;
        }
        let out = SharedColumns { data: y.data.as_mut_ptr(), stride: n };
        let panels = n.div_ceil(PANEL);
        (0..panels).into_par_iter().for_each_init(Vec::new, |scratch, p| {
            let first = p * PANEL;
            let count = PANEL.min(n - first);
            if tokens <= FEW {
                self.dot_panel(x, first, count, scratch, &out);
            } else {
                self.gemm_panel(x, first, count, scratch, &out);
            }
        });
        if let Some(bias) = &self.bias {
            for row in y.data.chunks_exact_mut(n) {
                for (y, b) in row.iter_mut().zip(bias) {
                    *y += b;
                }
            }
        }
        y
    }

    /// Outputs `first .. first + count`, a row of W at a time, straight from its blocks.
    fn dot_panel(&self, x: &Rows, first: usize, count: usize, scratch: &mut Vec<f32>, out: &SharedColumns) {
        let k = x.cols;
        for i in first..first + count {
            let w = self.decoded(i, 1, scratch);
            for t in 0..x.rows() {
                // SAFETY: column i belongs to this task alone, and t is a row of the output.
                unsafe { *out.at(t, i) = dot(&x.data[t * k..][..k], w) };
            }
        }
    }

    /// The same as one GEMM.
    fn gemm_panel(&self, x: &Rows, first: usize, count: usize, scratch: &mut Vec<f32>, out: &SharedColumns) {
        let (tokens, k) = (x.rows(), x.cols);
        let w = self.decoded(first, count, scratch);
        let (x, w) = (Matrix::new(&x.data, k), Matrix::new(w, k).transposed());
        // SAFETY: the output columns `first .. first + count` of all rows belong to this task alone, inside the output.
        unsafe { product_into(out.at(0, first), out.stride, x, w, [tokens, count, k]) };
    }

    /// Rows `first .. first + count` of W as float32: the stored ones where they are that already, else decoded.
    fn decoded<'s>(&'s self, first: usize, count: usize, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        let k = self.weight.cols();
        let row_bytes = self.weight.bytes.len() / self.weight.rows();
        let bytes = &self.weight.bytes[first * row_bytes..][..count * row_bytes];
        if self.weight.format == tamborim_quant::Format::F32
            && let Ok(floats) = bytemuck::try_cast_slice(bytes)
        {
            return floats;
        }
        scratch.resize(count * k, 0.0);
        self.weight.format.decode(bytes, &mut scratch[..count * k]);
        &scratch[..count * k]
    }
}

/// The output matrix, written by tasks that own disjoint columns.
struct SharedColumns {
    data: *mut f32,
    stride: usize,
}

impl SharedColumns {
    /// # Safety
    /// `row`, `column` must be inside the matrix, and no other task may touch that column.
    unsafe fn at(&self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: inside the allocation by the caller's promise.
        unsafe { self.data.add(row * self.stride + column) }
    }
}

// SAFETY: tasks write disjoint columns only (see `at`), and the matrix outlives them.
unsafe impl Sync for SharedColumns {}
