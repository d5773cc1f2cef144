//! Weights as they are stored: their form on the GPU, rows of them decoded, and products with a few tokens.

use super::device::{Argument, Launch};
use super::linear::{Into, Run};
use super::memory::Block;
use super::rows::{Kind, Rows, Vector};
use super::{Cuda, Place};
use crate::Result;
use crate::backend::{Conv, Mode, NormWeights};
use tamborim_model::NormKind;
use tamborim_quant::{Format, Tensor};

/// Rows and columns of a tile of quantized weights: see `kernels/cuda/formats.cuh`.
const TILE_ROWS: usize = 4;
const TILE_COLUMNS: usize = 256;
/// Bytes of a file's blocks that are repacked at a time.
const STAGING: usize = 32 << 20;

/// Bytes of a tile, as `formats.cuh` has them.
fn tile_bytes(format: Format) -> usize {
    match format {
        Format::Q8_0 => 1088,
        Format::Q4_0 | Format::Iq4Nl | Format::Q4K => 576,
        Format::Q4_1 => 640,
        Format::Q5_0 | Format::Q5K => 704,
        Format::Q6K => 848,
        Format::Iq4Xs => 544,
        // Plain numbers of two rows.
        _ => 1024,
    }
}

/// Stacks quantized matrices in the form that the kernels read, or interleaves the rows of two.
pub fn repack(cuda: &Cuda, format: Format, tensors: &[Tensor<'_>], interleaved: bool) -> Result<Block> {
    let cols = tensors[0].cols();
    let rows: usize = tensors.iter().map(Tensor::rows).sum();
    let octets = cols.div_ceil(TILE_COLUMNS);
    let packed = cuda.device.take(rows.div_ceil(TILE_ROWS) * octets * tile_bytes(format))?;
    let row_bytes = tensors[0].row_bytes();
    let rows_at_a_time = (STAGING / row_bytes).max(1);
    let staging = cuda.device.take(rows_at_a_time.min(rows) * row_bytes)?;
    let step = if interleaved { tensors.len() } else { 1 };
    let mut first = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        if interleaved {
            first = i;
        }
        for blocks in tensor.bytes.chunks(rows_at_a_time * row_bytes) {
            cuda.device.upload(&staging, blocks)?;
            let count = blocks.len() / row_bytes;
            cuda.device.launch(
                "repack",
                &format!("repack_{}", format.name()),
                Launch::threads(count * octets * 8, 256),
                &[&staging.ptr, &(cols as i32), &(count as i32), &(first as i32), &(step as i32), &packed.ptr],
            )?;
            first += count * step;
        }
    }
    // Kernels that overlap the one before them read weights at once, without waiting for what was queued.
    cuda.device.synchronize()?;
    Ok(packed)
}

/// Rows and columns of the launches of `dequantize.cu`.
fn decode_launch(rows: usize, cols: usize) -> Launch {
    Launch::grid([rows.div_ceil(8), cols.div_ceil(1024), 1], 256)
}

/// All rows as plain numbers of the mode, in the order of outputs: (rows, cols).
pub fn decoded(cuda: &Cuda, run: &Run) -> Result<Rows> {
    let out = cuda.new_rows(run.rows, run.cols)?;
    let step = if run.interleaved { 2 } else { 1 };
    let count = run.rows / step;
    for first in 0..step {
        let part = out.rows(first * count..(first + 1) * count);
        cuda.device.launch(
            "dequantize",
            &format!("dequantize_{}_{}", run.format.name(), out.kind.suffix()),
            decode_launch(count, run.cols),
            &[
                &run.weights.ptr,
                &(run.cols as i32),
                &(run.stride as i32),
                &(first as i32),
                &(step as i32),
                &(count as i32),
                &part.ptr(),
            ],
        )?;
    }
    Ok(out)
}

/// Rows by the chunk's tokens, into `out`.
pub fn embed(cuda: &Cuda, run: &Run, place: &Place, out: &Rows) -> Result<()> {
    cuda.device.launch(
        "dequantize",
        &format!("embed_{}_f32", run.format.name()),
        decode_launch(out.rows, run.cols),
        &[
            &run.weights.ptr,
            &(run.rows as i32),
            &(run.cols as i32),
            &(run.stride as i32),
            &place.tokens(),
            &(out.rows as i32),
            &out.ptr(),
        ],
    )?;
    Ok(())
}

/// The argument of the kernels of `gemv.cu` and `gemv_quantized.cu`; `gemv.cu` says what is what.
#[repr(C)]
struct Gemv {
    w: u64,
    x: u64,
    norm_weight: u64,
    norm_bias: u64,
    bias: u64,
    y: u64,
    conv_taps: u64,
    conv_bias: u64,
    conv_past: u64,
    n: i32,
    k: i32,
    stride: i32,
    x_kind: i32,
    x_stride: i32,
    tokens: i32,
    y_kind: i32,
    y_stride: i32,
    conv_channels: i32,
    conv_width: i32,
    eps: f32,
    each: i32,
    more: i32,
    inverse_tiles: f32,
}

impl Argument for Gemv {}

/// Shared memory of a block, at least: more than half of what a multiprocessor has, so that blocks of one kernel are spread
/// evenly, one to each, even where another kernel's are still there.
const ALONE: usize = 116 << 10;

/// Bytes of a warp's ring: stages of a few tiles, each with room for a phase.
fn ring_bytes(format: Format) -> usize {
    let tile = tile_bytes(format);
    let (stages, tiles) = match format.is_quantized() {
        true => (2, if tile > 800 { 2 } else { 4 }),
        false => (8, 1),
    };
    stages * (tiles * tile + 16)
}

/// A causal convolution that the first `channels` outputs go through, continuing after `past`.
#[derive(Clone, Copy)]
pub struct Convolution<'r> {
    pub weights: &'r Conv<Vector>,
    pub past: &'r Vector,
    pub channels: usize,
}

/// Which kernel takes a run, and how it is launched.
struct Kernel {
    file: &'static str,
    name: String,
    launch: Launch,
    each: usize,
    more: usize,
    tiles: usize,
}

impl Kernel {
    /// For up to `tokens` tokens; `None` if there is no such kernel, or no room for its activations. `taps` of the convolution
    /// after it, 0 for none.
    fn new(cuda: &Cuda, tokens: usize, run: &Run, taps: usize) -> Option<Kernel> {
        let fast = cuda.mode == Mode::Fast;
        let (file, flavour, sizes) = match (run.format.is_quantized(), fast) {
            (false, _) => ("gemv", "", &[1, 4, 8][..]),
            (true, false) => ("gemv_quantized", "_exact", &[1, 4][..]),
            (true, true) => ("gemv_quantized", "_fast", &[1, 4, 8][..]),
        };
        let tokens = *sizes.iter().find(|m| tokens <= **m)?;
        // Columns of a tile, rows that are worked on together, bytes of a tile's activations.
        let (columns, rows, x_bytes) = match run.format {
            Format::F32 => (128, 2, 512),
            Format::F16 | Format::Bf16 => (256, 2, 1024),
            _ if !fast => (TILE_COLUMNS, TILE_ROWS, 1024),
            _ => (TILE_COLUMNS, TILE_ROWS, 384),
        };
        let tiles = run.cols.div_ceil(columns);
        let units = run.rows.div_ceil(rows);
        let blocks = cuda.device.multiprocessors.min(units).max(1);
        let (each, more) = (units / blocks, units % blocks);
        // The kernels count a block's tiles in 20 bits.
        if (each + 1) * tiles >= 1 << 20 {
            return None;
        }
        let capacity = (each + 1) * rows;
        let shared = |threads: usize| {
            let warps = threads / 32;
            let sums = warps * tokens * (1 + rows);
            let outputs = (2 * tokens + 1 + 2 * taps) * capacity;
            warps * ring_bytes(run.format) + tokens * tiles * x_bytes + 4 * (sums + outputs)
        };
        let threads = [512, 256, 128].into_iter().find(|t| shared(*t) <= cuda.device.max_shared)?;
        let alone = ALONE.min(cuda.device.max_shared);
        let launch = Launch::blocks(blocks, threads).shared(shared(threads).max(alone)).overlapping();
        Some(Kernel { file, name: format!("gemv_{}{flavour}_{tokens}", run.format.name()), launch, each, more, tiles })
    }

    fn run(
        &self,
        cuda: &Cuda,
        run: &Run,
        norm: Option<&NormWeights<Vector>>,
        [x, y]: [&Rows; 2],
        y_kind: i32,
        conv: Option<Convolution<'_>>,
    ) -> Result<()> {
        let x_kind = match (norm.map(|n| n.norm.kind), x.kind) {
            (None, Kind::F32) => 0,
            (None, Kind::Bf16) => 1,
            (Some(NormKind::Rms), _) => 2,
            (Some(NormKind::Layer), _) => 3,
        };
        let argument = Gemv {
            w: run.weights.ptr,
            x: x.ptr(),
            norm_weight: norm.map_or(0, |n| n.weight.ptr()),
            norm_bias: norm.and_then(|n| n.bias.as_ref()).map_or(0, Vector::ptr),
            bias: run.bias.as_ref().map_or(0, Vector::ptr),
            y: y.ptr(),
            conv_taps: conv.map_or(0, |c| c.weights.taps.ptr()),
            conv_bias: conv.and_then(|c| c.weights.bias.as_ref()).map_or(0, Vector::ptr),
            conv_past: conv.map_or(0, |c| c.past.ptr()),
            n: run.rows as i32,
            k: run.cols as i32,
            stride: run.stride as i32,
            x_kind,
            x_stride: x.stride as i32,
            tokens: x.rows as i32,
            y_kind,
            y_stride: y.stride as i32,
            conv_channels: conv.map_or(0, |c| c.channels as i32),
            conv_width: conv.map_or(0, |c| c.weights.width as i32),
            eps: norm.map_or(0.0, |n| n.norm.eps),
            each: self.each as i32,
            more: self.more as i32,
            inverse_tiles: 1.0 / self.tiles as f32,
        };
        Ok(cuda.device.launch(self.file, &self.name, self.launch, &[&argument])?)
    }
}

/// Whether a product with that many tokens reads the weights as they are.
pub fn takes(cuda: &Cuda, tokens: usize, run: &Run) -> bool {
    !run.interleaved && Kernel::new(cuda, tokens, run, 0).is_some()
}

/// The run's columns of a product; [`takes`] says whether there is a kernel for it.
pub fn product(cuda: &Cuda, run: &Run, norm: Option<&NormWeights<Vector>>, x: &Rows, into: Into<'_>) -> Result<()> {
    let Some(kernel) = Kernel::new(cuda, x.rows, run, 0) else { unreachable!("asked before") };
    let y_kind = match into {
        Into::Store(y) => stored(y),
        Into::Add(_) => 2,
    };
    kernel.run(cuda, run, norm, [x, into.rows()], y_kind, None)
}

/// What the kernels call an output of `y`'s numbers.
fn stored(y: &Rows) -> i32 {
    match y.kind {
        Kind::F32 => 0,
        Kind::Bf16 => 1,
    }
}

/// `silu(gate) * up` of `norm(x)` into `y`, where there is a kernel for it: the upper half of a run of plain numbers is the
/// gate, every other row of a quantized one. Whether there was.
pub fn gated(cuda: &Cuda, run: &Run, norm: &NormWeights<Vector>, x: &Rows, y: &Rows) -> Result<bool> {
    if run.interleaved != run.format.is_quantized() {
        return Ok(false);
    }
    let Some(kernel) = Kernel::new(cuda, x.rows, run, 0) else { return Ok(false) };
    kernel.run(cuda, run, Some(norm), [x, y], 3 + stored(y), None)?;
    Ok(true)
}

/// `norm(x) W^T + b` of one token into `y`, the first outputs through a convolution, where there is a kernel for it.
/// Whether there was.
pub fn convolved(
    cuda: &Cuda,
    run: &Run,
    norm: &NormWeights<Vector>,
    x: &Rows,
    conv: Convolution<'_>,
    y: &Rows,
) -> Result<bool> {
    if x.rows != 1 || run.interleaved {
        return Ok(false);
    }
    let Some(kernel) = Kernel::new(cuda, 1, run, conv.weights.width) else { return Ok(false) };
    kernel.run(cuda, run, Some(norm), [x, y], stored(y), Some(conv))?;
    Ok(true)
}
