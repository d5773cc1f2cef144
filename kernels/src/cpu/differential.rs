//! What differential attention has around softmax attention.

use super::Rows;
use rayon::prelude::*;

/// `[q, rest]` with heads twice as wide: `[sqrt(2) q_0, 0], [0, sqrt(2) q_1], ..`. The root makes up for the wider head that
/// scores are divided by the root of.
pub fn spread_pairs(heads: usize, head_dim: usize, x: &Rows) -> Rows {
    let queries = heads * head_dim;
    let mut y = Rows::zeros(x.rows(), x.cols + queries);
    let cols = y.cols;
    y.data.par_chunks_mut(cols).zip(x.data.par_chunks(x.cols)).for_each(|(y, x)| {
        let (q, rest) = x.split_at(queries);
        let (wide, tail) = y.split_at_mut(2 * queries);
        tail.copy_from_slice(rest);
        for (head, (q, wide)) in q.chunks_exact(head_dim).zip(wide.chunks_exact_mut(2 * head_dim)).enumerate() {
            let place = &mut wide[head % 2 * head_dim..][..head_dim];
            place.iter_mut().zip(q).for_each(|(y, q)| *y = *q * std::f32::consts::SQRT_2);
        }
    });
    y
}

/// `even head - lambda * odd head` of each pair of heads of `width` channels.
pub fn difference(width: usize, lambda: f32, o: &Rows) -> Rows {
    let mut y = Rows::zeros(o.rows(), o.cols / 2);
    y.data.par_chunks_mut(width).zip(o.data.par_chunks(2 * width)).for_each(|(y, pair)| {
        let (even, odd) = pair.split_at(width);
        y.iter_mut().zip(even.iter().zip(odd)).for_each(|(y, (a, b))| *y = a - lambda * b);
    });
    y
}
