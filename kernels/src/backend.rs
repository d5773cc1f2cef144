//! What the mixers' math is written in: the operations of one device.

use crate::Result;
use crate::parity::Distance;
use std::borrow::Cow;
use std::ops::Range;
use tamborim_model::mixers::Rope;
use tamborim_model::{Norm, NormKind};
use tamborim_quant::{Sums, Tensor};

/// How a device that has a choice computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Weights decoded exactly, float32 activations, IEEE float32 products and sums, the same bits in every run.
    Exact,
    /// bfloat16 activations and matrix units, float32 sums and states; quantized weights meet 8-bit activations one token at
    /// a time.
    Fast,
}

/// A matrix (outputs, inputs) and a bias of as many outputs.
pub struct Map<'a> {
    /// Canonical name of the matrix.
    pub name: String,
    /// The matrix, in the format it is stored in.
    pub weight: Tensor<'a>,
    /// Added to every row of products.
    pub bias: Option<Vec<f32>>,
}

impl<'a> Map<'a> {
    /// Outputs `range` alone.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn outputs(&self, range: Range<usize>) -> Map<'a> {
        let bytes = range.start * self.weight.row_bytes()..range.end * self.weight.row_bytes();
        let bytes = match &self.weight.bytes {
            Cow::Borrowed(all) => Cow::Borrowed(&all[bytes]),
            Cow::Owned(all) => Cow::Owned(all[bytes].to_vec()),
        };
        let weight = Tensor { format: self.weight.format, shape: vec![range.len(), self.weight.cols()], bytes };
        Map { name: self.name.clone(), weight, bias: self.bias.as_ref().map(|b| b[range].to_vec()) }
    }
}

/// A norm with its weights.
pub struct NormWeights<V> {
    /// Formula and epsilon.
    pub norm: Norm,
    /// Scale per channel.
    pub weight: V,
    /// Offset per channel; LayerNorm only.
    pub bias: Option<V>,
}

/// A depthwise causal convolution over time with SiLU after it:
/// `y[t, c] = silu(sum_j taps[j, c] x[t - width + 1 + j, c] + bias[c])`, zeros before the start.
pub struct Conv<V> {
    /// (width, channels), oldest first.
    pub taps: V,
    /// Taps.
    pub width: usize,
    /// Per channel.
    pub bias: Option<V>,
}

/// Dimensions of softmax attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub groups: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Keys a token sees, itself included; `None`: all.
    pub window: Option<usize>,
}

/// A selective scan whose step size, A and D are one number a head.
pub struct HeadedScan<V> {
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// States of a channel.
    pub d_state: usize,
    /// Added to the step sizes before softplus: (heads).
    pub dt_bias: V,
    /// A: (heads).
    pub a: V,
    /// D: (heads).
    pub d: V,
}

/// Dimensions of an outer-product recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads.
    pub count: usize,
    /// Key channels of a head.
    pub keys: usize,
    /// Value channels of a head.
    pub values: usize,
}

/// How an outer-product recurrence forgets.
pub enum Decay<'r, B: Backend> {
    /// A constant per key channel of every head: (heads * keys).
    Constant(&'r B::Vector),
    /// `sigmoid(g)^(1/16)` of a gate per token and key channel: (tokens, heads * keys).
    Gate(&'r B::Rows),
}

/// Weights of Mega's attention; all vectors have `z_dim` channels.
pub struct MegaWeights<V> {
    /// Scales of queries, then of keys.
    pub gamma: V,
    /// Offsets of queries, then of keys.
    pub beta: V,
    /// Vectors whose products are the position bias, a row for each place of a chunk: of queries, then of keys.
    pub positions: [V; 2],
    /// Channels of queries and keys.
    pub z_dim: usize,
    /// Channels of values: d_model.
    pub d_model: usize,
    /// Tokens that see each other.
    pub chunk: usize,
}

/// Mega's keys (chunk, z_dim) and values (chunk, d_model) of the chunk under way.
pub struct MegaMemory<V> {
    /// Filled up to the place of the last token.
    pub keys: V,
    /// As the keys.
    pub values: V,
}

/// The operations of a device. Activations are rows, one per token; what a mixer carries from token to token is updated in
/// place. Every operation exists once for each backend; `tests/operations/` holds all to float64.
pub trait Backend: Sized {
    /// Activations: (tokens, channels).
    type Rows;
    /// float32 numbers that stay: small weights and states.
    type Vector;
    /// Matrices with the same input, one under the other: (all outputs, inputs).
    type Linear<'a>;
    /// `dt` projection, A and D of a selective scan.
    type Scan<'a>;
    /// A rotary position embedding.
    type Rope;
    /// Keys and values that later tokens see.
    type KeyValues;
    /// The tokens of a chunk and where they stand in their sequence.
    type Place;
    /// One token's way through a model, to be repeated.
    type Recording: Default;
    /// Sums of products of activations.
    type Gram;

    /// What it computes on, in words.
    fn describe(&self) -> String;
    /// Tokens that go through the layers together.
    fn chunk(&self) -> usize;
    /// Whether products and sums are those of [`Mode::Exact`].
    fn is_exact(&self) -> bool;
    /// The same device in its other mode; `None` where there is but one way to compute.
    fn other_mode(&self) -> Result<Option<Self>>;

    /// Takes numbers along.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
    /// `len` zeros.
    fn zeros(&self, len: usize) -> Result<Self::Vector>;
    /// Stacks maps that have the same input.
    fn stack<'a>(&self, maps: Vec<Map<'a>>) -> Result<Self::Linear<'a>>;
    /// Stacks a gate and what it gates, for [`Backend::project_gated`] alone.
    fn stack_gated<'a>(&self, gate: Map<'a>, up: Map<'a>) -> Result<Self::Linear<'a>> {
        self.stack(vec![gate, up])
    }
    /// A selective scan of A (d_inner, d_state) and D (d_inner), its step sizes from `dt` (d_inner, dt_rank).
    fn load_scan<'a>(&self, dt: Map<'a>, a: Vec<f32>, d: Vec<f32>) -> Result<Self::Scan<'a>>;
    /// The state of a scan before the first token.
    fn scan_state(&self, scan: &Self::Scan<'_>) -> Result<Self::Vector>;
    /// A rotary embedding.
    fn load_rope(&self, rope: &Rope) -> Result<Self::Rope>;
    /// Keys and values before the first token.
    fn key_values(&self, shape: &AttentionShape) -> Result<Self::KeyValues>;
    /// Makes room for the keys and values of positions below `end`, at most a chunk beyond those that are there. Whether
    /// they moved: recordings that use them are worth nothing then.
    fn reserve(&self, kv: &mut Self::KeyValues, shape: &AttentionShape, end: u64) -> Result<bool>;

    /// Puts the next chunk's tokens and position where the operations find them.
    fn set_place(&self, place: &mut Option<Self::Place>, tokens: &[u32], position: u64) -> Result<()>;
    /// The likeliest of the first `vocab_size` tokens by one row of logits takes the place of the one before it, a position
    /// further.
    fn take_likeliest(&self, logits: &Self::Rows, vocab_size: usize, place: &mut Self::Place) -> Result<()>;
    /// The last `count` tokens that were taken so, no more than a chunk of them, the last one for position `end`.
    fn taken(&self, place: &Self::Place, count: usize, end: u64) -> Result<Vec<u32>>;
    /// Runs `walk`, which is the same for every token of a sequence but for what `place` says, or what it did last time.
    fn repeat(&self, recording: &mut Self::Recording, walk: impl FnOnce() -> Result<Self::Rows>) -> Result<Self::Rows>;

    /// Rows of `table`, which is one matrix, by the chunk's tokens.
    fn embed(&self, table: &Self::Linear<'_>, place: &Self::Place) -> Result<Self::Rows>;
    /// Every row normalized.
    fn norm(&self, norm: &NormWeights<Self::Vector>, x: &Self::Rows) -> Result<Self::Rows>;
    /// `x W^T + b`: (tokens, all outputs).
    fn linear(&self, w: &Self::Linear<'_>, x: &Self::Rows) -> Result<Self::Rows>;
    /// `norm(r) W^T + b`.
    fn project(&self, norm: &NormWeights<Self::Vector>, w: &Self::Linear<'_>, r: &Self::Rows) -> Result<Self::Rows> {
        self.linear(w, &self.norm(norm, r)?)
    }
    /// [`Backend::project`], in float32 whatever the mode.
    fn project_logits(
        &self,
        norm: &NormWeights<Self::Vector>,
        w: &Self::Linear<'_>,
        r: &Self::Rows,
    ) -> Result<Self::Rows> {
        self.project(norm, w, r)
    }
    /// `silu(gate) * up` of `norm(r)`, gate and up from [`Backend::stack_gated`]: (tokens, half its outputs).
    fn project_gated(
        &self,
        norm: &NormWeights<Self::Vector>,
        w: &Self::Linear<'_>,
        r: &Self::Rows,
    ) -> Result<Self::Rows>;
    /// `r += norm(y)`, RMSNorm.
    fn add_normed(&self, norm: &NormWeights<Self::Vector>, y: &Self::Rows, r: &mut Self::Rows) -> Result<()>;
    /// RMSNorm of every `head_dim` channels by themselves. There is a weight for every column that is normalized; columns
    /// beyond stay as they are.
    fn norm_heads(&self, norm: &NormWeights<Self::Vector>, head_dim: usize, x: &Self::Rows) -> Result<Self::Rows>;
    /// [`Backend::project`] with as many outputs as the two parts together: the first part through `conv`, continuing after
    /// `past` as in [`Backend::conv`], and the second as it is.
    fn project_conv(
        &self,
        norm: &NormWeights<Self::Vector>,
        w: &Self::Linear<'_>,
        r: &Self::Rows,
        conv: &Conv<Self::Vector>,
        past: &mut Self::Vector,
        [first, second]: [usize; 2],
    ) -> Result<(Self::Rows, Self::Rows)> {
        let y = self.project(norm, w, r)?;
        Ok((self.conv(conv, &self.columns(&y, 0..first), past)?, self.columns(&y, first..first + second)))
    }
    /// `r += x W^T + b`.
    fn add_linear(&self, w: &Self::Linear<'_>, x: &Self::Rows, r: &mut Self::Rows) -> Result<()>;

    /// Columns `range` of every row.
    fn columns(&self, x: &Self::Rows, range: Range<usize>) -> Self::Rows;
    /// Row `t`.
    fn row(&self, x: &Self::Rows, t: usize) -> Self::Rows;
    /// `x = silu(x)`.
    fn silu(&self, x: &mut Self::Rows) -> Result<()>;
    /// `silu(gate) * x`.
    fn gate(&self, gate: &Self::Rows, x: &Self::Rows) -> Result<Self::Rows>;

    /// The convolution of x, continuing after `past`, the last `width - 1` inputs (width - 1, channels).
    fn conv(&self, conv: &Conv<Self::Vector>, x: &Self::Rows, past: &mut Self::Vector) -> Result<Self::Rows>;
    /// `h = exp(dt A) h + dt B u`, `y = <h, C> + D u`, times `silu(gate)` where there is one. `u` and `gate` are (tokens,
    /// d_inner); `driven` is (tokens, dt_rank + 2 d_state): what `dt = softplus(W_dt ..)` comes from, B, and C.
    fn scan(
        &self,
        scan: &Self::Scan<'_>,
        u: &Self::Rows,
        driven: &Self::Rows,
        gate: Option<&Self::Rows>,
        state: &mut Self::Vector,
    ) -> Result<Self::Rows>;
    /// [`HeadedScan`]: per head `h = exp(dt a) h + dt B u`, `y = (<h, C> + d u) * silu(gate)`, with
    /// `dt = softplus(dt + dt_bias)`. `u` and `gate` are (tokens, heads * head_dim), `dt` is (tokens, heads), `b` and `c` are
    /// (tokens, d_state). `state` holds h of every head.
    fn headed_scan(
        &self,
        scan: &HeadedScan<Self::Vector>,
        u: &Self::Rows,
        dt_b_c: [&Self::Rows; 3],
        gate: &Self::Rows,
        state: &mut Self::Vector,
    ) -> Result<Self::Rows>;
    /// Causal softmax attention of `qkv` (tokens, (heads + 2 groups) * head_dim), queries and keys turned by `rope` first:
    /// (tokens, heads * head_dim). Appends to `kv`, where [`Backend::reserve`] has made room.
    fn attend(
        &self,
        shape: &AttentionShape,
        rope: Option<&Self::Rope>,
        qkv: &Self::Rows,
        place: &Self::Place,
        kv: &mut Self::KeyValues,
    ) -> Result<Self::Rows>;
    /// Causal softmax attention of `q` (tokens, heads * head_dim) over keys and values that are there, the queries' own among
    /// them: (tokens, heads * head_dim).
    fn attend_over(
        &self,
        shape: &AttentionShape,
        q: &Self::Rows,
        place: &Self::Place,
        kv: &Self::KeyValues,
    ) -> Result<Self::Rows>;
    /// Rows `[q, rest]` with every one of `heads` heads of q made twice as wide and multiplied by the root of 2: zeros follow
    /// what is in an even head and precede what is in an odd one. Softmax attention of such queries over pairs of key heads,
    /// as one head of twice the width, is that of each query head over its own key head of the pair.
    fn spread_pairs(&self, heads: usize, head_dim: usize, x: &Self::Rows) -> Result<Self::Rows>;
    /// `rms(even head - lambda * odd head) * weight` of each pair of heads, as wide as there are weights: half of the columns.
    fn differential_norm(&self, norm: &NormWeights<Self::Vector>, lambda: f32, o: &Self::Rows) -> Result<Self::Rows>;
    /// Every head of `head_dim` channels turned.
    fn rotate(&self, rope: &Self::Rope, x: &Self::Rows, head_dim: usize, place: &Self::Place) -> Result<Self::Rows>;
    /// Of q, k and v, per head `S = diag(decay) S + k v^T`, `o = S^T q / sqrt(keys)`: (tokens, heads * values). `state` holds S of every
    /// head.
    fn outer_scan(
        &self,
        heads: Heads,
        qkv: [&Self::Rows; 3],
        decay: Decay<'_, Self>,
        state: &mut Self::Vector,
    ) -> Result<Self::Rows>;
    /// `rms(o per head) * weight * silu(gate)`; a head has as many channels as there are weights.
    fn gated_norm(&self, norm: &NormWeights<Self::Vector>, o: &Self::Rows, gate: &Self::Rows) -> Result<Self::Rows>;
    /// Mega's attention, gated: of rows `[u (d), z (z_dim), r (d), h (d)]` of `mixed` and v (tokens, d), `silu(r)` times the
    /// softmax attention of `silu(z) gamma + beta` over values `silu(v)` inside chunks: (tokens, d).
    fn mega_attend(
        &self,
        mega: &MegaWeights<Self::Vector>,
        mixed: &Self::Rows,
        v: &Self::Rows,
        place: &Self::Place,
        memory: &mut MegaMemory<Self::Vector>,
    ) -> Result<Self::Rows>;
    /// `r += sigmoid(u) (silu(y + h) - r)`, u and h from `mixed` as in [`Backend::mega_attend`].
    fn mega_update(
        &self,
        mega: &MegaWeights<Self::Vector>,
        mixed: &Self::Rows,
        y: &Self::Rows,
        r: &mut Self::Rows,
    ) -> Result<()>;

    /// Activations of `cols` channels from numbers, row after row.
    fn rows(&self, cols: usize, numbers: Vec<f32>) -> Result<Self::Rows>;
    /// The numbers, row after row.
    fn read(&self, x: &Self::Rows) -> Result<Vec<f32>>;
    /// A copy that does not change with `x`.
    fn copied(&self, x: &Self::Rows) -> Result<Self::Rows>;
    /// `[x, a - b]` in every row, in float32, of a pair `[a, b]`.
    fn beside_difference(&self, x: &Self::Rows, pair: [&Self::Rows; 2]) -> Result<Self::Rows>;
    /// Takes sums along, to be added to.
    fn load_gram(&self, sums: Sums) -> Result<Self::Gram>;
    /// Adds `x^T x`, the products of channels summed over tokens: in float32 over some hundred of them, in
    /// float64 over all rows, and exactly with what is there ([`Sums`]).
    fn add_gram(&self, x: &Self::Rows, gram: &mut Self::Gram) -> Result<()>;
    /// The sums so far.
    fn read_gram(&self, gram: &Self::Gram) -> Result<Sums>;
    /// The last numbers of [`Moments::lower`](tamborim_quant::Moments::lower), from `first` on.
    fn read_gram_end(&self, gram: &Self::Gram, first: usize) -> Result<Vec<f64>>;
    /// How far the rows of two models' logits are apart, over their first `vocab_size` columns.
    fn distances(&self, a: &Self::Rows, b: &Self::Rows, vocab_size: usize, targets: &[u32]) -> Result<Vec<Distance>>;
}

impl<V> NormWeights<V> {
    /// Takes the weights along.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new<B: Backend<Vector = V>>(backend: &B, norm: Norm, weight: Vec<f32>, bias: Vec<f32>) -> Result<Self> {
        let bias = match norm.kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(backend.vector(bias)?),
        };
        Ok(NormWeights { norm, weight: backend.vector(weight)?, bias })
    }
}

impl<V> Conv<V> {
    /// From a kernel of (channels, width).
    ///
    /// # Errors
    /// Those of the device.
    pub fn new<B: Backend<Vector = V>>(
        backend: &B,
        kernel: &[f32],
        width: usize,
        bias: Option<Vec<f32>>,
    ) -> Result<Self> {
        let taps = (0..width).flat_map(|j| kernel.iter().skip(j).step_by(width).copied()).collect();
        Ok(Conv { taps: backend.vector(taps)?, width, bias: bias.map(|b| backend.vector(b)).transpose()? })
    }

    /// Numbers carried from chunk to chunk by a convolution of `channels`.
    pub fn past_len(&self, channels: usize) -> usize {
        (self.width - 1) * channels
    }
}
