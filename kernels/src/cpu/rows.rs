//! Activations in memory.

use std::marker::PhantomData;
use std::ops::Range;

/// Activations: one row of `cols` numbers per token.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Row-major.
    pub data: Vec<f32>,
    /// Numbers in a row.
    pub cols: usize,
}

impl Rows {
    /// `rows` x `cols` zeros.
    pub fn zeros(rows: usize, cols: usize) -> Rows {
        Rows { data: vec![0.0; rows * cols], cols }
    }

    /// Tokens.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }

    /// Row `t`.
    pub fn row(&self, t: usize) -> &[f32] {
        &self.data[t * self.cols..][..self.cols]
    }

    /// Columns `range` of every row, as rows of their own.
    pub fn columns(&self, range: Range<usize>) -> Rows {
        let mut data = Vec::with_capacity(self.rows() * range.len());
        for row in self.data.chunks_exact(self.cols) {
            data.extend_from_slice(&row[range.clone()]);
        }
        Rows { data, cols: range.len() }
    }
}

/// Some columns of rows, for a task to fill while others fill the rest.
pub struct Columns<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    range: Range<usize>,
    _data: PhantomData<&'a mut [f32]>,
}

// SAFETY: as for a mutable slice: no two `Columns` of the same rows have a number in common.
unsafe impl Send for Columns<'_> {}

impl<'a> Columns<'a> {
    /// Rows of `cols` numbers, `width` columns at a time; the last ones may be fewer.
    pub fn split(data: &'a mut [f32], cols: usize, width: usize) -> impl Iterator<Item = Columns<'a>> {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        let data = data.as_mut_ptr();
        let part = move |first| Columns { data, rows, cols, range: first..cols.min(first + width), _data: PhantomData };
        (0..cols).step_by(width).map(part)
    }

    /// How many columns these are.
    pub fn width(&self) -> usize {
        self.range.len()
    }

    /// These columns of row `t`.
    #[inline(always)]
    pub fn row(&mut self, t: usize) -> &mut [f32] {
        assert!(t < self.rows, "row {t} of {}", self.rows);
        // SAFETY: row and columns are inside the data, borrowed for 'a, and nobody else has these columns.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(t * self.cols + self.range.start), self.range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_cover_every_number_once() {
        for (rows, cols, width) in [(3, 7, 2), (1, 1, 4), (2, 8, 4), (0, 5, 2), (4, 0, 3)] {
            let mut data = vec![0.0; rows * cols];
            std::thread::scope(|scope| {
                for mut part in Columns::split(&mut data, cols, width) {
                    scope.spawn(move || (0..rows).for_each(|t| part.row(t).iter_mut().for_each(|x| *x += 1.0)));
                }
            });
            assert!(data.iter().all(|x| *x == 1.0), "{rows} rows of {cols}, {width} at a time");
        }
    }
}
