//! Matrix products, by the `gemm` crate; one thread each, so that results do not depend on how work is shared.

/// A matrix somewhere in a slice: distance between rows and between columns, in elements.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of adjacent numbers, `row` apart.
    pub fn new(data: &'a [f32], row: usize) -> Matrix<'a> {
        Matrix { data, row, column: 1 }
    }

    /// The transpose of the same numbers.
    pub fn transposed(self) -> Matrix<'a> {
        Matrix { data: self.data, row: self.column, column: self.row }
    }

    /// Whether `rows` x `cols` elements lie in the slice.
    fn holds(self, rows: usize, cols: usize) -> bool {
        (rows - 1) * self.row + (cols - 1) * self.column < self.data.len()
    }
}

/// `c = a b` with a: `m` x `k`, b: `k` x `n`, none of them 0; the rows of `c` are `c_row` apart.
///
/// # Panics
/// If a matrix does not lie inside its slice.
pub fn product(c: &mut [f32], c_row: usize, a: Matrix<'_>, b: Matrix<'_>, [m, n, k]: [usize; 3]) {
    assert!(Matrix::new(c, c_row).holds(m, n));
    // SAFETY: `c` reaches as far as needed, as just checked, and is borrowed mutably.
    unsafe { product_into(c.as_mut_ptr(), c_row, a, b, [m, n, k]) }
}

/// [`product`] into a matrix that other threads may be writing other columns of.
///
/// # Safety
/// From `c` on, `m` rows of `n` numbers, `c_row` apart, are valid for writing, and nobody else touches them meanwhile.
///
/// # Panics
/// If `a` or `b` does not lie inside its slice.
pub unsafe fn product_into(c: *mut f32, c_row: usize, a: Matrix<'_>, b: Matrix<'_>, [m, n, k]: [usize; 3]) {
    assert!(a.holds(m, k) && b.holds(k, n));
    // SAFETY: a and b reach as far as needed, as just checked; `c` does by the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            c_row as isize,
            false,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_odd_sizes_and_transposes_equal_float64() {
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [17, 33, 65], [64, 1, 100]] {
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.3).cos()).collect();
            let mut c = vec![f32::NAN; m * n];
            product(&mut c, n, Matrix::new(&a, k), Matrix::new(&b, k).transposed(), [m, n, k]);
            for (i, row) in c.chunks_exact(n).enumerate() {
                for (j, c) in row.iter().enumerate() {
                    let truth: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
                    assert!((f64::from(*c) - truth).abs() < 1e-4, "{m} {n} {k} at {i} {j}");
                }
            }
        }
    }
}
