//! Depthwise causal convolution over time, SiLU after it.

use super::device::Launch;
use super::rows::{Rows, Vector};
use super::{Cuda, DeviceError};
use crate::Result;
use crate::backend::Conv;

/// Taps that the kernels take.
const MAX_WIDTH: usize = 8;

/// Tokens that a thread works through; the best found at 4608 channels.
const RUN: usize = 50;

/// [`Backend::conv`](crate::Backend::conv); `past` is float32 in every mode.
pub fn apply(cuda: &Cuda, conv: &Conv<Vector>, x: &Rows, past: &Vector) -> Result<Rows> {
    if conv.width > MAX_WIDTH {
        let (limit, found) = (MAX_WIDTH, conv.width);
        return Err(DeviceError::Unsupported { what: "taps of a convolution", limit, found }.into());
    }
    let out = cuda.new_rows(x.rows, x.cols)?;
    let kernel = if conv.width <= 4 { "conv1d" } else { "conv1d_wide" };
    cuda.device.launch(
        "conv1d",
        &format!("{kernel}_{}", x.kind.suffix()),
        Launch::grid([x.cols.div_ceil(256), x.rows.div_ceil(RUN), 1], 64).overlapping(),
        &[
            &x.ptr(),
            &(x.stride as i32),
            &conv.taps.ptr(),
            &conv.bias.as_ref().map_or(0, Vector::ptr),
            &past.ptr(),
            &out.ptr(),
            &(x.rows as i32),
            &(x.cols as i32),
            &(conv.width as i32),
        ],
    )?;
    Ok(out)
}
