//! RMSNorm with weights for each head, and of what is added to the residual stream.

use super::Cuda;
use super::device::Launch;
use super::rows::{Rows, Vector};
use crate::Result;
use crate::backend::NormWeights;

/// [`Backend::norm_heads`](crate::Backend::norm_heads).
pub fn heads(cuda: &Cuda, norm: &NormWeights<Vector>, head_dim: usize, x: &Rows) -> Result<Rows> {
    let out = cuda.new_rows(x.rows, x.cols)?;
    cuda.device.launch(
        "head_norm",
        &format!("head_norm_{}", out.kind.suffix()),
        Launch::blocks((x.rows * x.cols.div_ceil(head_dim)).div_ceil(8), 256).overlapping(),
        &[
            &x.ptr(),
            &(x.stride as i64),
            &norm.weight.ptr(),
            &norm.norm.eps,
            &out.ptr(),
            &(out.stride as i64),
            &(x.rows as i32),
            &(x.cols as i32),
            &(norm.weight.len as i32),
            &(head_dim as i32),
        ],
    )?;
    Ok(out)
}

/// [`Backend::add_normed`](crate::Backend::add_normed).
pub fn add(cuda: &Cuda, norm: &NormWeights<Vector>, y: &Rows, r: &Rows) -> Result<()> {
    Ok(cuda.device.launch(
        "head_norm",
        &format!("norm_add_{}", y.kind.suffix()),
        Launch::blocks(y.rows, 256).overlapping(),
        &[
            &y.ptr(),
            &(y.stride as i64),
            &norm.weight.ptr(),
            &norm.norm.eps,
            &r.ptr(),
            &(r.stride as i64),
            &(y.cols as i32),
        ],
    )?)
}
