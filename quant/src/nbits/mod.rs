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
mod encode;

use crate::calibrated::{self, Effort, Hessian};
use crate::format::normalize;
use crate::grid::Float;
use crate::simd::Level;
use crate::{Error, Format, Result, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::fmt;

/// Blocks that a thread takes at a time.
const BLOCKS_AT_ONCE: usize = 1024;

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

    /// Elements of a row's blocks.
    fn padded(self, cols: usize) -> usize {
        self.blocks(cols) * self.block_len
    }

    /// Bytes of a row's codes.
    pub fn code_bytes(self, cols: usize) -> usize {
        self.padded(cols) * usize::from(self.bits) / 8
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
            if (j * usize::from(self.bits)).is_multiple_of(8) {
                out.push(0);
            }
            self.put(&mut out[first..], j, number);
        }
    }

    /// Puts number `j` into packed ones, where zero was.
    #[inline]
    fn put(self, packed: &mut [u8], j: usize, number: u8) {
        match self.bits {
            8 => packed[j] = number,
            _ => packed[j / 2] |= number << (4 * (j % 2)),
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
        Ok(NBitsMatrix::encoded(&pad(values, extent[1], grid), extent, grid, importance.map(normalize)))
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
        let values = pad(values, cols, grid);
        let hessian = hessian.padded(grid.padded(cols));
        let searched = NBitsMatrix::encoded(&values, extent, grid, Some(normalize(&hessian.importance())));
        let mut blocks = searched.to_blocks();
        let bytes = grid.working_bytes();
        let layout = calibrated::Blocks {
            grid: &grid.working_grid(),
            len: grid.block_len,
            bytes,
            row_bytes: grid.blocks(cols) * bytes,
            decode: &|row, out| grid.decode_working(row, out),
        };
        calibrated::round(&layout, &values, &hessian, effort, &mut blocks);
        Ok(NBitsMatrix::from_blocks(&blocks, extent, grid))
    }

    /// From rows of whole blocks, on all threads.
    fn encoded(values: &[f32], [rows, cols]: [usize; 2], grid: NBits, importance: Option<Vec<f32>>) -> Self {
        let per_row = grid.blocks(cols);
        let importance = importance.map(|mut importance| {
            importance.resize(grid.padded(cols), 1.0);
            importance
        });
        // Importance is that of a row's columns, and the zero points of an odd number of blocks end in half a byte; else
        // blocks are just blocks.
        let half_byte = grid.zero_points && !(per_row * usize::from(grid.bits)).is_multiple_of(8);
        let by_rows = importance.is_some() || half_byte;
        let step = if by_rows { per_row } else { BLOCKS_AT_ONCE };
        let mut codes = vec![0; rows * grid.code_bytes(cols)];
        let mut scales = vec![0; rows * per_row * grid.scales.block_bytes()];
        let mut zero_points = vec![0; rows * grid.zero_point_bytes(cols)];
        if !codes.is_empty() {
            let step_cols = step * grid.block_len;
            let mut zero_points = zero_points.chunks_mut(grid.zero_point_bytes(step_cols).max(1));
            let arrays: Vec<encode::Arrays<'_>> = codes
                .chunks_mut(grid.code_bytes(step_cols))
                .zip(scales.chunks_mut(step * grid.scales.block_bytes()))
                .map(|(codes, scales)| {
                    let zero_points = zero_points.next().unwrap_or_default();
                    encode::Arrays { codes, scales, zero_points }
                })
                .collect();
            let level = Level::best();
            arrays
                .into_par_iter()
                .zip(values.par_chunks(step_cols))
                .for_each(|(out, values)| encode::encode(level, grid, values, importance.as_deref(), out));
        }
        let scales = Tensor { format: grid.scales, shape: vec![rows, per_row], bytes: scales.into() };
        NBitsMatrix { grid, rows, cols, codes: codes.into(), scales, zero_points: zero_points.into() }
    }
}

/// Rows with zeros after them.
fn pad(values: &[f32], cols: usize, grid: NBits) -> Cow<'_, [f32]> {
    let padded = grid.padded(cols);
    if cols == padded {
        return values.into();
    }
    let mut out = vec![0.0; values.len() / cols * padded];
    for (out, row) in out.chunks_exact_mut(padded).zip(values.chunks_exact(cols)) {
        out[..cols].copy_from_slice(row);
    }
    out.into()
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
