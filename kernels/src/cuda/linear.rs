//! `y = x W^T + b`. Weights stay in their format: a few tokens read them as they are, more have them decoded in front of a
//! matrix product.

use super::device::Launch;
use super::elementwise::{self, View};
use super::gemv::{self, Convolution};
use super::memory::Block;
use super::rows::{Kind, Rows, Vector};
use super::{Cuda, Place, norm};
use crate::Result;
use crate::backend::{Map, Mode, NormWeights};
use tamborim_quant::{Format, Tensor};

/// Matrices with the same input, one under the other.
pub struct Linear {
    /// In order of outputs.
    pub runs: Vec<Run>,
    /// Inputs.
    pub inputs: usize,
    /// Outputs of all.
    pub outputs: usize,
}

/// Rows of one format, whichever matrix they come from.
pub struct Run {
    /// As on the device.
    pub format: Format,
    /// Rows.
    pub rows: usize,
    /// Numbers in a row.
    pub cols: usize,
    /// From row to row of plain numbers, which begin at multiples of 16 bytes; `cols` for quantized ones.
    pub stride: usize,
    /// Output that the first row gives.
    pub first: usize,
    /// As the files of `kernels/cuda/` want them.
    pub weights: Block,
    /// Per row.
    pub bias: Option<Vector>,
    /// Rows of two matrices take turns; their outputs do not.
    pub interleaved: bool,
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub enum Into<'r> {
    /// Here.
    Store(&'r Rows),
    /// Added to what is here, which is float32.
    Add(&'r Rows),
}

impl<'r> Into<'r> {
    /// The matrix.
    pub fn rows(self) -> &'r Rows {
        match self {
            Into::Store(y) | Into::Add(y) => y,
        }
    }

    fn columns(self, y: &'r Rows) -> Into<'r> {
        match self {
            Into::Store(_) => Into::Store(y),
            Into::Add(_) => Into::Add(y),
        }
    }
}

/// Stacks a gate and what it gates. Quantized ones interleave their rows, so that the kernels for few tokens have both
/// rows of an output at hand.
pub fn load_gated(cuda: &Cuda, gate: Map<'_>, up: Map<'_>) -> Result<Linear> {
    let format = gate.weight.format;
    let alike = up.weight.format == format && up.weight.rows() == gate.weight.rows();
    if !alike || !format.is_quantized() || gate.bias.is_some() || up.bias.is_some() {
        return load(cuda, vec![gate, up]);
    }
    let (half, cols) = (gate.weight.rows(), gate.weight.cols());
    let weights = gemv::repack(cuda, format, &[gate.weight, up.weight], true)?;
    let rows = 2 * half;
    let run = Run { format, rows, cols, stride: cols, first: 0, weights, bias: None, interleaved: true };
    Ok(Linear { runs: vec![run], inputs: cols, outputs: rows })
}

/// Stacks maps; neighbours of one format become one run.
pub fn load(cuda: &Cuda, maps: Vec<Map<'_>>) -> Result<Linear> {
    let inputs = maps[0].weight.cols();
    let mut groups: Vec<(Format, Vec<Map<'_>>)> = Vec::new();
    for map in maps {
        let format = device_format(cuda.mode, map.weight.format);
        match groups.last_mut() {
            Some((last, group)) if *last == format => group.push(map),
            _ => groups.push((format, vec![map])),
        }
    }
    let (mut runs, mut first) = (Vec::new(), 0);
    for (format, maps) in groups {
        let rows = maps.iter().map(|m| m.weight.rows()).sum();
        let bias = match maps.iter().any(|m| m.bias.is_some()) {
            false => None,
            true => {
                let per_map = |m: &Map<'_>| m.bias.clone().unwrap_or_else(|| vec![0.0; m.weight.rows()]);
                Some(Vector::new(&cuda.device, &maps.iter().flat_map(per_map).collect::<Vec<_>>())?)
            }
        };
        let weights: Vec<Tensor<'_>> = maps.into_iter().map(|m| m.weight).collect();
        let (weights, stride) = upload(cuda, format, &weights)?;
        runs.push(Run { format, rows, cols: inputs, stride, first, weights, bias, interleaved: false });
        first += rows;
    }
    Ok(Linear { runs, inputs, outputs: first })
}

/// Fast mode multiplies bfloat16: wider plain numbers are rounded once, at the start.
fn device_format(mode: Mode, format: Format) -> Format {
    match (mode, format) {
        (Mode::Fast, Format::F32 | Format::F16) => Format::Bf16,
        (_, format) => format,
    }
}

/// Takes rows along, and their distance.
fn upload(cuda: &Cuda, format: Format, tensors: &[Tensor<'_>]) -> Result<(Block, usize)> {
    let cols = tensors[0].cols();
    if format.is_quantized() {
        return Ok((gemv::repack(cuda, format, tensors, false)?, cols));
    }
    let bytes = if format == Format::F32 { 4 } else { 2 };
    let stride = cols.next_multiple_of(16 / bytes);
    let rows: usize = tensors.iter().map(Tensor::rows).sum();
    let mut padded = vec![0u8; rows * stride * bytes];
    let mut to = padded.chunks_exact_mut(stride * bytes);
    for tensor in tensors {
        let converted = tensor.recode(format, None).map_err(|e| crate::Error::Source(e.into()))?;
        // Rows first: `zip` takes from its left side before it finds the right one empty.
        for (row, to) in converted.bytes.chunks_exact(cols * bytes).zip(to.by_ref()) {
            to[..row.len()].copy_from_slice(row);
        }
    }
    let block = cuda.device.take(padded.len())?;
    cuda.device.upload(&block, &padded)?;
    Ok((block, stride))
}

/// `norm(x) W^T + b`, or without a norm.
pub fn apply(cuda: &Cuda, w: &Linear, norm: Option<&NormWeights<Vector>>, x: &Rows) -> Result<Rows> {
    let y = cuda.new_rows(x.rows, w.outputs)?;
    product(cuda, w, norm, x, Into::Store(&y))?;
    Ok(y)
}

/// `x W^T + b` into `y`.
pub fn store(cuda: &Cuda, w: &Linear, x: &Rows, y: &Rows) -> Result<()> {
    product(cuda, w, None, x, Into::Store(y))
}

/// `norm(r) W^T + b` in float32.
pub fn logits(cuda: &Cuda, w: &Linear, norm: &NormWeights<Vector>, r: &Rows) -> Result<Rows> {
    let y = Rows::new(&cuda.device, r.rows, w.outputs, Kind::F32)?;
    product(cuda, w, Some(norm), r, Into::Store(&y))?;
    Ok(y)
}

/// `r += x W^T + b`.
pub fn add(cuda: &Cuda, w: &Linear, x: &Rows, r: &Rows) -> Result<()> {
    product(cuda, w, None, x, Into::Add(r))
}

/// `silu(gate) * up`.
pub fn gated(cuda: &Cuda, w: &Linear, norm: &NormWeights<Vector>, r: &Rows) -> Result<Rows> {
    if let [run] = w.runs.as_slice() {
        let y = cuda.new_rows(r.rows, w.outputs / 2)?;
        if gemv::gated(cuda, run, norm, r, &y)? {
            return Ok(y);
        }
    }
    elementwise::gated_halves(cuda, &apply(cuda, w, Some(norm), r)?)
}

/// [`Backend::project_conv`](crate::Backend::project_conv).
pub fn convolved(
    cuda: &Cuda,
    w: &Linear,
    norm: &NormWeights<Vector>,
    r: &Rows,
    conv: Convolution<'_>,
) -> Result<(Rows, Rows)> {
    let channels = conv.channels;
    if let [run] = w.runs.as_slice() {
        let y = cuda.new_rows(r.rows, w.outputs)?;
        if gemv::convolved(cuda, run, norm, r, conv, &y)? {
            return Ok((y.columns(0..channels), y.columns(channels..w.outputs)));
        }
    }
    let y = apply(cuda, w, Some(norm), r)?;
    let x = super::conv::apply(cuda, conv.weights, &y.columns(0..channels), conv.past)?;
    Ok((x, y.columns(channels..w.outputs)))
}

fn product(cuda: &Cuda, w: &Linear, norm: Option<&NormWeights<Vector>>, x: &Rows, into: Into<'_>) -> Result<()> {
    let few = w.runs.iter().all(|run| gemv::takes(cuda, x.rows, run));
    let normed = match norm {
        Some(norm) if !few => Some(norm::apply(cuda, norm, x)?),
        _ => None,
    };
    for run in &w.runs {
        let columns = into.rows().columns(run.first..run.first + run.rows);
        let into = into.columns(&columns);
        match few {
            true => gemv::product(cuda, run, norm, x, into)?,
            false => gemm(cuda, run, normed.as_ref().unwrap_or(x), into)?,
        }
    }
    Ok(())
}

/// A matrix product with weights that are decoded first, where they are quantized.
fn gemm(cuda: &Cuda, run: &Run, x: &Rows, into: Into<'_>) -> Result<()> {
    if x.kind != cuda.kind() {
        return gemm(cuda, run, &elementwise::copied(cuda, x, cuda.kind())?, into);
    }
    let ready =
        run.format == Format::F32 && cuda.mode == Mode::Exact || run.format == Format::Bf16 && cuda.mode == Mode::Fast;
    let decoded = match ready {
        true => None,
        false => Some(gemv::decoded(cuda, run)?),
    };
    let (w, stride) = match &decoded {
        None => (run.weights.ptr, run.stride),
        Some(rows) => (rows.ptr(), rows.stride),
    };
    match &cuda.blas {
        Some(blas) => {
            let y = into.rows();
            let accumulate = match (into, &run.bias) {
                (Into::Add(r), Some(bias)) => {
                    elementwise::map(cuda, "add_f32", &[View::of(r), View::repeated(bias.ptr())], r.rows, r.cols)?;
                    true
                }
                (Into::Add(_), None) => true,
                (Into::Store(y), Some(bias)) => {
                    let name = if y.kind == Kind::F32 { "copy_f32" } else { "f32_to_bf16" };
                    elementwise::map(cuda, name, &[View::repeated(bias.ptr()), View::of(y)], y.rows, y.cols)?;
                    true
                }
                (Into::Store(_), None) => false,
            };
            Ok(blas.product(x, w, stride, y, accumulate)?)
        }
        None => own_gemm(cuda, run, x, (w, stride), into),
    }
}

/// The kernels of `gemm_f32.cu` and `gemm_bf16.cu`.
fn own_gemm(cuda: &Cuda, run: &Run, x: &Rows, (w, stride): (u64, usize), into: Into<'_>) -> Result<()> {
    struct Tile {
        name: &'static str,
        rows: usize,
        cols: usize,
        block: usize,
        shared: usize,
    }
    const fn tile(name: &'static str, rows: usize, cols: usize, block: usize, shared: usize) -> Tile {
        Tile { name, rows, cols, block, shared }
    }
    const F32: [Tile; 3] = [
        tile("128x128", 128, 128, 128, 98_304),
        tile("64x64", 64, 64, 128, 49_152),
        tile("16x32", 16, 32, 256, 51_200),
    ];
    const BF16: [Tile; 3] =
        [tile("128x128", 128, 128, 128, 98_304), tile("64x64", 64, 64, 128, 65_536), tile("32x32", 32, 32, 64, 65_536)];
    let y = into.rows();
    let (file, tiles, prefix) = match (x.kind, y.kind) {
        (Kind::F32, _) => ("gemm_f32", &F32[..], "gemm_f32"),
        (Kind::Bf16, Kind::F32) => ("gemm_bf16", &BF16[..], "gemm_bf16_to_f32"),
        (Kind::Bf16, Kind::Bf16) => ("gemm_bf16", &BF16[..], "gemm_bf16_to_bf16"),
    };
    // All tiles sum in the same order, so the choice is about speed alone: the largest that still fills the chip.
    let grid = |t: &Tile| [x.rows.div_ceil(t.rows), run.rows.div_ceil(t.cols), 1];
    let fills = |t: &&Tile| grid(t)[0] * grid(t)[1] >= cuda.device.multiprocessors && x.rows * 2 > t.rows;
    let Some(best) = tiles.iter().find(fills).or(tiles.last()) else { return Ok(()) };
    cuda.device.launch(
        file,
        &format!("{prefix}_{}", best.name),
        Launch::grid(grid(best), best.block).shared(best.shared),
        &[
            &x.ptr(),
            &(x.stride as i64),
            &w,
            &(stride as i64),
            &run.bias.as_ref().map_or(0, Vector::ptr),
            &y.ptr(),
            &(y.stride as i64),
            &(x.rows as i32),
            &(run.rows as i32),
            &(run.cols as i32),
            &i32::from(matches!(into, Into::Add(_))),
        ],
    )?;
    Ok(())
}

/// Rows of the first matrix by the chunk's tokens.
pub fn embed(cuda: &Cuda, table: &Linear, place: &Place) -> Result<Rows> {
    let r = Rows::new(&cuda.device, place.count, table.inputs, Kind::F32)?;
    gemv::embed(cuda, &table.runs[0], place, &r)?;
    Ok(r)
}
