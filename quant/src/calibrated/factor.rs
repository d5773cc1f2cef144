//! Second moments as rounding needs them: damped, factored, cut into the columns of groups.

use super::cholesky;
use super::row_inputs::RowInputs;
use crate::Moments;
use crate::simd::{Level, dispatch};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// What is added to the diagonal, relative to its mean: without it channels that hardly ever fire would take up any error
/// that helps the others.
const DAMPING: f64 = 0.01;

/// The same for tied embeddings (measured: docs/quantization.md).
const TIED_DAMPING: f64 = 0.5;

/// What a pivot has at least, relative to the diagonal's mean: only of a matrix that is not quite positive definite are
/// there smaller ones.
const LEAST_PIVOT: f64 = 1e-9;

/// Groups whose panels are filled together.
const TOGETHER: usize = 8;

/// Rows of a matrix that are filled together.
const BAND: usize = 64;

/// The curvature of a map's output error in its weights: `H = E[x x^T]`, damped; of wide inputs diagonal blocks.
#[derive(Clone, Debug)]
pub struct Hessian {
    parts: Vec<Part>,
    /// What was added to the diagonal.
    added: f64,
    /// Of a head: the inputs that matter to single rows.
    row_inputs: Option<Arc<RowInputs>>,
}

/// A diagonal block.
#[derive(Clone, Debug)]
pub(super) struct Part {
    n: usize,
    /// (n, n)
    h: Vec<f64>,
    /// R of `H = R R^T`, upper triangular, once it was asked for: maps of one input share it. (n, n)
    r: OnceLock<Vec<f64>>,
}

impl Hessian {
    /// Of these moments.
    pub fn new(moments: &Moments) -> Hessian {
        Hessian::damped(moments, DAMPING)
    }

    /// Of these moments, for an embedding that is the head as well: its rows are inputs, too, where all channels matter
    /// alike.
    pub fn of_tied(moments: &Moments) -> Hessian {
        Hessian::damped(moments, TIED_DAMPING)
    }

    /// The same with `damping` times the mean of the diagonal added to it.
    pub fn damped(moments: &Moments, damping: f64) -> Hessian {
        let tokens = moments.count.max(1) as f64;
        let squares = moments.squares();
        let mean = squares.iter().sum::<f64>() / squares.len().max(1) as f64 / tokens;
        // No calibration at all: every channel alike.
        let added = if mean > 0.0 { mean * damping } else { 1.0 };
        let part = |(n, lower): (usize, &[f64])| {
            let mut h = vec![0.0; n * n];
            let line = |i: usize| &lower[i * (i + 1) / 2..][..=i];
            h.par_chunks_mut(BAND * n).enumerate().for_each(|(band, rows)| {
                let (first, last) = (band * BAND, band * BAND + rows.len() / n);
                for (i, row) in (first..last).zip(rows.chunks_exact_mut(n)) {
                    row.iter_mut().zip(line(i)).for_each(|(h, sum)| *h = sum / tokens);
                    row[i] += added;
                }
                // Right of the diagonal, a row of the triangle for all rows of the band.
                for j in first + 1..n {
                    for (i, sum) in (first..last.min(j)).zip(&line(j)[first..]) {
                        rows[(i - first) * n + j] = sum / tokens;
                    }
                }
            });
            Part::new(n, h)
        };
        Hessian { parts: moments.triangles().map(part).collect(), added, row_inputs: None }
    }

    /// Channels.
    pub fn width(&self) -> usize {
        self.parts.iter().map(|p| p.n).sum()
    }

    /// The same for rows with zeros after them, up to `width`: channels that no input ever reaches.
    pub(crate) fn padded(&self, width: usize) -> Cow<'_, Hessian> {
        let added = width - self.width();
        if added == 0 || self.parts.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut parts = self.parts.clone();
        let last = parts.len() - 1;
        let Part { n, h, .. } = &self.parts[last];
        let wider = n + added;
        let mean = (0..*n).map(|i| h[i * (n + 1)]).sum::<f64>() / *n as f64;
        let mut padded = vec![0.0; wider * wider];
        for i in 0..wider {
            match h.chunks_exact(*n).nth(i) {
                Some(row) => padded[i * wider..][..*n].copy_from_slice(row),
                None => padded[i * (wider + 1)] = mean,
            }
        }
        parts[last] = Part::new(wider, padded);
        Cow::Owned(Hessian { parts, added: self.added, row_inputs: None })
    }

    /// The diagonal.
    pub fn importance(&self) -> Vec<f32> {
        self.parts.iter().flat_map(|p| (0..p.n).map(|i| p.h[i * (p.n + 1)] as f32)).collect()
    }

    /// The same for a head, each row of which is rounded for inputs of its own as well, where
    /// [`Hessian::takes_row_inputs`].
    pub fn with_row_inputs(self, row_inputs: Arc<RowInputs>) -> Hessian {
        Hessian { row_inputs: Some(row_inputs), ..self }
    }

    /// Whether rounding to blocks of so many elements looks at inputs of single rows: where H is whole, and rows are whole
    /// blocks.
    pub fn takes_row_inputs(&self, block_len: usize) -> bool {
        matches!(&self.parts[..], [whole] if whole.n.is_multiple_of(block_len))
    }

    pub(super) fn row_inputs(&self, block_len: usize) -> Option<&RowInputs> {
        let fitting = |inputs: &&RowInputs| inputs.width() == self.width() && self.takes_row_inputs(block_len);
        self.row_inputs.as_deref().filter(fitting)
    }

    /// What was added to the diagonal.
    pub(super) fn added(&self) -> f64 {
        self.added
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// `sum over rows of e H e^T / sum of w H w^T`: the part of the output's energy that rounding `w` to `q` takes away.
    pub fn output_error(&self, w: &[f32], q: &[f32]) -> f64 {
        let cols = self.width();
        let energy = |row: &[f64]| -> f64 {
            let mut first = 0;
            let mut sum = 0.0;
            for p in &self.parts {
                let x = &row[first..first + p.n];
                for (i, h) in p.h.chunks_exact(p.n).enumerate() {
                    if x[i] != 0.0 {
                        sum += x[i] * (2.0 * dot(&h[..i], &x[..i]) + h[i] * x[i]);
                    }
                }
                first += p.n;
            }
            sum
        };
        let rows: Vec<[f64; 2]> = w
            .par_chunks_exact(cols)
            .zip(q.par_chunks_exact(cols))
            .map(|(w, q)| {
                let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
                let w: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
                [energy(&e), energy(&w)]
            })
            .collect();
        let [error, total] = rows.iter().fold([0.0; 2], |[a, b], [e, w]| [a + e, b + w]);
        if total > 0.0 { error / total } else { 0.0 }
    }
}

impl Part {
    fn new(n: usize, h: Vec<f64>) -> Part {
        Part { n, h, r: OnceLock::new() }
    }

    pub(super) fn width(&self) -> usize {
        self.n
    }

    pub(super) fn upper(&self) -> &[f64] {
        self.r.get_or_init(|| self.factor())
    }

    fn factor(&self) -> Vec<f64> {
        let n = self.n;
        // Cholesky of the matrix with its indices reversed, ones on the diagonal behind it.
        let padded = cholesky::extent(n);
        let mut l = vec![0.0; padded * padded];
        l.par_chunks_exact_mut(padded).zip(self.h.par_rchunks_exact(n)).enumerate().for_each(|(i, (l, h))| {
            l[..=i].iter_mut().zip(h.iter().rev()).for_each(|(l, h)| *l = *h);
        });
        (n..padded).for_each(|i| l[i * (padded + 1)] = 1.0);
        let mean = (0..n).map(|i| l[i * (padded + 1)]).sum::<f64>() / n as f64;
        cholesky::factor(Level::best(), &mut l, padded, mean * LEAST_PIVOT);
        let mut r = vec![0.0; n * n];
        r.par_chunks_exact_mut(n).zip(l[..n * padded].par_rchunks_exact(padded)).enumerate().for_each(|(i, (r, l))| {
            r[i..].iter_mut().rev().zip(l).for_each(|(r, l)| *r = *l);
        });
        r
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sum = 0.0;
    dot_lanes(Level::best(), a, b, &mut sum);
    sum
}

dispatch!(fn dot_lanes = dot_body(a: &[f64], b: &[f64], sum: &mut f64));

#[inline(always)]
fn dot_body(a: &[f64], b: &[f64], sum: &mut f64) {
    let mut lanes = [0.0; 32];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    for (a, b) in a.iter().zip(b) {
        for l in 0..32 {
            lanes[l] += a[l] * b[l];
        }
    }
    let tail: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    *sum = lanes.iter().sum::<f64>() + tail;
}

/// H and R by groups of columns, in float32.
pub(super) struct Panels {
    pub(super) groups: Vec<GroupPanels>,
}

/// A group's columns.
pub(super) struct GroupPanels {
    /// H[.., group]: (n, group_len).
    pub(super) h: Vec<f32>,
    /// R[above the group, group] over R's diagonal: (first column of the group, group_len).
    pub(super) before: Vec<f32>,
    /// For error feedback: of R.
    pub(super) feedback: Square,
    /// For refinement: of the group's own R_g, `H_gg = R_g R_g^T`.
    pub(super) refinement: Square,
    /// H_gg^-1: (group_len, group_len).
    pub(super) inverse: Vec<f32>,
}

/// Inside a group: columns of R over its diagonal, and the diagonal's squares.
pub(super) struct Square {
    /// (group_len, group_len), strictly upper.
    pub(super) r: Vec<f32>,
    /// (group_len)
    pub(super) weight: Vec<f32>,
}

impl Square {
    /// From the square at `first` of R (n, n).
    fn new(r: &[f64], n: usize, first: usize, len: usize) -> Square {
        let at = |i: usize, j: usize| r[(first + i) * n + first + j];
        let cell =
            |k: usize| if k / len < k % len { (at(k / len, k % len) / at(k % len, k % len)) as f32 } else { 0.0 };
        Square {
            r: (0..len * len).map(cell).collect(),
            weight: (0..len).map(|j| (at(j, j) * at(j, j)) as f32).collect(),
        }
    }
}

impl Panels {
    pub(super) fn new(part: &Part, len: usize) -> Panels {
        let (n, r) = (part.n, part.upper());
        let pivots: Vec<f64> = (0..n).map(|j| 1.0 / r[j * (n + 1)]).collect();
        let panel = |first: usize| {
            let own = (0..len * len).map(|k| part.h[(first + k / len) * n + first + k % len]).collect();
            let own = Part::new(len, own);
            let own_r = own.upper();
            GroupPanels {
                h: Vec::with_capacity(n * len),
                before: Vec::with_capacity(first * len),
                feedback: Square::new(r, n, first, len),
                refinement: Square::new(own_r, len, 0, len),
                inverse: inverse(own_r, len),
            }
        };
        let mut groups: Vec<GroupPanels> = (0..n).into_par_iter().step_by(len).map(panel).collect();
        // Several groups a row: what lies beside each other is read together.
        groups.par_chunks_mut(TOGETHER).enumerate().for_each(|(i, groups)| {
            let first = i * TOGETHER * len;
            for (row, (h, r)) in part.h.chunks_exact(n).zip(r.chunks_exact(n)).enumerate() {
                for (group, first) in groups.iter_mut().zip((first..).step_by(len)) {
                    let columns = first..first + len;
                    group.h.extend(h[columns.clone()].iter().map(|x| *x as f32));
                    if row < first {
                        let scaled = r[columns.clone()].iter().zip(&pivots[columns]);
                        group.before.extend(scaled.map(|(x, pivot)| (x * pivot) as f32));
                    }
                }
            }
        });
        Panels { groups }
    }
}

/// `(R R^T)^-1` of an upper triangular R (n, n).
fn inverse(r: &[f64], n: usize) -> Vec<f32> {
    let inv = inverse_of_upper(r, n);
    let product = |i: usize, j: usize| (0..n).map(|k| inv[k * n + i] * inv[k * n + j]).sum::<f64>() as f32;
    (0..n * n).map(|k| product(k / n, k % n)).collect()
}

/// `R^-1` of an upper triangular R (n, n).
pub(super) fn inverse_of_upper(r: &[f64], n: usize) -> Vec<f64> {
    let mut inv = vec![0.0; n * n];
    // Columns by substitution from below.
    for j in 0..n {
        inv[j * n + j] = 1.0 / r[j * n + j];
        for i in (0..j).rev() {
            let sum: f64 = (i + 1..=j).map(|k| r[i * n + k] * inv[k * n + j]).sum();
            inv[i * n + j] = -sum / r[i * n + i];
        }
    }
    inv
}
