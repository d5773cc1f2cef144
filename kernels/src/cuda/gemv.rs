//! Weights as they are stored: their form on the GPU, rows of them decoded, and products with a few tokens.

use super::device::Launch;
use super::linear::{Into, Run};
use super::memory::Block;
use super::rows::{Kind, Rows, Vector};
use super::{Cuda, Place};
use crate::Result;
use crate::backend::{Mode, NormWeights};
use tamborim_model::NormKind;
use tamborim_quant::{Format, Tensor};

/// Weights of a unit, and units of an octet: see `kernels/cuda/formats.cuh`.
const UNIT: usize = 32;
const OCTET: usize = 8;
/// Stages of a warp's ring of weights, and rows that a lane takes at once, as `gemv.cu` is compiled.
const STAGES: usize = 4;
const ROWS_OF_ONE: usize = 4;
const ROWS_OF_MANY: usize = 2;
/// Bytes of a file's blocks that are repacked at a time.
const STAGING: usize = 32 << 20;

/// Bytes that a unit's codes take on the GPU, and what an octet has beside them.
fn plane_bytes(format: Format) -> (usize, usize) {
    match format {
        Format::Q8_0 => (32, 16),
        Format::Q4_0 | Format::Iq4Nl | Format::Q4K => (16, 16),
        Format::Q4_1 => (16, 32),
        Format::Q5_0 | Format::Q5K => (16, 48),
        Format::Q6K => (16, 84),
        Format::Iq4Xs => (16, 8),
        _ => unreachable!("{format} is not repacked"),
    }
}

/// Stacks quantized matrices in the form that the kernels read.
pub fn repack(cuda: &Cuda, format: Format, tensors: &[Tensor<'_>]) -> Result<Block> {
    let cols = tensors[0].cols();
    let rows: usize = tensors.iter().map(Tensor::rows).sum();
    let (codes, beside) = plane_bytes(format);
    let (units, octets) = (cols / UNIT, (cols / UNIT).div_ceil(OCTET));
    let packed = cuda.device.take(rows * (units * codes + octets * beside))?;
    let row_bytes = tensors[0].row_bytes();
    let rows_at_a_time = (STAGING / row_bytes).max(1);
    let staging = cuda.device.take(rows_at_a_time.min(rows) * row_bytes)?;
    let mut first = 0;
    for tensor in tensors {
        for blocks in tensor.bytes.chunks(rows_at_a_time * row_bytes) {
            cuda.device.upload(&staging, blocks)?;
            let count = blocks.len() / row_bytes;
            cuda.device.launch(
                "repack",
                &format!("repack_{}", format.name()),
                Launch::threads(count * octets * OCTET, 256),
                &[&staging.ptr, &(rows as i32), &(cols as i32), &(first as i32), &(count as i32), &packed.ptr],
            )?;
            first += count;
        }
    }
    Ok(packed)
}

/// Rows and columns of the launches of `dequantize.cu`.
fn decode_launch(rows: usize, cols: usize) -> Launch {
    Launch::grid([rows.div_ceil(8), cols.div_ceil(1024), 1], 256)
}

/// All rows as plain numbers of the mode: (rows, cols).
pub fn decoded(cuda: &Cuda, run: &Run) -> Result<Rows> {
    let out = cuda.new_rows(run.rows, run.cols)?;
    cuda.device.launch(
        "dequantize",
        &format!("dequantize_{}_{}", run.format.name(), out.kind.suffix()),
        decode_launch(run.rows, run.cols),
        &[
            &run.weights.ptr,
            &(run.rows as i32),
            &(run.cols as i32),
            &(run.stride as i32),
            &0i32,
            &(run.rows as i32),
            &out.ptr(),
        ],
    )?;
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

/// How `gemv.cu` and `gemv_quantized.cu` are launched for a run.
struct Plan {
    /// Tokens that the kernel takes.
    tokens: usize,
    /// Which numbers meet the weights, for quantized ones.
    flavour: &'static str,
    threads: usize,
    blocks: usize,
    shared: usize,
}

impl Plan {
    /// For up to `tokens` tokens; `None` if there is no such kernel, or no room for its activations. `gated`: rows come in
    /// pairs.
    fn new(cuda: &Cuda, tokens: usize, run: &Run, gated: bool) -> Option<Plan> {
        let quantized = run.format.is_quantized();
        let flavour = match (quantized, cuda.mode) {
            (false, _) => "",
            (true, Mode::Exact) => "_exact",
            (true, Mode::Fast) => "_fast",
        };
        let kernels = if flavour == "_exact" { &[1, 4][..] } else { &[1, 4, 8][..] };
        let tokens = *kernels.iter().find(|m| tokens <= **m)?;
        // Weights of 16 bytes, bytes of their activations, bytes of a step of 32 lanes in one row.
        let (piece, x_bytes, step) = match run.format {
            Format::F32 => (4, 16, 512),
            Format::F16 | Format::Bf16 => (8, 32, 512),
            format => {
                let (codes, beside) = plane_bytes(format);
                (UNIT, if cuda.mode == Mode::Fast { 8 + UNIT } else { 4 * UNIT }, 32 * codes + 4 * beside)
            }
        };
        let pieces = run.cols.div_ceil(piece);
        let rows = if tokens == 1 { ROWS_OF_ONE } else { ROWS_OF_MANY };
        let stage = (rows * step).next_multiple_of(16);
        let idle = |lanes: usize| pieces.next_multiple_of(lanes);
        let lanes = if idle(8) < idle(16) {
            8
        } else if idle(16) < idle(32) {
            16
        } else {
            32
        };
        let group = 32 / lanes * rows;
        let outputs = if gated { run.rows / 2 } else { run.rows };
        let blocks = cuda.device.multiprocessors.min(outputs.max(1));
        let capacity = (outputs / blocks + 1) * if gated { 2 } else { 1 } + group;
        let shared = |threads: usize| {
            let warps = threads / 32;
            let beside = warps * tokens * group + warps + warps * tokens + (2 * tokens + 1) * capacity;
            warps * STAGES * stage + tokens * pieces * x_bytes + 4 * beside
        };
        let threads = [512, 384, 256, 128].into_iter().find(|t| shared(*t) <= cuda.device.max_shared)?;
        Some(Plan { tokens, flavour, threads, blocks, shared: shared(threads) })
    }

    fn launch(
        &self,
        cuda: &Cuda,
        run: &Run,
        norm: Option<&NormWeights<Cuda>>,
        x: &Rows,
        (y, y_kind): (&Rows, i32),
    ) -> Result<()> {
        // What x is, as gemv.cuh counts it.
        let (x_kind, weight, bias, eps) = match (norm, x.kind) {
            (None, Kind::F32) => (0, 0, 0, 0.0),
            (None, Kind::Bf16) => (1, 0, 0, 0.0),
            (Some(n), _) => {
                let kind = if n.norm.kind == NormKind::Rms { 2 } else { 3 };
                (kind, n.weight.ptr(), n.bias.as_ref().map_or(0, Vector::ptr), n.norm.eps)
            }
        };
        let file = if run.format.is_quantized() { "gemv_quantized" } else { "gemv" };
        Ok(cuda.device.launch(
            file,
            &format!("gemv_{}{}_{}", run.format.name(), self.flavour, self.tokens),
            Launch::blocks(self.blocks, self.threads).shared(self.shared).overlapping(),
            &[
                &run.weights.ptr,
                &(run.rows as i32),
                &(run.cols as i32),
                &(run.stride as i32),
                &x.ptr(),
                &x_kind,
                &(x.stride as i32),
                &(x.rows as i32),
                &weight,
                &bias,
                &eps,
                &run.bias.as_ref().map_or(0, Vector::ptr),
                &y.ptr(),
                &y_kind,
                &(y.stride as i32),
            ],
        )?)
    }
}

/// Whether a product with that many tokens reads the weights as they are.
pub fn takes(cuda: &Cuda, tokens: usize, run: &Run, gated: bool) -> bool {
    Plan::new(cuda, tokens, run, gated).is_some()
}

/// The run's columns of a product; [`takes`] says whether there is a kernel for it.
pub fn product(cuda: &Cuda, run: &Run, norm: Option<&NormWeights<Cuda>>, x: &Rows, into: Into<'_>) -> Result<()> {
    let Some(plan) = Plan::new(cuda, x.rows, run, false) else { unreachable!("asked before") };
    let y_kind = match (into, into.rows().kind) {
        (Into::Store(_), Kind::F32) => 0,
        (Into::Store(_), Kind::Bf16) => 1,
        (Into::Add(_), _) => 2,
    };
    plan.launch(cuda, run, norm, x, (into.rows(), y_kind))
}

/// `silu(gate) * up` of a run whose upper half is the gate.
pub fn gated(cuda: &Cuda, run: &Run, norm: &NormWeights<Cuda>, x: &Rows, y: &Rows) -> Result<()> {
    let Some(plan) = Plan::new(cuda, x.rows, run, true) else { unreachable!("asked before") };
    plan.launch(cuda, run, Some(norm), x, (y, if y.kind == Kind::F32 { 3 } else { 4 }))
}
