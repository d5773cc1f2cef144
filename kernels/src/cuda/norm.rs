//! Norms.

use super::device::Launch;
use super::rows::{Kind, Vector};
use super::{Cuda, Rows};
use crate::Result;
use crate::backend::NormWeights;
use tamborim_model::NormKind;

/// Every row normalized: float32 rows to activations.
pub fn apply(cuda: &Cuda, norm: &NormWeights<Vector>, x: &Rows) -> Result<Rows> {
    if x.kind != Kind::F32 {
        return apply(cuda, norm, &super::elementwise::copied(cuda, x, Kind::F32)?);
    }
    let out = cuda.new_rows(x.rows, x.cols)?;
    let how = Launch::blocks(x.rows, (x.cols / 12).next_multiple_of(32).clamp(32, 256));
    let (weight, eps, cols) = (norm.weight.ptr(), norm.norm.eps, x.cols as i32);
    let (x_stride, out_stride) = (x.stride as i64, out.stride as i64);
    match norm.norm.kind {
        NormKind::Rms => cuda.device.launch(
            "norm",
            &format!("rms_norm_{}", out.kind.suffix()),
            how,
            &[&x.ptr(), &x_stride, &weight, &eps, &out.ptr(), &out_stride, &cols],
        )?,
        NormKind::Layer => {
            let bias = norm.bias.as_ref().map_or(0, |b| b.ptr());
            cuda.device.launch(
                "norm",
                &format!("layer_norm_{}", out.kind.suffix()),
                how,
                &[&x.ptr(), &x_stride, &weight, &bias, &eps, &out.ptr(), &out_stride, &cols],
            )?;
        }
    }
    Ok(out)
}

/// RMSNorm of every head, times `silu(gate)`.
pub fn gated(cuda: &Cuda, norm: &NormWeights<Vector>, o: &Rows, gate: &Rows) -> Result<Rows> {
    let out = cuda.new_rows(o.rows, o.cols)?;
    let values = norm.weight.len;
    let heads = o.cols / values;
    cuda.device.launch(
        "norm",
        &format!("gated_head_norm_{}", out.kind.suffix()),
        Launch::blocks((o.rows * heads).div_ceil(8), 256),
        &[
            &o.ptr(),
            &(o.stride as i64),
            &gate.ptr(),
            &(gate.stride as i64),
            &norm.weight.ptr(),
            &norm.norm.eps,
            &out.ptr(),
            &(out.stride as i64),
            &(o.rows as i32),
            &(heads as i32),
            &(values as i32),
        ],
    )?;
    Ok(out)
}
