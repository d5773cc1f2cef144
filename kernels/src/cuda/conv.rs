//! Depthwise causal convolution over time, SiLU after it.

use super::device::Launch;
use super::rows::{Rows, Vector};
use super::{Cuda, DeviceError};
use crate::Result;
use crate::backend::Conv;

/// Taps that the kernels take.
const MAX_WIDTH: usize = 8;
/// Channels of a block and its threads, see `cuda/conv1d.cu`.
const CHANNELS_OF_BLOCK: usize = 256;
const THREADS: usize = 64;
/// Blocks that share a text evenly, for each multiprocessor: all of these are there together.
const BLOCKS_PER_MULTIPROCESSOR: usize = 8;
/// Tokens of each of these, at least, since it reads some of the tokens before, and at most.
const RUN: std::ops::RangeInclusive<usize> = 16..=128;
/// Tokens of a block where that would be too few blocks: the best found.
const RUN_OF_MANY: usize = 32;

/// [`Backend::conv`](crate::Backend::conv); `past` is float32 in every mode.
pub fn apply(cuda: &Cuda, conv: &Conv<Vector>, x: &Rows, past: &Vector) -> Result<Rows> {
    if conv.width > MAX_WIDTH {
        let (limit, found) = (MAX_WIDTH, conv.width);
        return Err(DeviceError::Unsupported { what: "taps of a convolution", limit, found }.into());
    }
    let out = cuda.new_rows(x.rows, x.cols)?;
    let kernel = if conv.width <= 4 { "conv1d" } else { "conv1d_wide" };
    let across = x.cols.div_ceil(CHANNELS_OF_BLOCK).max(1);
    let resident = BLOCKS_PER_MULTIPROCESSOR * cuda.device.multiprocessors / across;
    let runs =
        if x.rows > resident * RUN.end() { x.rows.div_ceil(RUN_OF_MANY) } else { resident.min(x.rows / RUN.start()) };
    cuda.device.launch(
        "conv1d",
        &format!("{kernel}_{}", x.kind.suffix()),
        Launch::grid([across, runs.max(1), 1], THREADS).overlapping(),
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
