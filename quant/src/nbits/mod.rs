//! Matrices of ONNX Runtime's MatMulNBits: integers of 4 or 8 bits in blocks of a row, with scales and zero points in
//! arrays of their own. Source: the operator's schema (`com.microsoft`, onnxruntime docs/ContribOperators.md) and
//! `MlasBlockwiseQuantizedBufferSizes` (mlas_q4.h).
//!
//! ```text
//! codes        u8 (rows, blocks, block_len * bits / 8)    4 bits: element 2j in the low nibble of byte j, 2j + 1 in the high
//! scales       float (rows, blocks)
//! zero points  u8 (rows, ceil(blocks * bits / 8))         4 bits: block 2j in the low nibble; without: 2^(bits - 1)
//!
//! x = (code - zero point) * scale                         blocks = ceil(cols / block_len), what is beyond cols is padding
//! ```

mod blocks;

use crate::calibrated::{self, Effort, Hessian};
use crate::format::normalize;
use crate::grid::Float;
use crate::simd::Level;
use crate::{Error, Format, Result, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::fmt;

/// A grid of MatMulNBits: what integers there are, and how many share a scale.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct NBits {
    bits: u8,
    block_len: usize,
    zero_points: bool,
    scales: Format,
}

impl NBits {
    /// Integers of `bits` (4 or 8) in blocks of `block_len` (16, 32, 64 or 128), with or without zero points; scales are
    /// stored as `scales`, a float.
    ///
    /// # Errors
    /// [`Error::NBits`] if there is no such grid.
    pub fn new(bits: u8, block_len: usize, zero_points: bool, scales: Format) -> Result<NBits> {
        let grid = NBits { bits, block_len, zero_points, scales };
        let known = matches!(bits, 4 | 8)
            && matches!(block_len, 16 | 32 | 64 | 128)
            && matches!(scales, Format::F32 | Format::F16 | Format::Bf16);
        if known { Ok(grid) } else { Err(Error::NBits { bits, block_len, scales }) }
    }

    /// Bits of an element.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Elements that share a scale.
    pub fn block_len(self) -> usize {
        self.block_len
    }

    /// Whether blocks have zero points of their own.
    pub fn has_zero_points(self) -> bool {
        self.zero_points
    }

    /// What scales are stored as.
    pub fn scales(self) -> Format {
        self.scales
    }

    /// Blocks of a row of `cols` elements, the last one padded.
    pub fn blocks(self, cols: usize) -> usize {
        cols.div_ceil(self.block_len)
    }

    /// Bytes of a row's codes.
    pub fn code_bytes(self, cols: usize) -> usize {
        self.blocks(cols) * self.block_len * usize::from(self.bits) / 8
    }

    /// Bytes of a row's zero points; none without them.
    pub fn zero_point_bytes(self, cols: usize) -> usize {
        if self.zero_points { (self.blocks(cols) * usize::from(self.bits)).div_ceil(8) } else { 0 }
    }

    /// Bytes of a matrix.
    pub fn matrix_bytes(self, rows: usize, cols: usize) -> usize {
        rows * (self.code_bytes(cols) + self.blocks(cols) * self.scales.block_bytes() + self.zero_point_bytes(cols))
    }

    /// The code of level 0, which is every block's zero point where none are stored.
    fn middle(self) -> u8 {
        1 << (self.bits - 1)
    }

    fn float(self) -> Float {
        match self.scales {
            Format::F16 => Float::F16,
            Format::Bf16 => Float::Bf16,
            _ => Float::F32,
        }
    }

    /// Number `j` of packed codes or zero points: of 4 bits the even ones are low nibbles.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn code(self, packed: &[u8], j: usize) -> u8 {
        match self.bits {
            8 => packed[j],
            _ => packed[j / 2] >> (4 * (j % 2)) & 15,
        }
    }

    /// Packs codes or zero points behind what is in `out`; an odd one leaves the last high nibble zero.
    pub fn pack(self, numbers: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
        let first = out.len();
        for (j, number) in numbers.enumerate() {
            match (self.bits, j % 2) {
                (4, 1) => out[first + j / 2] |= number << 4,
                _ => out.push(number),
            }
        }
    }
}

impl fmt::Display for NBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zero_points = if self.zero_points { " with zero points" } else { "" };
        write!(f, "int{} in blocks of {}{zero_points}, scales {}", self.bits, self.block_len, self.scales)
    }
}

/// A matrix in the arrays that MatMulNBits takes. [`NBitsMatrix::new`] checks that they fit each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NBitsMatrix<'a> {
    /// What its integers stand for.
    pub grid: NBits,
    /// Rows: outputs, the operator's N.
    pub rows: usize,
    /// Elements of a row: inputs, the operator's K.
    pub cols: usize,
    /// (rows, blocks, bytes of a block's codes), the operator's B.
    pub codes: Cow<'a, [u8]>,
    /// (rows, blocks)
    pub scales: Tensor<'a>,
    /// (rows, bytes of a row's zero points); empty without them.
    pub zero_points: Cow<'a, [u8]>,
}

impl<'a> NBitsMatrix<'a> {
    /// A matrix of (rows, cols) from its arrays. The grid's type of scales is that of `scales`.
    ///
    /// # Errors
    /// [`Error::NBitsLength`] if an array has another length, [`Error::NBits`] if the scales are of another type than the
    /// grid's, [`Error::TooLarge`] if a size overflows.
    pub fn new(
        grid: NBits,
        [rows, cols]: [usize; 2],
        codes: impl Into<Cow<'a, [u8]>>,
        scales: Tensor<'a>,
        zero_points: impl Into<Cow<'a, [u8]>>,
    ) -> Result<NBitsMatrix<'a>> {
        let (codes, zero_points) = (codes.into(), zero_points.into());
        check_extent(grid, [rows, cols])?;
        if scales.format != grid.scales {
            return Err(Error::NBits { bits: grid.bits, block_len: grid.block_len, scales: scales.format });
        }
        let lengths = [
            ("codes", rows * grid.code_bytes(cols), codes.len()),
            ("scales", rows * grid.blocks(cols) * grid.scales.block_bytes(), scales.bytes.len()),
            ("zero points", rows * grid.zero_point_bytes(cols), zero_points.len()),
        ];
        match lengths.into_iter().find(|(_, expected, found)| expected != found) {
            Some((what, expected, found)) => Err(Error::NBitsLength { what, shape: [rows, cols], expected, found }),
            None => Ok(NBitsMatrix { grid, rows, cols, codes, scales, zero_points }),
        }
    }

    /// All numbers (rows, cols), decoded on all threads: `(code - zero point) * scale`.
    pub fn to_f32(&self) -> Vec<f32> {
        let (grid, blocks) = (self.grid, self.grid.blocks(self.cols));
        let mut out = vec![0.0; self.rows * self.cols];
        if out.is_empty() {
            return out;
        }
        let (scales, block_bytes) = (self.scales.to_f32(), grid.block_len * usize::from(grid.bits) / 8);
        out.par_chunks_mut(self.cols).enumerate().for_each(|(row, out)| {
            for (b, out) in out.chunks_mut(grid.block_len).enumerate() {
                let (at, zero) = (row * blocks + b, self.zero_point(row, b));
                let codes = &self.codes[at * block_bytes..][..block_bytes];
                for (j, x) in out.iter_mut().enumerate() {
                    *x = f32::from(i16::from(grid.code(codes, j)) - i16::from(zero)) * scales[at];
                }
            }
        });
        out
    }

    /// The same as a tensor of float32.
    pub fn decoded(&self) -> Tensor<'static> {
        let bytes = bytemuck::cast_slice(&self.to_f32()).to_vec();
        Tensor { format: Format::F32, shape: vec![self.rows, self.cols], bytes: bytes.into() }
    }

    fn zero_point(&self, row: usize, block: usize) -> u8 {
        match self.grid.zero_point_bytes(self.cols) {
            0 => self.grid.middle(),
            bytes => self.grid.code(&self.zero_points[row * bytes..][..bytes], block),
        }
    }
}

impl NBitsMatrix<'static> {
    /// Encodes numbers (rows, cols), on all threads, searching for scales and zero points of least squared error.
    /// `importance`: one weight for each column, as in [`Format::encode`].
    ///
    /// # Errors
    /// [`Error::ByteLength`] if there are not so many numbers, [`Error::ImportanceLength`], [`Error::TooLarge`].
    pub fn quantize(values: &[f32], extent: [usize; 2], grid: NBits, importance: Option<&[f32]>) -> Result<Self> {
        check_values(values, grid, extent, importance.map(<[f32]>::len))?;
        let padded = grid.blocks(extent[1]) * grid.block_len;
        let importance = importance.map(|a| {
            let mut importance = normalize(a);
            importance.resize(padded, 1.0);
            importance
        });
        let values = pad(values, extent[1], padded);
        let blocks = encode(&values, padded, grid, importance.as_deref());
        Ok(NBitsMatrix::gather(&blocks, extent, grid))
    }

    /// Encodes numbers (rows, cols) so that products with inputs of second moment `hessian` change least: what
    /// [`Tensor::quantize_calibrated`] does, in this grid.
    ///
    /// # Errors
    /// As [`NBitsMatrix::quantize`], and [`Error::HessianExtent`] if the Hessian is of another input.
    pub fn quantize_calibrated(
        values: &[f32],
        extent: [usize; 2],
        grid: NBits,
        hessian: &Hessian,
        effort: Effort,
    ) -> Result<Self> {
        let cols = extent[1];
        if hessian.width() != cols {
            return Err(Error::HessianExtent { expected: cols, found: hessian.width() });
        }
        check_values(values, grid, extent, None)?;
        let padded = grid.blocks(cols) * grid.block_len;
        let hessian = hessian.padded(padded);
        let values = pad(values, cols, padded);
        let mut blocks = encode(&values, padded, grid, Some(&normalize(&hessian.importance())));
        let bytes = grid.working_bytes();
        let layout = calibrated::Blocks {
            grid: &grid.working_grid(),
            len: grid.block_len,
            bytes,
            row_bytes: grid.blocks(cols) * bytes,
        };
        calibrated::round(&layout, &values, &hessian, effort, &mut blocks);
        Ok(NBitsMatrix::gather(&blocks, extent, grid))
    }

    /// From working blocks, row after row.
    fn gather(blocks: &[u8], [rows, cols]: [usize; 2], grid: NBits) -> Self {
        let per_row = grid.blocks(cols);
        let mut codes = Vec::with_capacity(rows * grid.code_bytes(cols));
        let mut zero_points = Vec::with_capacity(rows * grid.zero_point_bytes(cols));
        let mut scales = Vec::with_capacity(rows * per_row);
        for row in blocks.chunks_exact((per_row * grid.working_bytes()).max(1)) {
            let parts = || row.chunks_exact(grid.working_bytes()).map(blocks::split);
            let stored = |level: &u8| (*level as i8 as i16 + i16::from(grid.middle())) as u8;
            for (scale, _, levels) in parts() {
                scales.push(scale);
                grid.pack(levels.iter().map(stored), &mut codes);
            }
            if grid.zero_points {
                grid.pack(parts().map(|(_, zero, _)| stored(&zero)), &mut zero_points);
            }
        }
        let mut bytes = vec![0; scales.len() * grid.scales.block_bytes()];
        grid.scales.encode(&scales, None, &mut bytes);
        let scales = Tensor { format: grid.scales, shape: vec![rows, per_row], bytes: bytes.into() };
        NBitsMatrix { grid, rows, cols, codes: codes.into(), scales, zero_points: zero_points.into() }
    }
}

/// Rows with zeros after them.
fn pad(values: &[f32], cols: usize, padded: usize) -> Cow<'_, [f32]> {
    if cols == padded {
        return values.into();
    }
    let mut out = vec![0.0; values.len() / cols * padded];
    for (out, row) in out.chunks_exact_mut(padded).zip(values.chunks_exact(cols)) {
        out[..cols].copy_from_slice(row);
    }
    out.into()
}

/// Rows of whole blocks to working blocks, on all threads.
fn encode(values: &[f32], cols: usize, grid: NBits, importance: Option<&[f32]>) -> Vec<u8> {
    let level = Level::best();
    let mut out = vec![0; values.len() / grid.block_len * grid.working_bytes()];
    let row_bytes = cols / grid.block_len * grid.working_bytes();
    if !out.is_empty() {
        out.par_chunks_mut(row_bytes)
            .zip(values.par_chunks(cols))
            .for_each(|(out, row)| blocks::encode(level, grid, row, importance, out));
    }
    out
}

fn check_extent(grid: NBits, [rows, cols]: [usize; 2]) -> Result<()> {
    // A working block is the largest form of a block: nothing that follows overflows where that does not.
    match cols.checked_next_multiple_of(grid.block_len).and_then(|n| n.checked_mul(rows)).and_then(|n| n.checked_mul(8))
    {
        Some(_) => Ok(()),
        None => Err(Error::TooLarge { shape: vec![rows, cols] }),
    }
}

fn check_values(values: &[f32], grid: NBits, [rows, cols]: [usize; 2], importance: Option<usize>) -> Result<()> {
    check_extent(grid, [rows, cols])?;
    let (expected, found) = (4 * rows * cols, std::mem::size_of_val(values));
    if expected != found {
        return Err(Error::ByteLength { format: Format::F32, shape: vec![rows, cols], expected, found });
    }
    match importance {
        Some(found) if found != cols => Err(Error::ImportanceLength { expected: cols, found }),
        _ => Ok(()),
    }
}
