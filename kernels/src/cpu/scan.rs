//! The selective scan: `h = exp(dt A) h + dt B u`, `y = <h, C> + D u`, per channel with a state of N.

use super::fused::{POWERS, exp2_of_product, fma, silu, softplus};
use super::linear::Linear;
use super::rows::{Columns, Rows};
use super::simd::{LANES, dispatch, lanes, prefetch};
use rayon::prelude::*;
use std::ops::Range;

/// The `dt` projection, `A log2(e)` and D, laid out for blocks of [`LANES`] channels side by side.
///
/// ```text
/// rates, h:  block 0: n = 0: LANES channels | n = 1: LANES channels | ... | block 1: ...
/// ```
/// Channels beyond the last are padding: they begin at 0, have rates of 0, and u = 0 leaves them there.
pub struct Scan<'a> {
    dt: Linear<'a>,
    rates: Vec<f32>,
    d: Vec<f32>,
    d_state: usize,
}

/// One sequence on its way through a selective scan, in rows of one token each.
pub struct ScanInputs<'r> {
    /// (tokens, channels)
    pub u: &'r [f32],
    /// Step sizes before bias and softplus: (tokens, channels)
    pub delta: &'r [f32],
    /// Added to delta: (channels)
    pub delta_bias: Option<&'r [f32]>,
    /// How u enters the state: (tokens, d_state)
    pub b: &'r [f32],
    /// How the state is read: (tokens, d_state)
    pub c: &'r [f32],
    /// Weights of the skip connection: (channels)
    pub d: Option<&'r [f32]>,
    /// Gate, before SiLU: (tokens, channels)
    pub z: Option<&'r [f32]>,
    /// Channels.
    pub channels: usize,
    /// Numbers in the state of a channel.
    pub d_state: usize,
}

impl<'a> Scan<'a> {
    /// From A (channels, d_state) and D (channels).
    pub fn new(dt: Linear<'a>, a: &[f32], d: Vec<f32>) -> Scan<'a> {
        let d_state = a.len().checked_div(d.len()).unwrap_or(0);
        let mut rates = vec![0.0; blocks_len(d.len(), d_state)];
        to_rates(a, &mut rates, d_state);
        Scan { dt, rates, d, d_state }
    }

    /// h before the first token, in the layout of the rates.
    pub fn start(&self) -> Vec<f32> {
        vec![0.0; self.rates.len()]
    }

    /// y (tokens, channels), times `silu(gate)` where there is one, continuing after h = `state`.
    pub fn apply(&self, u: &Rows, driven: &Rows, gate: Option<&Rows>, state: &mut [f32]) -> Rows {
        let (rank, n) = (self.dt.inputs(), self.d_state);
        let delta = self.dt.apply(&driven.columns(0..rank));
        let (b, c) = (driven.columns(rank..rank + n), driven.columns(rank + n..rank + 2 * n));
        let inputs = ScanInputs {
            u: &u.data,
            delta: &delta.data,
            delta_bias: None,
            b: &b.data,
            c: &c.data,
            d: Some(&self.d),
            z: gate.map(|g| g.data.as_slice()),
            channels: u.cols,
            d_state: n,
        };
        let mut y = Rows::zeros(u.rows(), u.cols);
        let outputs: Vec<Columns<'_>> = Columns::split(&mut y.data, u.cols, SHARE).collect();
        let states = state.par_chunks_mut(n * SHARE).zip(self.rates.par_chunks(n * SHARE));
        outputs.into_par_iter().zip(states).enumerate().for_each(|(i, (mut y, (h, rates)))| {
            scan_channels(&inputs, i * SHARE, rates, h, &mut y);
        });
        y
    }
}

/// Channels of a task: whole blocks, and of every row that they share some cache lines in a row.
pub const SHARE: usize = 4 * LANES;

/// Tokens that a block goes through before the next one does: their rows stay near, and the next block's part of them
/// arrives meanwhile.
const STRETCH: usize = 32;

/// Tokens whose states follow each other in registers: enough that no chain of additions waits for another.
const TILE: usize = 4;

type Lanes = [f32; LANES];

/// What a block computes of every token of a stretch.
struct Stretch {
    /// Step sizes.
    steps: [Lanes; STRETCH],
    /// Step sizes times u.
    driven: [Lanes; STRETCH],
    /// y before the gate, as far as it is added up.
    sums: [Lanes; STRETCH],
}

dispatch! {
    /// Channels `first ..`, which are those of `y`, over all tokens. rates: `A log2(e)`, blocks of (d_state, LANES). h,
    /// of the same shape, is the state before the first token, then after the last one.
    pub fn scan_channels<const FUSED: bool>(
        inputs: &ScanInputs<'_>,
        first: usize,
        rates: &[f32],
        h: &mut [f32],
        y: &mut Columns<'_>,
    ) {
        scan_stretches::<FUSED>(inputs, first, rates, h, y)
    }
}

/// What [`scan_channels`] does, compiled for what its caller is.
#[inline(always)]
fn scan_stretches<const FUSED: bool>(
    inputs: &ScanInputs<'_>,
    first: usize,
    rates: &[f32],
    h: &mut [f32],
    y: &mut Columns<'_>,
) {
    let ScanInputs { channels, d_state, .. } = *inputs;
    let (rates, h) = (rates.as_chunks::<LANES>().0, h.as_chunks_mut::<LANES>().0);
    let (tokens, blocks) = (inputs.u.len() / channels, y.width().div_ceil(LANES));
    let mut stretch =
        Stretch { steps: [[0.0; LANES]; STRETCH], driven: [[0.0; LANES]; STRETCH], sums: [[0.0; LANES]; STRETCH] };
    // Loops, since a closure would be compiled for the baseline.
    for begin in (0..tokens).step_by(STRETCH) {
        let tokens = begin..tokens.min(begin + STRETCH);
        for block in 0..blocks {
            let (rates, h) = (&rates[block * d_state..][..d_state], &mut h[block * d_state..][..d_state]);
            let at = first + block * LANES;
            let next = if block + 1 < blocks { [begin, at + LANES] } else { [begin + STRETCH, first] };
            let within = prepare::<FUSED>(inputs, tokens.clone(), at, next, rates, &mut stretch);
            let (b, c) = (&inputs.b[begin * d_state..], &inputs.c[begin * d_state..]);
            match within {
                true => recur::<FUSED, true>(tokens.len(), b, c, rates, h, &mut stretch),
                false => recur::<FUSED, false>(tokens.len(), b, c, rates, h, &mut stretch),
            }
            finish::<FUSED>(inputs, tokens.clone(), at, block * LANES, &stretch, y);
        }
    }
}

/// What does not depend on the state, of the block that begins with channel `at`. `next`: token and channel where the
/// next block begins. Returns whether all steps times rates are within [`POWERS`].
#[inline(always)]
fn prepare<const FUSED: bool>(
    inputs: &ScanInputs<'_>,
    tokens: Range<usize>,
    at: usize,
    next: [usize; 2],
    rates: &[Lanes],
    stretch: &mut Stretch,
) -> bool {
    let channels = inputs.channels;
    let bias = block_of(inputs.delta_bias, 0, at, channels);
    let skip = block_of(inputs.d, 0, at, channels);
    let mut longest = [0.0; LANES];
    for (i, t) in tokens.enumerate() {
        let ahead = (next[0] + i) * channels + next[1];
        prefetch(inputs.u, ahead);
        prefetch(inputs.delta, ahead);
        prefetch(inputs.z.unwrap_or_default(), ahead);
        let u = block_of(Some(inputs.u), t, at, channels);
        let delta = block_of(Some(inputs.delta), t, at, channels);
        for l in 0..LANES {
            let step = softplus::<FUSED>(delta[l] + bias[l]);
            stretch.steps[i][l] = step;
            stretch.driven[i][l] = step * u[l];
            stretch.sums[i][l] = skip[l] * u[l];
            longest[l] = if step > longest[l] { step } else { longest[l] };
        }
    }
    // Steps are never negative: the extremes of the powers are those of the longest step.
    let (mut least, mut greatest) = ([0.0; LANES], [0.0; LANES]);
    for rate in rates {
        for l in 0..LANES {
            let power = longest[l] * rate[l];
            least[l] = if power < least[l] { power } else { least[l] };
            greatest[l] = if power > greatest[l] { power } else { greatest[l] };
        }
    }
    least.iter().all(|x| *x >= POWERS[0]) && greatest.iter().all(|x| *x <= POWERS[1])
}

/// The recurrence over a stretch of `tokens`, whose b and c (tokens, d_state) begin with its first one's.
#[inline(always)]
fn recur<const FUSED: bool, const WITHIN: bool>(
    tokens: usize,
    b: &[f32],
    c: &[f32],
    rates: &[Lanes],
    h: &mut [Lanes],
    stretch: &mut Stretch,
) {
    let tiled = tokens - tokens % TILE;
    for t in (0..tiled).step_by(TILE) {
        recur_tile::<TILE, FUSED, WITHIN>(t, b, c, rates, h, stretch);
    }
    for t in tiled..tokens {
        recur_tile::<1, FUSED, WITHIN>(t, b, c, rates, h, stretch);
    }
}

/// Tokens `t .. t + TOKENS` of [`recur`].
#[inline(always)]
fn recur_tile<const TOKENS: usize, const FUSED: bool, const WITHIN: bool>(
    t: usize,
    b: &[f32],
    c: &[f32],
    rates: &[Lanes],
    h: &mut [Lanes],
    stretch: &mut Stretch,
) {
    let d_state = rates.len();
    let (b, c) = (&b[t * d_state..][..TOKENS * d_state], &c[t * d_state..][..TOKENS * d_state]);
    let (mut steps, mut driven, mut sums) = ([[0.0; LANES]; TOKENS], [[0.0; LANES]; TOKENS], [[0.0; LANES]; TOKENS]);
    steps.copy_from_slice(&stretch.steps[t..t + TOKENS]);
    driven.copy_from_slice(&stretch.driven[t..t + TOKENS]);
    sums.copy_from_slice(&stretch.sums[t..t + TOKENS]);
    for (n, (h, rate)) in h.iter_mut().zip(rates).enumerate() {
        let mut state = *h;
        for i in 0..TOKENS {
            let (b, c) = (b[i * d_state + n], c[i * d_state + n]);
            for l in 0..LANES {
                let kept = exp2_of_product::<FUSED, WITHIN>(steps[i][l], rate[l]);
                state[l] = fma::<FUSED>(kept, state[l], driven[i][l] * b);
                sums[i][l] = fma::<FUSED>(state[l], c, sums[i][l]);
            }
        }
        *h = state;
    }
    stretch.sums[t..t + TOKENS].copy_from_slice(&sums);
}

/// The sums, gated, to columns `column ..` of y.
#[inline(always)]
fn finish<const FUSED: bool>(
    inputs: &ScanInputs<'_>,
    tokens: Range<usize>,
    at: usize,
    column: usize,
    stretch: &Stretch,
    y: &mut Columns<'_>,
) {
    for (i, t) in tokens.enumerate() {
        let mut sum = stretch.sums[i];
        if inputs.z.is_some() {
            let gate = block_of(inputs.z, t, at, inputs.channels);
            for l in 0..LANES {
                sum[l] *= silu::<FUSED>(gate[l]);
            }
        }
        let y = &mut y.row(t)[column..];
        match y.first_chunk_mut() {
            Some(y) => *y = sum,
            None => y.copy_from_slice(&sum[..y.len()]),
        }
    }
}

/// A block's channels of row `t`; zeros where there are no rows.
#[inline(always)]
fn block_of(rows: Option<&[f32]>, t: usize, first: usize, channels: usize) -> [f32; LANES] {
    match rows {
        Some(rows) => lanes(&rows[t * channels..][first..channels]),
        None => [0.0; LANES],
    }
}

/// Numbers that a matrix (channels, d_state) takes in blocks of (d_state, LANES).
pub fn blocks_len(channels: usize, d_state: usize) -> usize {
    channels.next_multiple_of(LANES) * d_state
}

/// A (channels, d_state) to rates: [`to_blocks`] times log2(e).
pub fn to_rates(a: &[f32], rates: &mut [f32], d_state: usize) {
    to_blocks(a, rates, d_state);
    rates.iter_mut().for_each(|rate| *rate *= std::f32::consts::LOG2_E);
}

/// A matrix (channels, d_state) to blocks of (d_state, LANES); zeros where the last one has fewer channels.
pub fn to_blocks(matrix: &[f32], blocks: &mut [f32], d_state: usize) {
    let len = d_state.max(1) * LANES;
    for (matrix, block) in matrix.chunks(len).zip(blocks.chunks_exact_mut(len)) {
        let columns = block.as_chunks_mut::<LANES>().0;
        if matrix.len() < len {
            columns.fill([0.0; LANES]);
        }
        for (l, row) in (0..LANES).zip(matrix.chunks_exact(d_state.max(1))) {
            columns.iter_mut().zip(row).for_each(|(column, x)| column[l] = *x);
        }
    }
}

/// The opposite of [`to_blocks`].
pub fn from_blocks(blocks: &[f32], matrix: &mut [f32], d_state: usize) {
    let len = d_state.max(1) * LANES;
    for (matrix, block) in matrix.chunks_mut(len).zip(blocks.chunks_exact(len)) {
        let columns = block.as_chunks::<LANES>().0;
        for (l, row) in (0..LANES).zip(matrix.chunks_exact_mut(d_state.max(1))) {
            columns.iter().zip(row).for_each(|(column, x)| *x = column[l]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_a_matrix_and_give_it_back() {
        for (channels, d_state) in [(16, 16), (1, 1), (5, 16), (16, 3), (7, 33), (16, 64), (37, 5), (64, 16)] {
            let matrix: Vec<f32> = (1..=channels * d_state).map(|i| i as f32).collect();
            let mut blocks = vec![f32::NAN; blocks_len(channels, d_state)];
            to_blocks(&matrix, &mut blocks, d_state);
            for (at, found) in blocks.iter().enumerate() {
                let (n, l) = (at / LANES % d_state, at / LANES / d_state * LANES + at % LANES);
                assert_eq!(*found, if l < channels { matrix[l * d_state + n] } else { 0.0 });
            }
            let mut back = vec![0.0; matrix.len()];
            from_blocks(&blocks, &mut back, d_state);
            assert_eq!(back, matrix);
        }
    }

    type Variant = fn(&ScanInputs<'_>, usize, &[f32], &mut [f32], &mut Columns<'_>);

    /// What this processor runs, AVX2 where it has that, and the baseline, whose fused additions are emulated.
    fn variants() -> Vec<Variant> {
        let mut variants: Vec<Variant> = vec![scan_channels, scan_stretches::<false>];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            #[target_feature(enable = "avx2,fma")]
            fn avx2(i: &ScanInputs<'_>, first: usize, rates: &[f32], h: &mut [f32], y: &mut Columns<'_>) {
                scan_stretches::<true>(i, first, rates, h, y);
            }
            // SAFETY: the processor has both features that the function was compiled for.
            variants.push(|i, first, rates, h, y| unsafe { avx2(i, first, rates, h, y) });
        }
        variants
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut random = fastrand::Rng::with_seed(0);
        let mut numbers =
            |len: usize, scale: f32| -> Vec<f32> { (0..len).map(|_| scale * (random.f32() - 0.5)).collect() };
        // Rates of 1000 take powers beyond what one float32 holds: the other variant of the recurrence.
        for (tokens, channels, d_state, rate) in
            [(1, 64, 16, 8.0), (41, 39, 16, 8.0), (70, 33, 5, 1000.0), (32, 16, 0, 1.0)]
        {
            let [u, delta, z] = [2.0, 6.0, 8.0].map(|scale| numbers(tokens * channels, scale));
            let [b, c] = [2.0; 2].map(|scale| numbers(tokens * d_state, scale));
            let [bias, d] = [2.0; 2].map(|scale| numbers(channels, scale));
            let a = numbers(channels * d_state, rate);
            let inputs = ScanInputs {
                u: &u,
                delta: &delta,
                delta_bias: Some(&bias),
                b: &b,
                c: &c,
                d: Some(&d),
                z: Some(&z),
                channels,
                d_state,
            };
            let mut rates = vec![0.0; blocks_len(channels, d_state)];
            to_rates(&a, &mut rates, d_state);
            let past = numbers(rates.len(), 2.0);
            let bits = variants().into_iter().map(|scan| {
                let (mut h, mut y) = (past.clone(), vec![0.0; tokens * channels]);
                for mut columns in Columns::split(&mut y, channels, channels) {
                    scan(&inputs, 0, &rates, &mut h, &mut columns);
                }
                [h, y].map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            });
            let bits: Vec<_> = bits.collect();
            assert!(
                bits.windows(2).all(|pair| pair[0] == pair[1]),
                "{tokens} tokens, {channels} channels, {d_state} states"
            );
        }
    }
}
