//! Weights as they are stored: their form on the GPU, rows of them decoded, and products with a few tokens.

use super::device::{Argument, Launch};
use super::linear::{Into, Run};
use super::memory::Block;
use super::rows::{Kind, Rows, Vector};
use super::{Cuda, Place};
use crate::Result;
use crate::backend::{Mode, NormWeights};
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
        // Plain numbers of one row.
        _ => 512,
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
    n: i32,
    k: i32,
    stride: i32,
    x_kind: i32,
    x_stride: i32,
    tokens: i32,
    y_kind: i32,
    y_stride: i32,
    eps: f32,
    each: i32,
    more: i32,
    inverse_tiles: f32,
}

impl Argument for Gemv {}

/// Stages of a warp's ring of weights, and tiles of a stage.
const STAGES: usize = 5;
const TILES: usize = 1;

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
    /// For up to `tokens` tokens; `None` if there is no such kernel, or no room for its activations. `gated`: an output takes
    /// two rows.
    fn new(cuda: &Cuda, tokens: usize, run: &Run, gated: bool) -> Option<Kernel> {
        let fast = cuda.mode == Mode::Fast;
        let (file, flavour, sizes) = match (run.format.is_quantized(), fast) {
            (false, _) => ("gemv", "", &[1, 4, 8][..]),
            (true, false) => ("gemv_quantized", "_exact", &[1, 4][..]),
            (true, true) => ("gemv_quantized", "_fast", &[1, 4, 8][..]),
        };
        let tokens = *sizes.iter().find(|m| tokens <= **m)?;
        // Columns of a tile, rows that are worked on together, bytes of a tile's activations.
        let (columns, rows, x_bytes) = match run.format {
            Format::F32 => (128, 1, 512),
            Format::F16 | Format::Bf16 => (256, 1, 1024),
            _ if !fast => (TILE_COLUMNS, TILE_ROWS, 1024),
            Format::Q4_1 | Format::Q4K | Format::Q5K => (TILE_COLUMNS, TILE_ROWS, 320),
            _ => (TILE_COLUMNS, TILE_ROWS, 288),
        };
        let tiles = run.cols.div_ceil(columns);
        let units = match (rows, gated) {
            (1, true) => run.rows / 2,
            (rows, _) => run.rows.div_ceil(rows),
        };
        let blocks = cuda.device.multiprocessors.min(units).max(1);
        let (each, more) = (units / blocks, units % blocks);
        // The kernels count a block's tiles in 20 bits.
        if (each + 1) * tiles >= 1 << 20 {
            return None;
        }
        let capacity = (each + 1) * if rows == 1 && gated { 2 } else { rows };
        let shared = |threads: usize| {
            let warps = threads / 32;
            let sums =
                warps + 1 + warps * tokens + warps * tokens * rows + (2 * tokens + 1) * capacity + capacity / rows;
            warps * STAGES * TILES * tile_bytes(run.format) + tokens * tiles * x_bytes + 4 * sums
        };
        let threads = [512, 256, 128].into_iter().find(|t| shared(*t) <= cuda.device.max_shared)?;
        let launch = Launch::blocks(blocks, threads).shared(shared(threads)).overlapping();
        Some(Kernel { file, name: format!("gemv_{}{flavour}_{tokens}", run.format.name()), launch, each, more, tiles })
    }

    fn run(
        &self,
        cuda: &Cuda,
        run: &Run,
        norm: Option<&NormWeights<Vector>>,
        x: &Rows,
        y: &Rows,
        y_kind: i32,
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
            n: run.rows as i32,
            k: run.cols as i32,
            stride: run.stride as i32,
            x_kind,
            x_stride: x.stride as i32,
            tokens: x.rows as i32,
            y_kind,
            y_stride: y.stride as i32,
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
    !run.interleaved && Kernel::new(cuda, tokens, run, false).is_some()
}

/// The run's columns of a product; [`takes`] says whether there is a kernel for it.
pub fn product(cuda: &Cuda, run: &Run, norm: Option<&NormWeights<Vector>>, x: &Rows, into: Into<'_>) -> Result<()> {
    let Some(kernel) = Kernel::new(cuda, x.rows, run, false) else { unreachable!("asked before") };
    let y_kind = match (into, into.rows().kind) {
        (Into::Store(_), Kind::F32) => 0,
        (Into::Store(_), Kind::Bf16) => 1,
        (Into::Add(_), _) => 2,
    };
    kernel.run(cuda, run, norm, x, into.rows(), y_kind)
}

/// `silu(gate) * up` of `norm(x)` into `y`, where there is a kernel for it: the upper half of a run of plain numbers is the
/// gate, every other row of a quantized one. Whether there was.
pub fn gated(cuda: &Cuda, run: &Run, norm: &NormWeights<Vector>, x: &Rows, y: &Rows) -> Result<bool> {
    if run.interleaved != run.format.is_quantized() {
        return Ok(false);
    }
    let Some(kernel) = Kernel::new(cuda, x.rows, run, true) else { return Ok(false) };
    kernel.run(cuda, run, Some(norm), x, y, if y.kind == Kind::F32 { 3 } else { 4 })?;
    Ok(true)
}
