//! What PLaMo-2 has by heads: norms with weights for each, and a selective scan with one step size for each.

use super::cases::*;
use super::reference::{self as plain, Matrix};
use tamborim_kernels::*;
use tamborim_model::{Norm, NormKind};

const EPS: f32 = 1e-6;

fn rms<B: Backend>(ops: &B, weight: Vec<f32>) -> NormWeights<B::Vector> {
    NormWeights::new(ops, Norm { kind: NormKind::Rms, eps: EPS }, weight, Vec::new()).unwrap()
}

pub fn norms_by_head<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, heads, dim, rest) in [(1, 1, 1, 0), (3, 4, 6, 10), (9, 3, 64, 64), (40, 2, 100, 1), (2, 1, 1100, 0)] {
        let mut numbers = Numbers::new(31);
        let cols = heads * dim + rest;
        let (x, held) = numbers.rows(ops, tokens, cols + 8);
        let weight = numbers.take(heads * dim);
        let mut truth = held.columns(8, cols);
        for t in 0..tokens {
            let row = truth.row_mut(t);
            for (head, weight) in row.chunks_exact_mut(dim).zip(wide(&weight).chunks_exact(dim)) {
                head.copy_from_slice(&plain::rms_norm(&Matrix::new(dim, head.to_vec()), weight, f64::from(EPS)).data);
            }
        }
        let out = ops.norm_heads(&rms(ops, weight), dim, &ops.columns(&x, 8..8 + cols)).unwrap();
        outcome.push((format!("{tokens} x {heads} x {dim}, {rest} beyond"), compare(ops, &out, &truth, Kind::Plain)));
    }
    outcome
}

pub fn norms_behind<B: Backend>(ops: &B) -> Outcome {
    [(1, 1), (3, 7), (2, 1030), (70, 64)]
        .map(|(tokens, d)| {
            let mut numbers = Numbers::new(32);
            let weight = numbers.take(d);
            let (y, y_held) = numbers.rows(ops, tokens, d);
            let (mut r, r_held) = numbers.residual(ops, tokens, d);
            let truth = plain::rms_norm(&y_held, &wide(&weight), f64::from(EPS)).zip(&r_held, |y, r| y + r);
            ops.add_normed(&rms(ops, weight), &y, &mut r).unwrap();
            (format!("{tokens} x {d}"), compare(ops, &r, &truth, Kind::Plain))
        })
        .into()
}

pub fn gates<B: Backend>(ops: &B) -> Outcome {
    [(1, 1), (3, 17), (9, 1000)]
        .map(|(tokens, cols)| {
            let mut numbers = Numbers::new(33);
            let ((gate, gate_held), (x, x_held)) =
                (numbers.rows(ops, tokens, cols + 8), numbers.rows(ops, tokens, cols));
            let out = ops.gate(&ops.columns(&gate, 8..8 + cols), &x).unwrap();
            let truth = gate_held.columns(8, cols).map(plain::silu).zip(&x_held, |g, x| g * x);
            (format!("{tokens} x {cols}"), compare(ops, &out, &truth, Kind::Plain))
        })
        .into()
}

pub fn headed_scans<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, heads, dim, states) in
        [(1, 1, 1, 1), (3, 5, 4, 3), (12, 2, 20, 16), (70, 3, 33, 17), (40, 4, 16, 64), (19, 1, 128, 100)]
    {
        let mut numbers = Numbers::new(34);
        let cols = heads * dim;
        // Steps as after training, and one beyond softplus' threshold.
        let dt_bias: Vec<f32> =
            numbers.take(heads).iter().enumerate().map(|(i, x)| if i == 3 { 22.0 } else { x - 3.0 }).collect();
        let a: Vec<f32> = numbers.take(heads).iter().map(|x| -x.exp()).collect();
        let d = numbers.take(heads);
        let (_, u) = numbers.rows(ops, tokens, cols);
        let (_, dt) = numbers.rows(ops, tokens, heads);
        let (_, b) = numbers.rows(ops, tokens, states);
        let (_, c) = numbers.rows(ops, tokens, states);
        let (_, z) = numbers.rows(ops, tokens, 2 * cols);
        let mut truth = Matrix::zeros(tokens, cols);
        let mut h = vec![0.0; cols * states];
        for t in 0..tokens {
            for p in 0..cols {
                let head = p / dim;
                let raw = dt.row(t)[head] + f64::from(dt_bias[head]);
                let step = if raw > 20.0 { raw } else { raw.exp().ln_1p() };
                let mut sum = f64::from(d[head]) * u.row(t)[p];
                for n in 0..states {
                    let h = &mut h[p * states + n];
                    *h = (step * f64::from(a[head])).exp() * *h + step * b.row(t)[n] * u.row(t)[p];
                    sum += *h * c.row(t)[n];
                }
                truth.row_mut(t)[p] = sum * plain::silu(z.row(t)[cols + p]);
            }
        }
        let scan = HeadedScan {
            heads,
            head_dim: dim,
            d_state: states,
            dt_bias: ops.vector(dt_bias).unwrap(),
            a: ops.vector(a).unwrap(),
            d: ops.vector(d).unwrap(),
        };
        for split in splits(tokens) {
            let (mut state, mut pieces, mut at) = (ops.zeros(cols * states).unwrap(), Vec::new(), 0);
            for &n in &split {
                let [u, dt, b, c, z] = [&u, &dt, &b, &c, &z].map(|x| part(ops, x, at, n));
                let gate = ops.columns(&z, cols..2 * cols);
                pieces.push(ops.headed_scan(&scan, &u, [&dt, &b, &c], &gate, &mut state).unwrap());
                at += n;
            }
            let label = format!("{tokens} x {heads} x {dim} x {states}, in {}", split.len());
            outcome.push((label, found(&joined(ops, &pieces), &truth, Kind::Plain)));
        }
    }
    outcome
}
