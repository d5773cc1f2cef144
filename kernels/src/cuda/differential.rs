//! What differential attention has around softmax attention.

use super::Cuda;
use super::device::Launch;
use super::rows::{Rows, Vector};
use crate::Result;
use crate::backend::NormWeights;

/// [`Backend::spread_pairs`](crate::Backend::spread_pairs).
pub fn spread_pairs(cuda: &Cuda, heads: usize, head_dim: usize, x: &Rows) -> Result<Rows> {
    let out = cuda.new_rows(x.rows, x.cols + heads * head_dim)?;
    cuda.device.launch(
        "differential",
        &format!("spread_pairs_{}", out.kind.suffix()),
        Launch::grid([out.cols.div_ceil(1024), x.rows, 1], 256).overlapping(),
        &[
            &x.ptr(),
            &(x.stride as i64),
            &out.ptr(),
            &(out.stride as i64),
            &(heads as i32),
            &(head_dim as i32),
            &((x.cols - heads * head_dim) as i32),
        ],
    )?;
    Ok(out)
}

/// [`Backend::differential_norm`](crate::Backend::differential_norm).
pub fn norm(cuda: &Cuda, norm: &NormWeights<Vector>, lambda: f32, o: &Rows) -> Result<Rows> {
    let width = norm.weight.len;
    let pairs = o.cols / (2 * width);
    let out = cuda.new_rows(o.rows, pairs * width)?;
    cuda.device.launch(
        "differential",
        &format!("differential_norm_{}", out.kind.suffix()),
        Launch::blocks((o.rows * pairs).div_ceil(8), 256).overlapping(),
        &[
            &o.ptr(),
            &(o.stride as i64),
            &lambda,
            &norm.weight.ptr(),
            &norm.norm.eps,
            &out.ptr(),
            &(out.stride as i64),
            &(o.rows as i32),
            &(pairs as i32),
            &(width as i32),
        ],
    )?;
    Ok(out)
}
