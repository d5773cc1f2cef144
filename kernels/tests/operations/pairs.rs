//! Differential attention: what is around softmax attention, and the whole of it over keys of its own or of another layer.

use super::cases::*;
use super::reference::{self as plain, Matrix};
use tamborim_kernels::*;
use tamborim_model::{Norm, NormKind};

/// Both softmaxes of a pair of heads over both values of the pair, written as the paper has them.
fn differential(qkv: &Matrix, shape: [usize; 3], window: Option<usize>, lambda: f64, weight: &[f64]) -> Matrix {
    let [heads, groups, dim] = shape;
    let (q_cols, kv_cols) = (heads * dim, groups * dim);
    let head = |x: &Matrix, first: usize, h: usize, wide: usize| x.columns(first + h * dim, wide * dim);
    let mut out = Matrix::zeros(qkv.rows(), q_cols);
    for pair in 0..heads / 2 {
        let kv_pair = pair / (heads / groups);
        let values = head(qkv, q_cols + kv_cols, 2 * kv_pair, 2);
        let [even, odd] = [0, 1].map(|z| {
            let (q, k) = (head(qkv, 0, 2 * pair + z, 1), head(qkv, q_cols, 2 * kv_pair + z, 1));
            // Each half of the values by itself.
            let [low, high] = [0, dim].map(|at| plain::attention(&q, &k, &values.columns(at, dim), 1, 1, window));
            let rows = (0..qkv.rows()).flat_map(|t| [low.row(t), high.row(t)].concat()).collect();
            Matrix::new(2 * dim, rows)
        });
        let normed = plain::rms_norm(&even.zip(&odd, |a, b| a - lambda * b), weight, f64::from(1e-5f32));
        for t in 0..qkv.rows() {
            out.row_mut(t)[pair * 2 * dim..][..2 * dim].copy_from_slice(normed.row(t));
        }
    }
    out
}

pub fn differential_attention<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, heads, groups, dim, window) in [
        (1, 2, 2, 1, None),
        (12, 4, 2, 6, Some(1)),
        (40, 8, 4, 8, Some(5)),
        (11, 6, 2, 10, None),
        (150, 4, 2, 64, Some(64)),
        (130, 4, 4, 32, None),
        (70, 2, 2, 128, Some(20)),
    ] {
        let mut numbers = Numbers::new(30);
        let (q_cols, kv_cols) = (heads * dim, groups * dim);
        let (_, qkv) = numbers.rows(ops, tokens, q_cols + 2 * kv_cols);
        let (weight, lambda) = (numbers.take(2 * dim), 0.37f32);
        let twin = wide(&weight);
        let norm = NormWeights::new(ops, Norm { kind: NormKind::Rms, eps: 1e-5 }, weight, Vec::new()).unwrap();
        let shape = AttentionShape { heads, groups: groups / 2, head_dim: 2 * dim, window };
        let truth = differential(&qkv, [heads, groups, dim], window, f64::from(lambda), &twin);
        let (_, cross) = numbers.rows(ops, tokens, q_cols);
        let crossed: Vec<f64> = (0..tokens).flat_map(|t| [cross.row(t), &qkv.row(t)[q_cols..]].concat()).collect();
        let cross_truth =
            differential(&Matrix::new(qkv.cols, crossed), [heads, groups, dim], None, f64::from(lambda), &twin);
        let label = |what: &str, pieces: usize| {
            let window = window.map_or("all".to_owned(), |w| w.to_string());
            format!("{what} {tokens} x {heads}/{groups} x {dim}, window {window}, in {pieces}")
        };
        for split in splits(tokens) {
            let (mut kv, mut own, mut other, mut at) = (ops.key_values(&shape).unwrap(), Vec::new(), Vec::new(), 0);
            for &count in &split {
                ops.reserve(&mut kv, &shape, (at + count) as u64).unwrap();
                let place = place(ops, &vec![0; count], at as u64);
                let spread = ops.spread_pairs(heads, dim, &part(ops, &qkv, at, count)).unwrap();
                let attended = ops.attend(&shape, None, &spread, &place, &mut kv).unwrap();
                own.push(ops.differential_norm(&norm, lambda, &attended).unwrap());
                // What is forgotten cannot be attended to by another layer.
                if window.is_none() {
                    let q = ops.spread_pairs(heads, dim, &part(ops, &cross, at, count)).unwrap();
                    let attended = ops.attend_over(&shape, &q, &place, &kv).unwrap();
                    other.push(ops.differential_norm(&norm, lambda, &attended).unwrap());
                }
                at += count;
            }
            outcome.push((label("own", split.len()), found(&joined(ops, &own), &truth, Kind::Chained)));
            if window.is_none() {
                outcome.push((label("cross", split.len()), found(&joined(ops, &other), &cross_truth, Kind::Chained)));
            }
        }
        if window.is_none() && tokens > 1 {
            // The last token alone, after all keys are there: what a prefill does.
            let (mut kv, all) = (ops.key_values(&shape).unwrap(), place(ops, &vec![0; tokens], 0));
            ops.reserve(&mut kv, &shape, tokens as u64).unwrap();
            ops.attend(
                &shape,
                None,
                &ops.spread_pairs(heads, dim, &part(ops, &qkv, 0, tokens)).unwrap(),
                &all,
                &mut kv,
            )
            .unwrap();
            let q = ops.spread_pairs(heads, dim, &part(ops, &cross, tokens - 1, 1)).unwrap();
            let last = place(ops, &[0], tokens as u64 - 1);
            let attended = ops.attend_over(&shape, &q, &last, &kv).unwrap();
            let out = ops.differential_norm(&norm, lambda, &attended).unwrap();
            let truth = Matrix::new(q_cols, cross_truth.row(tokens - 1).to_vec());
            outcome.push((label("last", 1), compare(ops, &out, &truth, Kind::Chained)));
        }
    }
    outcome
}
