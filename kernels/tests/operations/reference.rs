//! The operations in float64, written for reading: no blocks, no chunks, no states beyond what the formulas have.

/// Rows of numbers.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub data: Vec<f64>,
    pub cols: usize,
}

impl Matrix {
    pub fn new(cols: usize, data: Vec<f64>) -> Matrix {
        Matrix { data, cols }
    }

    pub fn zeros(rows: usize, cols: usize) -> Matrix {
        Matrix { data: vec![0.0; rows * cols], cols }
    }

    pub fn rows(&self) -> usize {
        self.data.len() / self.cols
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..][..self.cols]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.cols..][..self.cols]
    }

    pub fn columns(&self, from: usize, count: usize) -> Matrix {
        let data = (0..self.rows()).flat_map(|i| self.row(i)[from..from + count].to_vec()).collect();
        Matrix { data, cols: count }
    }

    pub fn map(mut self, f: impl Fn(f64) -> f64) -> Matrix {
        self.data.iter_mut().for_each(|x| *x = f(*x));
        self
    }

    pub fn zip(mut self, other: &Matrix, f: impl Fn(f64, f64) -> f64) -> Matrix {
        self.data.iter_mut().zip(&other.data).for_each(|(a, b)| *a = f(*a, *b));
        self
    }
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

pub fn linear(x: &Matrix, w: &Matrix, bias: Option<&[f64]>) -> Matrix {
    let mut y = Matrix::zeros(x.rows(), w.rows());
    for t in 0..x.rows() {
        for o in 0..w.rows() {
            let sum: f64 = x.row(t).iter().zip(w.row(o)).map(|(a, b)| a * b).sum();
            y.row_mut(t)[o] = sum + bias.map_or(0.0, |b| b[o]);
        }
    }
    y
}

pub fn rms_norm(x: &Matrix, weight: &[f64], eps: f64) -> Matrix {
    let mut y = x.clone();
    for head in y.data.chunks_exact_mut(weight.len()) {
        let mean = head.iter().map(|x| x * x).sum::<f64>() / head.len() as f64;
        head.iter_mut().zip(weight).for_each(|(x, w)| *x *= w / (mean + eps).sqrt());
    }
    y
}

pub fn layer_norm(x: &Matrix, weight: &[f64], bias: &[f64], eps: f64) -> Matrix {
    let mut y = x.clone();
    for row in y.data.chunks_exact_mut(x.cols) {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) / (variance + eps).sqrt() * w + b;
        }
    }
    y
}

/// `taps` (width, channels), oldest first.
pub fn conv(x: &Matrix, taps: &Matrix, bias: Option<&[f64]>) -> Matrix {
    let mut y = Matrix::zeros(x.rows(), x.cols);
    for t in 0..x.rows() {
        for c in 0..x.cols {
            let mut sum = bias.map_or(0.0, |b| b[c]);
            for j in 0..taps.rows() {
                if t + j + 1 >= taps.rows() {
                    sum += taps.row(j)[c] * x.row(t + j + 1 - taps.rows())[c];
                }
            }
            y.row_mut(t)[c] = silu(sum);
        }
    }
    y
}

pub struct ScanWeights<'m> {
    pub dt: &'m Matrix,
    pub dt_bias: &'m [f64],
    /// (channels, states)
    pub a: &'m Matrix,
    pub d: &'m [f64],
}

pub fn scan(w: &ScanWeights<'_>, u: &Matrix, driven: &Matrix, gate: Option<&Matrix>) -> Matrix {
    let (rank, n) = (w.dt.cols, w.a.cols);
    let raw = linear(&driven.columns(0, rank), w.dt, Some(w.dt_bias));
    let dt = raw.map(|x| if x > 20.0 { x } else { x.exp().ln_1p() });
    let mut h = Matrix::zeros(u.cols, n);
    let mut y = Matrix::zeros(u.rows(), u.cols);
    for t in 0..u.rows() {
        let (b, c) = (&driven.row(t)[rank..rank + n], &driven.row(t)[rank + n..]);
        for i in 0..u.cols {
            let (step, x) = (dt.row(t)[i], u.row(t)[i]);
            let mut sum = w.d[i] * x;
            for s in 0..n {
                let next = (step * w.a.row(i)[s]).exp() * h.row(i)[s] + step * b[s] * x;
                h.row_mut(i)[s] = next;
                sum += next * c[s];
            }
            y.row_mut(t)[i] = sum * gate.map_or(1.0, |z| silu(z.row(t)[i]));
        }
    }
    y
}

/// Rotate-half over the first `dims` channels of every head; angles are float32 numbers, as trained. `round`: of cosines and
/// sines.
pub fn rotate(x: &Matrix, head_dim: usize, dims: usize, theta: &[f32], round: fn(f64) -> f64) -> Matrix {
    let (mut y, half) = (x.clone(), dims / 2);
    for t in 0..x.rows() {
        for head in y.row_mut(t).chunks_exact_mut(head_dim) {
            for i in 0..half {
                let angle = f64::from(t as f32 * theta[i]);
                let (sin, cos) = (round(angle.sin()), round(angle.cos()));
                let (a, b) = (head[i], head[half + i]);
                head[i] = a * cos - b * sin;
                head[half + i] = b * cos + a * sin;
            }
        }
    }
    y
}

fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    scores.iter_mut().for_each(|s| *s = (*s - max).exp() / sum);
}

pub fn attention(q: &Matrix, k: &Matrix, v: &Matrix, heads: usize, groups: usize, window: Option<usize>) -> Matrix {
    let dim = q.cols / heads;
    let mut y = Matrix::zeros(q.rows(), q.cols);
    for t in 0..q.rows() {
        let oldest = window.map_or(0, |w| (t + 1).saturating_sub(w));
        for h in 0..heads {
            let at = h / (heads / groups) * dim;
            let query = &q.row(t)[h * dim..][..dim];
            let score =
                |s: usize| query.iter().zip(&k.row(s)[at..]).map(|(a, b)| a * b).sum::<f64>() / (dim as f64).sqrt();
            let mut scores: Vec<f64> = (oldest..=t).map(score).collect();
            softmax(&mut scores);
            for (p, s) in scores.iter().zip(oldest..) {
                for i in 0..dim {
                    y.row_mut(t)[h * dim + i] += p * v.row(s)[at + i];
                }
            }
        }
    }
    y
}

/// `decay` (tokens, heads * keys).
pub fn outer_scan(heads: usize, q: &Matrix, k: &Matrix, v: &Matrix, decay: &Matrix) -> Matrix {
    let (keys, values) = (q.cols / heads, v.cols / heads);
    let mut y = Matrix::zeros(q.rows(), v.cols);
    for h in 0..heads {
        let mut s = Matrix::zeros(keys, values);
        for t in 0..q.rows() {
            for i in 0..keys {
                for j in 0..values {
                    let next =
                        decay.row(t)[h * keys + i] * s.row(i)[j] + k.row(t)[h * keys + i] * v.row(t)[h * values + j];
                    s.row_mut(i)[j] = next;
                    y.row_mut(t)[h * values + j] += q.row(t)[h * keys + i] * next / (keys as f64).sqrt();
                }
            }
        }
    }
    y
}

pub struct Mega<'m> {
    /// Scales, then offsets: of queries, then of keys.
    pub gamma: &'m Matrix,
    pub beta: &'m Matrix,
    pub positions: [&'m Matrix; 2],
    pub d: usize,
    pub chunk: usize,
}

pub fn mega_attend(w: &Mega<'_>, mixed: &Matrix, v: &Matrix) -> Matrix {
    let (d, z) = (w.d, w.gamma.cols);
    let affine = |which: usize| {
        let mut x = mixed.columns(d, z).map(silu);
        for t in 0..x.rows() {
            let row = x.row_mut(t).iter_mut();
            row.zip(w.gamma.row(which)).zip(w.beta.row(which)).for_each(|((x, g), b)| *x = *x * g + b);
        }
        x
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (q, k) = (affine(0), affine(1));
    let mut y = Matrix::zeros(v.rows(), d);
    for t in 0..v.rows() {
        let start = t / w.chunk * w.chunk;
        let bias = |s: usize| dot(w.positions[0].row(t - start), w.positions[1].row(s - start));
        let mut scores: Vec<f64> = (start..=t).map(|s| dot(q.row(t), k.row(s)) / (z as f64).sqrt() + bias(s)).collect();
        softmax(&mut scores);
        for (p, s) in scores.iter().zip(start..) {
            y.row_mut(t).iter_mut().zip(v.row(s)).for_each(|(y, v)| *y += p * silu(*v));
        }
        y.row_mut(t).iter_mut().zip(&mixed.row(t)[d + z..]).for_each(|(y, r)| *y *= silu(*r));
    }
    y
}

/// What is added to r.
pub fn mega_update(d: usize, z: usize, mixed: &Matrix, y: &Matrix, r: &Matrix) -> Matrix {
    let mut out = r.clone();
    for t in 0..r.rows() {
        let m = mixed.row(t);
        for (i, x) in out.row_mut(t).iter_mut().enumerate() {
            *x += sigmoid(m[i]) * (silu(y.row(t)[i] + m[2 * d + z + i]) - *x);
        }
    }
    out
}
