//! Matrices in blocks as DequantizeLinear takes them (ONNX, opset 21), so that its result is what MatMul wants: inputs first.
//!
//! ```text
//! codes        (inputs, outputs)    uint4 or uint8; without zero points int4 or int8: codes less 2^(bits - 1)
//! scales       (blocks, outputs)    float
//! zero points  (blocks, outputs)    as the codes
//! ```
//! Of 4 bits element 2j of all, in order, is the low nibble of byte j.

use super::proto::DataType;
use super::writer::{turn, turn_bytes};
use std::borrow::Cow;
use tamborim_quant::{NBits, NBitsMatrix, Result, Tensor};

/// The type of codes and zero points.
pub fn code_type(grid: NBits) -> DataType {
    match (grid.bits(), grid.has_zero_points()) {
        (4, true) => DataType::Uint4,
        (4, false) => DataType::Int4,
        (_, true) => DataType::Uint8,
        (_, false) => DataType::Int8,
    }
}

/// What turns a code into a signed one and back: without zero points the middle is 0.
fn sign(grid: NBits) -> u8 {
    if grid.has_zero_points() { 0 } else { 1 << (grid.bits() - 1) }
}

pub fn codes(matrix: &NBitsMatrix<'_>) -> Vec<u8> {
    let mut elements = unpack(matrix.grid, &matrix.codes, matrix.rows, matrix.cols);
    elements.iter_mut().for_each(|code| *code ^= sign(matrix.grid));
    pack(matrix.grid, &turn_bytes(&elements, matrix.rows, matrix.cols))
}

pub fn scales(matrix: &NBitsMatrix<'_>) -> Vec<u8> {
    turn(&matrix.scales)
}

pub fn zero_points(matrix: &NBitsMatrix<'_>) -> Vec<u8> {
    let blocks = matrix.grid.blocks(matrix.cols);
    let elements = unpack(matrix.grid, &matrix.zero_points, matrix.rows, blocks);
    pack(matrix.grid, &turn_bytes(&elements, matrix.rows, blocks))
}

/// The inverse of all three: a matrix of (outputs, inputs).
pub fn matrix(
    grid: NBits,
    [rows, cols]: [usize; 2],
    codes: &[u8],
    scales: &Tensor<'_>,
    zero_points: &[u8],
) -> Result<NBitsMatrix<'static>> {
    let blocks = grid.blocks(cols);
    let rows_first = |packed: &[u8], n: usize, sign: u8, bytes: usize| {
        let mut elements = turn_bytes(&unpack(grid, packed, 1, n * rows), n, rows);
        elements.iter_mut().for_each(|code| *code ^= sign);
        // Rows are packed one by one, and padded.
        let mut out = Vec::with_capacity(rows * bytes);
        for row in elements.chunks_exact(n) {
            grid.pack(row.iter().copied(), &mut out);
            out.resize(out.len().next_multiple_of(bytes), 0);
        }
        out
    };
    let codes = rows_first(codes, cols, sign(grid), grid.code_bytes(cols));
    let zero_points = match grid.zero_point_bytes(cols) {
        0 => Vec::new(),
        bytes => rows_first(zero_points, blocks, 0, bytes),
    };
    let scales = Tensor { format: scales.format, shape: vec![rows, blocks], bytes: Cow::Owned(turn(scales)) };
    NBitsMatrix::new(grid, [rows, cols], codes, scales, zero_points)
}

/// `n` elements of each row, one in a byte. Rows are whole bytes, of equal number.
fn unpack(grid: NBits, packed: &[u8], rows: usize, n: usize) -> Vec<u8> {
    let row_bytes = packed.len() / rows.max(1);
    packed.chunks_exact(row_bytes.max(1)).flat_map(|row| (0..n).map(|j| grid.code(row, j))).collect()
}

fn pack(grid: NBits, elements: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    grid.pack(elements.iter().copied(), &mut out);
    out
}
