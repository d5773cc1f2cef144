use crate::format::{TASK_LEN, normalize};
use crate::simd::Level;
use crate::{Error, Format, Result};
use rayon::prelude::*;
use std::borrow::Cow;

/// One tensor's numbers in some format, contiguous, row-major.
///
/// [`Tensor::new`] checks that the fields fit each other; methods rely on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tensor<'a> {
    /// How the numbers are stored.
    pub format: Format,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// All bytes, row after row.
    pub bytes: Cow<'a, [u8]>,
}

/// Rows and columns of a shape; a scalar is one row of one.
fn extent(shape: &[usize]) -> Option<(usize, usize)> {
    let (cols, outer) = shape.split_last().map_or((1, shape), |(cols, outer)| (*cols, outer));
    let rows = outer.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    rows.checked_mul(cols)?;
    Some((rows, cols))
}

/// Bytes of a row, and of the whole.
fn sizes(format: Format, shape: &[usize]) -> Result<(usize, usize)> {
    let too_large = || Error::TooLarge { shape: shape.to_vec() };
    let (rows, cols) = extent(shape).ok_or_else(too_large)?;
    if !format.fits(cols) {
        return Err(Error::RowNotWholeBlocks { format, cols });
    }
    let row_bytes = format.row_bytes(cols).ok_or_else(too_large)?;
    Ok((row_bytes, row_bytes.checked_mul(rows).ok_or_else(too_large)?))
}

impl<'a> Tensor<'a> {
    /// A tensor of `shape`, slowest dimension first, from its bytes.
    ///
    /// # Errors
    /// [`Error::RowNotWholeBlocks`] if the last dimension is not a multiple of the block length, [`Error::ByteLength`] if the
    /// bytes are not exactly the rows', [`Error::TooLarge`] if a size overflows.
    pub fn new(format: Format, shape: Vec<usize>, bytes: impl Into<Cow<'a, [u8]>>) -> Result<Tensor<'a>> {
        let bytes = bytes.into();
        let (_, expected) = sizes(format, &shape)?;
        if bytes.len() != expected {
            return Err(Error::ByteLength { format, shape, expected, found: bytes.len() });
        }
        Ok(Tensor { format, shape, bytes })
    }

    /// Encodes numbers, on all threads. `importance`: one weight for each column, see [`Format::encode`].
    ///
    /// # Errors
    /// As [`Tensor::new`], where [`Error::ByteLength`] speaks of the numbers' bytes as `f32`, and
    /// [`Error::ImportanceLength`].
    pub fn quantize(
        values: &[f32],
        shape: Vec<usize>,
        to: Format,
        importance: Option<&[f32]>,
    ) -> Result<Tensor<'static>> {
        let (_, expected) = sizes(Format::F32, &shape)?;
        let found = std::mem::size_of_val(values);
        if found != expected {
            return Err(Error::ByteLength { format: Format::F32, shape, expected, found });
        }
        let (_, len) = sizes(to, &shape)?;
        let cols = shape.last().copied().unwrap_or(1);
        check_importance(importance, cols)?;
        let mut bytes = vec![0; len];
        if len > 0 {
            to.encode_rows(values, cols, importance, &mut bytes);
        }
        Ok(Tensor { format: to, shape, bytes: bytes.into() })
    }

    /// The product of all dimensions but the last; 1 for vectors and scalars.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Elements of a row: the last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows() * self.cols()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.format.size_of(self.cols())
    }

    /// Bytes of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[u8] {
        let len = self.row_bytes();
        &self.bytes[i * len..][..len]
    }

    /// All numbers, decoded on all threads.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        self.format.decode_parallel(&self.bytes, &mut out);
        out
    }

    /// The same numbers in another format, on all threads, without ever holding all of them as `f32`. To the same format:
    /// the same bytes. `importance`: one weight for each column, see [`Format::encode`].
    ///
    /// # Errors
    /// [`Error::RowNotWholeBlocks`] if rows do not fit the format, [`Error::ImportanceLength`], [`Error::TooLarge`].
    pub fn recode(&self, to: Format, importance: Option<&[f32]>) -> Result<Tensor<'static>> {
        let (row_bytes, len) = sizes(to, &self.shape)?;
        let cols = self.cols();
        check_importance(importance, cols)?;
        if to == self.format || len == 0 {
            let bytes = if len == 0 { Vec::new() } else { self.bytes.to_vec() };
            return Ok(Tensor { format: to, shape: self.shape.clone(), bytes: bytes.into() });
        }
        let importance = importance.map(normalize);
        let level = Level::best();
        let rows = (TASK_LEN / cols).max(1);
        let source_row_bytes = self.row_bytes();
        let mut bytes = vec![0; len];
        bytes.par_chunks_mut(rows * row_bytes).zip(self.bytes.par_chunks(rows * source_row_bytes)).for_each_init(
            || vec![0.0; rows * cols],
            |numbers, (out, source)| {
                let numbers = &mut numbers[..source.len() / source_row_bytes * cols];
                (self.format.info().decode)(level, source, numbers);
                to.encode_prepared(level, numbers, cols, importance.as_deref(), out);
            },
        );
        Ok(Tensor { format: to, shape: self.shape.clone(), bytes: bytes.into() })
    }
}

fn check_importance(importance: Option<&[f32]>, cols: usize) -> Result<()> {
    match importance {
        Some(a) if a.len() != cols => Err(Error::ImportanceLength { expected: cols, found: a.len() }),
        _ => Ok(()),
    }
}
