//! Activations in memory.

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
    pub fn columns(&self, range: std::ops::Range<usize>) -> Rows {
        let mut data = Vec::with_capacity(self.rows() * range.len());
        for row in self.data.chunks_exact(self.cols) {
            data.extend_from_slice(&row[range.clone()]);
        }
        Rows { data, cols: range.len() }
    }
}
