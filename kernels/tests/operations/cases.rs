//! The table of cases: an operation, the sizes it is tried on, and its twin in float64.

use super::headed::{gates, headed_scans, norms_behind, norms_by_head};
use super::pairs::differential_attention;
use super::reference::{self as plain, Matrix};
use std::marker::PhantomData;
use tamborim_kernels::parity::distance;
use tamborim_kernels::*;
use tamborim_model::mixers::{Rope, RopeTable};
use tamborim_model::{Norm, NormKind};
use tamborim_quant::{Format, Sums, Tensor};

/// How far off an operation was.
pub struct Found {
    /// `|out - ref| / |ref|`
    pub error: f64,
    /// What its limit depends on.
    pub kind: Kind,
}

/// What an operation is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One operation, or several without a rounding in between.
    Plain,
    /// Several, whose results in between are activations.
    Chained,
    /// With quantized weights.
    Quantized,
}

impl Kind {
    fn of(format: Format) -> Kind {
        if format.is_quantized() { Kind::Quantized } else { Kind::Plain }
    }
}

/// Sizes tried, and what came out.
pub type Outcome = Vec<(String, Found)>;

/// An operation of the table.
pub struct Case<B> {
    pub name: &'static str,
    pub check: fn(&B) -> Outcome,
}

/// The table, for a backend.
pub struct Cases<B>(PhantomData<B>);

macro_rules! cases {
    ($($name:ident)*) => {
        impl<B: Backend> Cases<B> {
            pub fn all() -> Vec<Case<B>> {
                vec![$(Case { name: stringify!($name), check: $name::<B> },)*]
            }
        }
    };
}

cases! {
    rows_and_views embedding linear_formats linear_sizes stacked_maps projections
    norms norm_per_head silu convolution projected_convolution scan_sizes scan_formats
    scans_of_many_channels attention rotation outer_products mega gram differences distances choices
    differential_attention norms_by_head norms_behind gates headed_scans
}

/// Numbers that look random and are the same everywhere, about standard normal.
pub struct Numbers(fastrand::Rng);

impl Numbers {
    pub fn new(seed: u64) -> Numbers {
        Numbers(fastrand::Rng::with_seed(seed))
    }

    pub fn take(&mut self, n: usize) -> Vec<f32> {
        // The sum of twelve uniform numbers has variance 1.
        (0..n).map(|_| (0..12).map(|_| self.0.f32()).sum::<f32>() - 6.0).collect()
    }

    fn scaled(&mut self, n: usize, scale: f32) -> Vec<f32> {
        self.take(n).into_iter().map(|x| x * scale).collect()
    }

    /// Rows on the backend, and the numbers they hold there, which fast mode has rounded.
    pub fn rows<B: Backend>(&mut self, ops: &B, rows: usize, cols: usize) -> (B::Rows, Matrix) {
        let x = ops.rows(cols, self.take(rows * cols)).unwrap();
        let held = matrix(ops, &x, cols);
        (x, held)
    }

    /// A residual stream, which is float32 in every mode: the rows of an embedding.
    pub fn residual<B: Backend>(&mut self, ops: &B, rows: usize, cols: usize) -> (B::Rows, Matrix) {
        let table = ops.stack(vec![self.map(rows, cols, Format::F32, false).0]).unwrap();
        let place = place(ops, &(0..rows as u32).collect::<Vec<_>>(), 0);
        let r = ops.embed(&table, &place).unwrap();
        let held = matrix(ops, &r, cols);
        (r, held)
    }

    /// A map, its weights decoded, and its bias.
    fn map(&mut self, n: usize, k: usize, format: Format, bias: bool) -> (Map<'static>, Matrix, Option<Vec<f64>>) {
        let numbers = self.scaled(n * k, 1.0 / (k as f32).sqrt());
        let weight = Tensor::quantize(&numbers, vec![n, k], format, None).unwrap();
        let decoded = wide(&weight.to_f32());
        let bias = bias.then(|| self.take(n));
        let wide_bias = bias.as_deref().map(wide);
        (Map { name: "map.weight".to_owned(), weight, bias }, Matrix::new(k, decoded), wide_bias)
    }
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn matrix<B: Backend>(ops: &B, x: &B::Rows, cols: usize) -> Matrix {
    Matrix::new(cols, wide(&ops.read(x).unwrap()))
}

pub fn place<B: Backend>(ops: &B, tokens: &[u32], position: u64) -> B::Place {
    let mut place = None;
    ops.set_place(&mut place, tokens, position).unwrap();
    place.unwrap()
}

pub fn compare<B: Backend>(ops: &B, out: &B::Rows, truth: &Matrix, kind: Kind) -> Found {
    found(&ops.read(out).unwrap(), truth, kind)
}

pub fn found<T: Copy + Into<f64>>(out: &[T], truth: &Matrix, kind: Kind) -> Found {
    assert_eq!(out.len(), truth.data.len(), "numbers that came out");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut out.iter().zip(&truth.data).map(|(a, b)| (*a).into() - b));
    let total = norm(&mut truth.data.iter().copied());
    Found { error: if error == 0.0 { 0.0 } else { error / total }, kind }
}

/// All pieces' rows, one after the other.
pub fn joined<B: Backend>(ops: &B, pieces: &[B::Rows]) -> Vec<f32> {
    pieces.iter().flat_map(|p| ops.read(p).unwrap()).collect()
}

/// How a sequence of `tokens` is handed over: at once, one by one, or in uneven pieces.
pub fn splits(tokens: usize) -> Vec<Vec<usize>> {
    let mut uneven = Vec::new();
    let mut left = tokens;
    for size in [1, 7, 2, 64, 3, 33].into_iter().cycle() {
        if left == 0 {
            break;
        }
        uneven.push(size.min(left));
        left -= size.min(left);
    }
    match tokens {
        1 => vec![vec![1]],
        2..=12 => vec![vec![tokens], vec![1; tokens], uneven],
        _ => vec![vec![tokens], uneven],
    }
}

pub fn part<B: Backend>(ops: &B, x: &Matrix, from: usize, count: usize) -> B::Rows {
    let data = x.data[from * x.cols..][..count * x.cols].iter().map(|x| *x as f32).collect();
    ops.rows(x.cols, data).unwrap()
}

fn rows_and_views<B: Backend>(ops: &B) -> Outcome {
    let (x, truth) = Numbers::new(1).rows(ops, 5, 24);
    let view = ops.columns(&x, 3..11);
    vec![
        ("whole".into(), compare(ops, &x, &truth, Kind::Plain)),
        ("columns".into(), compare(ops, &view, &truth.columns(3, 8), Kind::Plain)),
        ("a row".into(), compare(ops, &ops.row(&view, 3), &Matrix::new(8, truth.row(3)[3..11].to_vec()), Kind::Plain)),
    ]
}

fn embedding<B: Backend>(ops: &B) -> Outcome {
    let tokens = [3, 0, 18, 3, 7];
    let mut numbers = Numbers::new(2);
    let mut outcome = Vec::new();
    for &format in Format::ALL {
        let k = if format.block_len() > 1 { 512 } else { 20 };
        let (map, w, _) = numbers.map(19, k, format, false);
        let table = ops.stack(vec![map]).unwrap();
        let out = ops.embed(&table, &place(ops, &tokens, 0)).unwrap();
        let truth = tokens.iter().flat_map(|t| w.row(*t as usize).to_vec()).collect();
        let found = compare(ops, &out, &Matrix::new(k, truth), Kind::Plain);
        assert!(
            found.error == 0.0 || format.name() == "f32" || found.error < 4e-3,
            "embedding rows are decoded exactly"
        );
        outcome.push((format.name().to_owned(), found));
    }
    outcome
}

fn one_linear<B: Backend>(ops: &B, seed: u64, [t, n, k]: [usize; 3], format: Format, bias: bool) -> (String, Found) {
    let mut numbers = Numbers::new(seed);
    let (map, w, b) = numbers.map(n, k, format, bias);
    let stack = ops.stack(vec![map]).unwrap();
    let (x, held) = numbers.rows(ops, t, k);
    let out = ops.linear(&stack, &x).unwrap();
    let truth = plain::linear(&held, &w, b.as_deref());
    let kind = Kind::of(format);
    (
        format!("{} {t} x {n} x {k}{}", format.name(), if bias { " + bias" } else { "" }),
        compare(ops, &out, &truth, kind),
    )
}

fn linear_formats<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (i, format) in Format::ALL.iter().copied().enumerate() {
        for [t, n, k] in [[1, 6, 256], [1, 37, 768], [2, 5, 512], [8, 70, 256], [9, 33, 512], [67, 130, 256]] {
            outcome.push(one_linear(ops, 100 + i as u64, [t, n, k], format, t == 2));
        }
        if format.block_len() == 32 {
            outcome.push(one_linear(ops, 150, [1, 19, 96], format, true));
            outcome.push(one_linear(ops, 151, [30, 19, 32], format, false));
        }
    }
    outcome
}

fn linear_sizes<B: Backend>(ops: &B) -> Outcome {
    let sizes =
        [[1, 1, 1], [1, 3, 5], [3, 1, 17], [5, 7, 1], [1, 300, 20], [17, 33, 65], [64, 128, 64], [130, 129, 100]];
    let mut outcome: Outcome = sizes.into_iter().map(|s| one_linear(ops, 7, s, Format::F32, s[0] % 2 == 1)).collect();
    outcome.extend([[1, 12, 36], [6, 9, 44], [40, 50, 60]].map(|s| one_linear(ops, 8, s, Format::Bf16, true)));
    outcome.push(one_linear(ops, 9, [1, 6, 5000], Format::Bf16, true));
    outcome
}

fn stacked_maps<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for tokens in [1, 4, 40] {
        let mut numbers = Numbers::new(11);
        let k = 256;
        let formats =
            [(24, Format::Q4K, true), (8, Format::Q4K, true), (9, Format::Q6K, false), (17, Format::F32, true)];
        let (mut maps, mut truth) = (Vec::new(), Vec::new());
        let (x, held) = numbers.rows(ops, tokens, k);
        for (n, format, bias) in formats {
            let (map, w, b) = numbers.map(n, k, format, bias);
            truth.push(plain::linear(&held, &w, b.as_deref()));
            maps.push(map);
        }
        let out = ops.linear(&ops.stack(maps).unwrap(), &x).unwrap();
        let rows = (0..tokens).flat_map(|t| truth.iter().flat_map(move |m| m.row(t).to_vec())).collect();
        outcome.push((format!("{tokens} tokens"), compare(ops, &out, &Matrix::new(58, rows), Kind::Quantized)));
    }
    outcome
}

fn norm_weights<B: Backend>(
    ops: &B,
    numbers: &mut Numbers,
    kind: NormKind,
    d: usize,
) -> (NormWeights<B::Vector>, Vec<f64>, Vec<f64>) {
    let (weight, bias) = (numbers.take(d), numbers.take(d));
    let (w, b) = (wide(&weight), wide(&bias));
    (NormWeights::new(ops, Norm { kind, eps: 1e-5 }, weight, bias).unwrap(), w, b)
}

fn normed(kind: NormKind, x: &Matrix, w: &[f64], b: &[f64]) -> Matrix {
    let eps = f64::from(1e-5f32);
    match kind {
        NormKind::Rms => plain::rms_norm(x, w, eps),
        NormKind::Layer => plain::layer_norm(x, w, b, eps),
    }
}

/// The fused forms: norm in front, gate or sum behind.
fn projections<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for norm_kind in [NormKind::Rms, NormKind::Layer] {
        for (tokens, format, k, n) in [
            (1, Format::F32, 20, 14),
            (1, Format::Bf16, 264, 50),
            (1, Format::Q4K, 256, 36),
            (1, Format::Q8_0, 512, 40),
            (3, Format::Q4_0, 96, 20),
            (33, Format::Q6K, 256, 24),
            (18, Format::F32, 36, 12),
        ] {
            let mut numbers = Numbers::new(12);
            let kind = Kind::of(format);
            let (norm, w, b) = norm_weights(ops, &mut numbers, norm_kind, k);
            let (r, held) = numbers.residual(ops, tokens, k);
            let x = normed(norm_kind, &held, &w, &b);
            let label = |what: &str| format!("{what} {norm_kind:?} {} {tokens} x {n} x {k}", format.name());
            let (map, weight, bias) = numbers.map(n, k, format, true);
            let out = ops.project(&norm, &ops.stack(vec![map]).unwrap(), &r).unwrap();
            outcome.push((label("project"), compare(ops, &out, &plain::linear(&x, &weight, bias.as_deref()), kind)));

            let (gate, gate_weight, _) = numbers.map(n, k, format, false);
            let (up, up_weight, _) = numbers.map(n, k, format, false);
            let out = ops.project_gated(&norm, &ops.stack_gated(gate, up).unwrap(), &r).unwrap();
            let gates = plain::linear(&x, &gate_weight, None).map(plain::silu);
            let truth = gates.zip(&plain::linear(&x, &up_weight, None), |g, u| g * u);
            let gated_kind = if kind == Kind::Plain { Kind::Chained } else { kind };
            outcome.push((label("gated"), compare(ops, &out, &truth, gated_kind)));

            let (map, weight, bias) = numbers.map(n, k, format, true);
            let (x, x_held) = numbers.rows(ops, tokens, k);
            let (mut r, r_held) = numbers.residual(ops, tokens, n);
            ops.add_linear(&ops.stack(vec![map]).unwrap(), &x, &mut r).unwrap();
            let truth = plain::linear(&x_held, &weight, bias.as_deref()).zip(&r_held, |y, r| y + r);
            outcome.push((label("add"), compare(ops, &r, &truth, kind)));
        }
    }
    outcome
}

fn norms<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for kind in [NormKind::Rms, NormKind::Layer] {
        for (tokens, d) in [(1, 1), (3, 7), (5, 96), (2, 1030), (70, 64)] {
            if kind == NormKind::Layer && d == 1 {
                continue; // nothing but the bias remains
            }
            let mut numbers = Numbers::new(13);
            let (norm, w, b) = norm_weights(ops, &mut numbers, kind, d);
            let (r, held) = numbers.residual(ops, tokens, d);
            let out = ops.norm(&norm, &r).unwrap();
            outcome.push((
                format!("{kind:?} {tokens} x {d}"),
                compare(ops, &out, &normed(kind, &held, &w, &b), Kind::Plain),
            ));
        }
    }
    outcome
}

fn norm_per_head<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, heads, dim) in [(1, 2, 6), (5, 3, 64), (40, 1, 100)] {
        let mut numbers = Numbers::new(14);
        let (norm, w, b) = norm_weights(ops, &mut numbers, NormKind::Rms, dim);
        let (o, o_held) = numbers.rows(ops, tokens, heads * dim);
        let (wide_gate, gate_held) = numbers.rows(ops, tokens, heads * dim + 16);
        let gate = ops.columns(&wide_gate, 8..8 + heads * dim);
        let out = ops.gated_norm(&norm, &o, &gate).unwrap();
        let truth = normed(NormKind::Rms, &o_held, &w, &b);
        let truth = truth.zip(&gate_held.columns(8, heads * dim), |o, g| o * plain::silu(g));
        outcome.push((format!("{tokens} x {heads} x {dim}"), compare(ops, &out, &truth, Kind::Plain)));
    }
    outcome
}

fn silu<B: Backend>(ops: &B) -> Outcome {
    [(1, 1), (3, 17), (9, 1000)]
        .map(|(tokens, cols)| {
            let (mut x, held) = Numbers::new(15).rows(ops, tokens, cols);
            ops.silu(&mut x).unwrap();
            (format!("{tokens} x {cols}"), compare(ops, &x, &held.map(plain::silu), Kind::Plain))
        })
        .into()
}

fn convolution<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, channels, width, bias) in [
        (1, 1, 4, false),
        (2, 20, 4, true),
        (5, 33, 3, true),
        (12, 64, 1, false),
        (9, 8, 8, true),
        (150, 130, 4, true),
        (40, 256, 2, false),
        (70, 192, 4, true),
    ] {
        let mut numbers = Numbers::new(16);
        let kernel = numbers.scaled(channels * width, 0.5);
        let bias = bias.then(|| numbers.take(channels));
        let conv = Conv::new(ops, &kernel, width, bias.clone()).unwrap();
        let taps = (0..width).flat_map(|j| kernel.iter().skip(j).step_by(width).map(|x| f64::from(*x))).collect();
        // A view: the convolution's input is half of a projection.
        let (_, held) = numbers.rows(ops, tokens, channels + 24);
        let truth = plain::conv(
            &held.columns(16, channels),
            &Matrix::new(channels, taps),
            bias.as_deref().map(wide).as_deref(),
        );
        for split in splits(tokens) {
            let (mut past, mut pieces, mut at) = (ops.zeros(conv.past_len(channels)).unwrap(), Vec::new(), 0);
            for count in &split {
                let x = ops.columns(&part(ops, &held, at, *count), 16..16 + channels);
                pieces.push(ops.conv(&conv, &x, &mut past).unwrap());
                at += count;
            }
            let label = format!("{tokens} x {channels}, width {width}, in {}", split.len());
            outcome.push((label, found(&joined(ops, &pieces), &truth, Kind::Plain)));
        }
    }
    outcome
}

/// A projection of which the first outputs go through a convolution.
fn projected_convolution<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (format, k, parts, width, bias) in [
        (Format::F32, 20, [14, 14], 4, true),
        (Format::Bf16, 264, [530, 20], 4, false),
        (Format::Q4K, 256, [36, 36], 3, true),
        (Format::Q8_0, 512, [7, 60], 1, true),
        (Format::Q6K, 256, [40, 3], 2, false),
    ] {
        let tokens = 7;
        let mut numbers = Numbers::new(23);
        let [channels, others] = parts;
        let (norm, w, b) = norm_weights(ops, &mut numbers, NormKind::Rms, k);
        let (map, weight, _) = numbers.map(channels + others, k, format, false);
        let stack = ops.stack(vec![map]).unwrap();
        let kernel = numbers.scaled(channels * width, 0.5);
        let bias = bias.then(|| numbers.take(channels));
        let conv = Conv::new(ops, &kernel, width, bias.clone()).unwrap();
        let taps = (0..width).flat_map(|j| kernel.iter().skip(j).step_by(width).map(|x| f64::from(*x))).collect();
        let table = ops.stack(vec![numbers.map(tokens, k, Format::F32, false).0]).unwrap();
        let residual = |from: usize, count: usize| {
            ops.embed(&table, &place(ops, &(from as u32..(from + count) as u32).collect::<Vec<_>>(), 0)).unwrap()
        };
        let held = matrix(ops, &residual(0, tokens), k);
        let y = plain::linear(&normed(NormKind::Rms, &held, &w, &b), &weight, None);
        let taps = Matrix::new(channels, taps);
        let mixed = plain::conv(&y.columns(0, channels), &taps, bias.as_deref().map(wide).as_deref());
        let kind = if format.is_quantized() { Kind::Quantized } else { Kind::Chained };
        for split in splits(tokens) {
            let (mut past, mut pieces, mut at) = (ops.zeros(conv.past_len(channels)).unwrap(), Vec::new(), 0);
            for count in &split {
                pieces.push(ops.project_conv(&norm, &stack, &residual(at, *count), &conv, &mut past, parts).unwrap());
                at += count;
            }
            let (first, second): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
            let label =
                |part| format!("{part} of {} {parts:?} x {k}, width {width}, in {}", format.name(), split.len());
            outcome.push((label("first"), found(&joined(ops, &first), &mixed, kind)));
            outcome.push((label("second"), found(&joined(ops, &second), &y.columns(channels, others), kind)));
        }
    }
    outcome
}

/// Tokens that the device chooses itself, one after the other.
fn choices<B: Backend>(ops: &B) -> Outcome {
    let (vocab, padded) = (1003, 1024);
    // Of equal logits the first counts, and what pads the vocabulary never.
    let peaks = [vec![7], vec![1002], vec![0], vec![501, 500], vec![1010, 3]];
    let chosen = [7, 1002, 0, 500, 3];
    let mut numbers = Numbers::new(24);
    let mut logits = numbers.scaled(peaks.len() * padded, 0.1);
    for (row, peaks) in logits.chunks_mut(padded).zip(&peaks) {
        peaks.iter().for_each(|p| row[*p] = 8.0);
    }
    let weight = Tensor::quantize(&logits, vec![peaks.len(), padded], Format::F32, None).unwrap();
    let logits = ops.stack(vec![Map { name: "logits".to_owned(), weight, bias: None }]).unwrap();
    let (map, embeddings, _) = numbers.map(vocab, 20, Format::F32, false);
    let embedding = ops.stack(vec![map]).unwrap();
    let mut outcome = Vec::new();
    let mut next = place(ops, &[5], 40);
    for (i, token) in chosen.into_iter().enumerate() {
        let row = ops.embed(&logits, &place(ops, &[i as u32], 0)).unwrap();
        ops.take_likeliest(&row, vocab, &mut next).unwrap();
        let truth = Matrix::new(20, embeddings.row(token as usize).to_vec());
        outcome.push((format!("{token}"), compare(ops, &ops.embed(&embedding, &next).unwrap(), &truth, Kind::Plain)));
    }
    assert_eq!(ops.taken(&next, 5, 45).unwrap(), chosen);
    assert_eq!(ops.taken(&next, 2, 45).unwrap(), chosen[3..]);
    outcome
}

struct ScanSize {
    tokens: usize,
    channels: usize,
    states: usize,
    rank: usize,
    gate: bool,
    dt: Format,
}

/// All outputs for each way to hand the tokens over.
fn one_scan<B: Backend>(ops: &B, size: &ScanSize, splits: &[Vec<usize>], outcome: &mut Outcome) -> Vec<Vec<f32>> {
    let ScanSize { tokens, channels, states, rank, gate, dt } = *size;
    let mut numbers = Numbers::new(17);
    let (mut map, dt_weight, _) = numbers.map(channels, rank, dt, false);
    // Steps as after training: mostly 0.001 to 0.1, some beyond softplus' threshold.
    let bias: Vec<f32> =
        numbers.take(channels).iter().enumerate().map(|(i, x)| if i % 29 == 3 { 22.0 } else { x - 4.0 }).collect();
    map.bias = Some(bias.clone());
    let a: Vec<f32> = numbers
        .take(channels * states)
        .iter()
        .enumerate()
        .map(|(i, x)| -(0.2 * x).exp() * (1 + i % states) as f32)
        .collect();
    let d = numbers.take(channels);
    let scan = ops.load_scan(map, a.clone(), d.clone()).unwrap();
    let (_, u) = numbers.rows(ops, tokens, channels);
    let (_, driven) = numbers.rows(ops, tokens, rank + 2 * states);
    let (_, z) = numbers.rows(ops, tokens, 2 * channels);
    let (dt_bias, d) = (wide(&bias), wide(&d));
    let weights = plain::ScanWeights { dt: &dt_weight, dt_bias: &dt_bias, a: &Matrix::new(states, wide(&a)), d: &d };
    let half = z.columns(channels, channels);
    let truth = plain::scan(&weights, &u, &driven, gate.then_some(&half));
    let mut outputs = Vec::new();
    for split in splits {
        let (mut state, mut pieces, mut at) = (ops.scan_state(&scan).unwrap(), Vec::new(), 0);
        for &count in split {
            let z = ops.columns(&part(ops, &z, at, count), channels..2 * channels);
            let (u, driven) = (part(ops, &u, at, count), part(ops, &driven, at, count));
            pieces.push(ops.scan(&scan, &u, &driven, gate.then_some(&z), &mut state).unwrap());
            at += count;
        }
        let label = format!(
            "{tokens} x {channels} x {states}, rank {rank} {}{}, in {}",
            dt.name(),
            if gate { ", gated" } else { "" },
            split.len()
        );
        let output = joined(ops, &pieces);
        outcome.push((label, found(&output, &truth, Kind::of(dt))));
        outputs.push(output);
    }
    outputs
}

fn scan_sizes<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, channels, states, rank, gate) in [
        (1, 1, 1, 1, false),
        (3, 20, 4, 2, true),
        (12, 130, 16, 5, true),
        (65, 40, 16, 8, false),
        (300, 33, 16, 3, true),
        (20, 20, 11, 2, true),
        (40, 12, 64, 1, false),
        (9, 772, 32, 49, true),
    ] {
        let size = ScanSize { tokens, channels, states, rank, gate, dt: Format::F32 };
        one_scan(ops, &size, &splits(tokens), &mut outcome);
    }
    outcome
}

/// More channels than a GPU works on at a time, whole and in pieces: how its blocks divide them, which depends on the tokens,
/// must not show in any bit. The rank is 1, so that how products are summed does not either.
fn scans_of_many_channels<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (channels, states, pieces) in [(4608, 16, [23, 277]), (4489, 4, [265, 263]), (4500, 32, [100, 161])] {
        let tokens = pieces.iter().sum();
        let size = ScanSize { tokens, channels, states, rank: 1, gate: true, dt: Format::F32 };
        let outputs = one_scan(ops, &size, &[vec![tokens], pieces.to_vec()], &mut outcome);
        let bits = |i: usize| outputs[i].iter().map(|x| x.to_bits());
        assert!(bits(0).eq(bits(1)), "{channels} channels: pieces of {pieces:?} tokens differ from the whole");
    }
    outcome
}

fn scan_formats<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (dt, rank) in [(Format::Bf16, 24), (Format::F16, 12), (Format::Q8_0, 32), (Format::Q4K, 256)] {
        let size = ScanSize { tokens: 12, channels: 70, states: 16, rank, gate: true, dt };
        one_scan(ops, &size, &splits(size.tokens), &mut outcome);
    }
    outcome
}

/// The angles' frequencies, as [`Rope`] defines them.
fn frequencies(rope: &Rope) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f32 / rope.dims as f32;
    (0..rope.dims / 2).map(|i| 1.0 / f64::from(rope.base).powf(f64::from(exponent(i))) as f32).collect()
}

fn rounding(rope: &Rope) -> fn(f64) -> f64 {
    match rope.table {
        RopeTable::F32 => |x| f64::from(x as f32),
        RopeTable::Bf16 => |x| half::bf16::from_f32(x as f32).to_f64(),
    }
}

fn attention<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, heads, groups, head_dim, window, rope) in [
        (1, 1, 1, 2, None, None),
        (12, 2, 2, 8, Some(1), Some(8)),
        (11, 6, 2, 20, Some(2), Some(10)),
        (40, 4, 1, 64, Some(5), Some(64)),
        (150, 2, 1, 64, Some(64), Some(64)),
        (300, 2, 2, 16, Some(100), Some(16)),
        (130, 3, 3, 128, None, Some(128)),
        (70, 4, 2, 96, None, None),
        (66, 1, 1, 256, Some(30), Some(64)),
        (200, 6, 3, 32, Some(300), Some(32)),
        (330, 67, 67, 128, Some(300), Some(128)),
    ] {
        let mut numbers = Numbers::new(18);
        let shape = AttentionShape { heads, groups, head_dim, window };
        let table = if head_dim % 16 == 0 { RopeTable::Bf16 } else { RopeTable::F32 };
        let rope = rope.map(|dims| Rope { dims, base: 10000.0, condense: 1.0, table });
        let loaded = rope.as_ref().map(|r| ops.load_rope(r).unwrap());
        let (q_cols, kv_cols) = (heads * head_dim, groups * head_dim);
        let (_, qkv) = numbers.rows(ops, tokens, q_cols + 2 * kv_cols);
        let (mut q, mut k) = (qkv.columns(0, q_cols), qkv.columns(q_cols, kv_cols));
        if let Some(rope) = &rope {
            let theta = frequencies(rope);
            q = plain::rotate(&q, head_dim, rope.dims, &theta, rounding(rope));
            k = plain::rotate(&k, head_dim, rope.dims, &theta, rounding(rope));
        }
        let truth = plain::attention(&q, &k, &qkv.columns(q_cols + kv_cols, kv_cols), heads, groups, window);
        for split in splits(tokens) {
            let (mut kv, mut pieces, mut at) = (ops.key_values(&shape).unwrap(), Vec::new(), 0);
            for &count in &split {
                ops.reserve(&mut kv, &shape, (at + count) as u64).unwrap();
                let place = place(ops, &vec![0; count], at as u64);
                pieces.push(ops.attend(&shape, loaded.as_ref(), &part(ops, &qkv, at, count), &place, &mut kv).unwrap());
                at += count;
            }
            let window = window.map_or("all".to_owned(), |w| w.to_string());
            let label = format!("{tokens} x {heads}/{groups} x {head_dim}, window {window}, in {}", split.len());
            outcome.push((label, found(&joined(ops, &pieces), &truth, Kind::Plain)));
        }
    }
    outcome
}

fn rotation<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, heads, head_dim, dims) in [(1, 1, 2, 2), (9, 3, 10, 6), (40, 2, 64, 64)] {
        let rope = Rope { dims, base: 10000.0, condense: 1.0, table: RopeTable::F32 };
        let (x, held) = Numbers::new(19).rows(ops, tokens, heads * head_dim);
        let out = ops.rotate(&ops.load_rope(&rope).unwrap(), &x, head_dim, &place(ops, &vec![0; tokens], 0)).unwrap();
        let truth = plain::rotate(&held, head_dim, dims, &frequencies(&rope), rounding(&rope));
        outcome
            .push((format!("{tokens} x {heads} x {head_dim}, {dims} turned"), compare(ops, &out, &truth, Kind::Plain)));
    }
    outcome
}

fn outer_products<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, count, keys, values, gated) in [
        (1, 1, 1, 1, false),
        (12, 2, 8, 16, true),
        (30, 3, 20, 12, false),
        (70, 2, 64, 128, true),
        (140, 1, 32, 70, false),
    ] {
        let mut numbers = Numbers::new(20);
        let heads = Heads { count, keys, values };
        let (_, q) = numbers.rows(ops, tokens, count * keys);
        let (_, k) = numbers.rows(ops, tokens, count * keys);
        let (_, v) = numbers.rows(ops, tokens, count * values);
        let (_, gates) = numbers.rows(ops, tokens, count * keys);
        let constant: Vec<f32> = (0..count * keys).map(|i| 1.0 - (-5.0 - (i / keys) as f32).exp2()).collect();
        let decay = match gated {
            true => gates.clone().map(|g| plain::sigmoid(g).powf(1.0 / 16.0)),
            false => Matrix::new(count * keys, wide(&constant).repeat(tokens)),
        };
        let truth = plain::outer_scan(count, &q, &k, &v, &decay);
        let constant = ops.vector(constant).unwrap();
        for split in splits(tokens) {
            let (mut state, mut pieces, mut at) = (ops.zeros(count * keys * values).unwrap(), Vec::new(), 0);
            for &n in &split {
                let [q, k, v, gates] = [&q, &k, &v, &gates].map(|x| part(ops, x, at, n));
                let decay = if gated { Decay::Gate(&gates) } else { Decay::Constant(&constant) };
                pieces.push(ops.outer_scan(heads, [&q, &k, &v], decay, &mut state).unwrap());
                at += n;
            }
            let label = format!(
                "{tokens} x {count} x {keys} x {values}{}, in {}",
                if gated { ", gated" } else { "" },
                split.len()
            );
            outcome.push((label, found(&joined(ops, &pieces), &truth, Kind::Plain)));
        }
    }
    outcome
}

fn mega<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, d, z, chunk) in [(1, 8, 4, 4), (30, 20, 16, 8), (100, 64, 128, 64)] {
        let mut numbers = Numbers::new(21);
        let [gamma, beta] = [0, 1].map(|_| numbers.scaled(2 * z, 0.5));
        let positions = [0, 1].map(|_| numbers.scaled(chunk * z, 0.3));
        let weights = MegaWeights {
            gamma: ops.vector(gamma.clone()).unwrap(),
            beta: ops.vector(beta.clone()).unwrap(),
            positions: positions.clone().map(|p| ops.vector(p).unwrap()),
            z_dim: z,
            d_model: d,
            chunk,
        };
        let [gamma, beta] = [gamma, beta].map(|x| Matrix::new(z, wide(&x)));
        let positions = positions.map(|x| Matrix::new(z, wide(&x)));
        let twin = plain::Mega { gamma: &gamma, beta: &beta, positions: positions.each_ref(), d, chunk };
        let (mixed_rows, mixed) = numbers.rows(ops, tokens, 3 * d + z);
        let (_, v) = numbers.rows(ops, tokens, d);
        let truth = plain::mega_attend(&twin, &mixed, &v);
        for split in splits(tokens) {
            let mut memory = MegaMemory { keys: ops.zeros(chunk * z).unwrap(), values: ops.zeros(chunk * d).unwrap() };
            let (mut pieces, mut at) = (Vec::new(), 0);
            for &n in &split {
                let (m, v, place) =
                    (part(ops, &mixed, at, n), part(ops, &v, at, n), place(ops, &vec![0; n], at as u64));
                pieces.push(ops.mega_attend(&weights, &m, &v, &place, &mut memory).unwrap());
                at += n;
            }
            let label = format!("attend {tokens} x {d}, chunk {chunk}, in {}", split.len());
            outcome.push((label, found(&joined(ops, &pieces), &truth, Kind::Plain)));
        }
        let (y, y_held) = numbers.rows(ops, tokens, d);
        let (mut r, r_held) = numbers.residual(ops, tokens, d);
        ops.mega_update(&weights, &mixed_rows, &y, &mut r).unwrap();
        let truth = plain::mega_update(d, z, &mixed, &y_held, &r_held);
        outcome.push((format!("update {tokens} x {d}"), compare(ops, &r, &truth, Kind::Plain)));
    }
    outcome
}

/// Sums of products, in blocks of channels. What is summed in parts, and what goes on from earlier sums, is the whole bit for
/// bit.
fn gram<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, width, block) in
        [(1, 1usize, 1), (3, 5, 2), (40, 70, 70), (300, 132, 132), (18, 200, 67), (520, 36, 36)]
    {
        let mut numbers = Numbers::new(23);
        // Columns of a wider matrix, whose rows begin at multiples of 16 bytes or do not.
        for first in [0, 3] {
            let (x, x_held) = numbers.rows(ops, tokens, width.next_multiple_of(4) + 4);
            let (y, y_held) = numbers.rows(ops, 7, width.next_multiple_of(4) + 4);
            let [x, y] = [x, y].map(|x| ops.columns(&x, first..first + width));
            let nothing = || Sums::new(vec!["map.weight".to_owned()], width, block);
            let sums = |earlier: Sums, terms: &[&B::Rows]| {
                let mut gram = ops.load_gram(earlier).unwrap();
                terms.iter().for_each(|x| ops.add_gram(x, &mut gram).unwrap());
                let sums = ops.read_gram(&gram).unwrap();
                let end = sums.moments.lower.len() / 3;
                assert_eq!(ops.read_gram_end(&gram, end).unwrap(), sums.moments.lower[end..], "{tokens} x {width}");
                sums
            };
            let whole = sums(nothing(), &[&x, &y]);
            assert_eq!(whole.moments.count, tokens as u64 + 7);
            assert!(sums(sums(nothing(), &[&y]), &[&x]) == whole, "{tokens} x {width}: going on from earlier sums");
            let mut merged = sums(nothing(), &[&y]);
            merged.merge(&sums(nothing(), &[&x]));
            assert!(merged == whole, "{tokens} x {width}: merging parts");
            let rows: Vec<&[f64]> = (0..tokens).map(|t| x_held.row(t)).chain((0..7).map(|t| y_held.row(t))).collect();
            let (mut truth, mut at) = (Vec::new(), first);
            for (n, _) in whole.moments.triangles() {
                for i in at..at + n {
                    truth.extend((at..=i).map(|j| rows.iter().map(|x| x[i] * x[j]).sum::<f64>()));
                }
                at += n;
            }
            let found = found(&whole.moments.lower, &Matrix::new(1, truth), Kind::Plain);
            outcome.push((format!("{tokens} x {width} in blocks of {block}, from {first}"), found));
        }
    }
    outcome
}

fn differences<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, width, beside) in [(1, 1, 1), (5, 8, 12), (33, 64, 130), (7, 515, 3)] {
        let mut numbers = Numbers::new(29);
        let (a, a_held) = numbers.residual(ops, tokens, width);
        let (b, b_held) = numbers.rows(ops, tokens, width);
        let (x, x_held) = numbers.rows(ops, tokens, beside);
        let out = ops.beside_difference(&x, [&a, &b]).unwrap();
        let row = |t: usize| {
            let less = a_held.row(t).iter().zip(b_held.row(t)).map(|(a, b)| a - b);
            x_held.row(t).iter().copied().chain(less).collect::<Vec<_>>()
        };
        let truth = Matrix::new(beside + width, (0..tokens).flat_map(row).collect());
        outcome.push((format!("{tokens} x {beside} + {width}"), compare(ops, &out, &truth, Kind::Plain)));
    }
    outcome
}

/// Logits are float32 in every mode: what a residual stream stands for here.
fn distances<B: Backend>(ops: &B) -> Outcome {
    let mut outcome = Vec::new();
    for (tokens, padded, vocab) in [(1, 5, 3), (7, 40, 33), (3, 1024, 1000), (2, 5000, 5000)] {
        let mut numbers = Numbers::new(22);
        let (a, a_held) = numbers.residual(ops, tokens, padded);
        let (b, b_held) = numbers.residual(ops, tokens, padded);
        let targets: Vec<u32> = (0..tokens as u32).map(|t| t * 7 % vocab as u32).collect();
        let narrow = |m: &Matrix, t: usize| m.row(t)[..vocab].iter().map(|x| *x as f32).collect::<Vec<_>>();
        for (label, b, b_held) in [("two", &b, &b_held), ("the same", &a, &a_held)] {
            let out = ops.distances(&a, b, vocab, &targets).unwrap();
            let mut truth = Vec::new();
            let mut numbers = Vec::new();
            for (t, d) in out.iter().enumerate() {
                let twin = distance(&narrow(&a_held, t), &narrow(b_held, t), targets[t]);
                assert_eq!((d.same_top1, d.top5_overlap), (twin.same_top1, twin.top5_overlap), "ranks of {label}");
                if label == "the same" {
                    assert_eq!((d.kld, d.max_difference, d.mean_square_difference), (0.0, 0.0, 0.0));
                }
                for d in [d, &twin] {
                    let list = if std::ptr::eq(d, &twin) { &mut truth } else { &mut numbers };
                    list.extend([
                        d.kld,
                        d.reference_nll,
                        d.candidate_nll,
                        d.mean_square_difference,
                        f64::from(d.max_difference),
                    ]);
                }
            }
            let error = numbers.iter().zip(&truth).map(|(a, b): (&f64, &f64)| (a - b).abs()).fold(0.0, f64::max);
            outcome.push((format!("{label} of {tokens} x {vocab}"), Found { error, kind: Kind::Plain }));
        }
    }
    outcome
}
