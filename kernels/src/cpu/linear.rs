//! `y = x W^T + b` with W in any format: rows of W are decoded into a small float32 panel in front of each product.

use super::Rows;
use super::matmul::{Matrix, product_into};
use super::simd::dot;
use crate::backend::Map;
use rayon::prelude::*;
use tamborim_quant::{Format, Tensor};

/// Rows of W handled by one task. Large enough to amortize packing, small enough that a panel stays in cache and that
/// every thread gets work.
const PANEL: usize = 64;
/// Up to this many tokens, plain dot products beat packing for GEMM.
const FEW: usize = 4;

/// Matrices with the same input, one under the other.
pub struct Linear<'a> {
    maps: Vec<Map<'a>>,
    /// Work for one task each, over all maps.
    panels: Vec<Panel>,
    outputs: usize,
}

/// Rows `first .. first + count` of a map, outputs from `column` on.
struct Panel {
    map: usize,
    first: usize,
    count: usize,
    column: usize,
}

impl<'a> Linear<'a> {
    /// Stacks `maps`, which have the same number of inputs.
    pub fn new(maps: Vec<Map<'a>>) -> Linear<'a> {
        let (mut panels, mut outputs) = (Vec::new(), 0);
        for (map, m) in maps.iter().enumerate() {
            let rows = m.weight.rows();
            panels.extend((0..rows).step_by(PANEL).map(|first| {
                let count = PANEL.min(rows - first);
                Panel { map, first, count, column: outputs + first }
            }));
            outputs += rows;
        }
        Linear { maps, panels, outputs }
    }

    /// Inputs.
    pub fn inputs(&self) -> usize {
        self.maps[0].weight.cols()
    }

    /// Rows `tokens` of the first matrix, decoded.
    pub fn rows_of(&self, tokens: &[u32]) -> Rows {
        let weight = &self.maps[0].weight;
        let mut r = Rows::zeros(tokens.len(), weight.cols());
        for (token, row) in tokens.iter().zip(r.data.chunks_exact_mut(weight.cols())) {
            weight.format.decode(weight.row(*token as usize), row);
        }
        r
    }

    /// `x W^T + b`: (tokens, all outputs).
    pub fn apply(&self, x: &Rows) -> Rows {
        let (tokens, n) = (x.rows(), self.outputs);
        debug_assert_eq!(x.cols, self.inputs());
        let mut y = Rows::zeros(tokens, n);
        if tokens == 0 {
            return y;
        }
        let out = SharedColumns { data: y.data.as_mut_ptr(), stride: n };
        self.panels.par_iter().for_each_init(Vec::new, |scratch, panel| {
            let w = decoded(&self.maps[panel.map].weight, panel.first, panel.count, scratch);
            if tokens <= FEW {
                dot_panel(x, w, panel, &out);
            } else {
                gemm_panel(x, w, panel, &out);
            }
        });
        let mut column = 0;
        for map in &self.maps {
            if let Some(bias) = &map.bias {
                for row in y.data.chunks_exact_mut(n) {
                    row[column..][..bias.len()].iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            }
            column += map.weight.rows();
        }
        y
    }
}

/// A panel's outputs, a dot product each.
fn dot_panel(x: &Rows, w: &[f32], panel: &Panel, out: &SharedColumns) {
    for (i, w) in w.chunks_exact(x.cols).enumerate() {
        for t in 0..x.rows() {
            // SAFETY: the column belongs to this panel alone, and t is a row of the output.
            unsafe { *out.at(t, panel.column + i) = dot(x.row(t), w) };
        }
    }
}

/// The same as one GEMM.
fn gemm_panel(x: &Rows, w: &[f32], panel: &Panel, out: &SharedColumns) {
    let (tokens, k) = (x.rows(), x.cols);
    let (x, w) = (Matrix::new(&x.data, k), Matrix::new(w, k).transposed());
    // SAFETY: the output columns of this panel belong to it alone, in all rows, inside the output.
    unsafe { product_into(out.at(0, panel.column), out.stride, x, w, [tokens, panel.count, k]) };
}

/// Rows `first .. first + count` of W as float32: the stored ones where they are that already, else decoded.
fn decoded<'s>(weight: &'s Tensor<'_>, first: usize, count: usize, scratch: &'s mut Vec<f32>) -> &'s [f32] {
    let (k, row_bytes) = (weight.cols(), weight.row_bytes());
    let bytes = &weight.bytes[first * row_bytes..][..count * row_bytes];
    if weight.format == Format::F32
        && let Ok(floats) = bytemuck::try_cast_slice(bytes)
    {
        return floats;
    }
    scratch.resize(count * k, 0.0);
    weight.format.decode(bytes, &mut scratch[..count * k]);
    &scratch[..count * k]
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
