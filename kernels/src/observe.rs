//! A backend that computes what another one does and keeps something of every linear map's input on the way: its second
//! moments, or the input itself.

use crate::backend::*;
use crate::parity::Distance;
use crate::{Error, Result};
use std::cell::RefCell;
use std::ops::Range;
use tamborim_model::mixers::Rope;
use tamborim_quant::Sums;

/// Tokens that go through the layers together at least: the sums, which are larger than any cache, are visited once for so
/// many.
const CHUNK: usize = 1024;

/// Maps to the vocabulary, whose input is gathered and whose outputs nobody wants.
const HEADS: [&str; 2] = ["token_embd.weight", "output.weight"];

/// What is kept of the inputs of linear maps.
pub trait Keeper<B: Backend> {
    /// Of one input.
    type Kept;
    /// Before anything was seen.
    fn start(&self, backend: &B, input: &Input) -> Result<Self::Kept>;
    /// An input of some tokens.
    fn keep(&self, backend: &B, x: &B::Rows, kept: &mut Self::Kept) -> Result<()>;
}

/// Keeps sums of `x x^T` over all tokens x. They are those of [`Backend::add_gram`] over chunks and stay on the device; they
/// depend on where windows and chunks begin, not on their order nor on the number of threads.
pub struct SecondMoments;

impl<B: Backend> Keeper<B> for SecondMoments {
    type Kept = B::Gram;

    fn start(&self, backend: &B, input: &Input) -> Result<B::Gram> {
        backend.load_gram(Sums::new(input.maps.clone(), input.width, input.block))
    }

    fn keep(&self, backend: &B, x: &B::Rows, gram: &mut B::Gram) -> Result<()> {
        backend.add_gram(x, gram)
    }
}

/// Keeps the rows that came last.
pub struct Latest;

impl<B: Backend> Keeper<B> for Latest {
    type Kept = Option<B::Rows>;

    fn start(&self, _: &B, _: &Input) -> Result<Option<B::Rows>> {
        Ok(None)
    }

    fn keep(&self, backend: &B, x: &B::Rows, kept: &mut Option<B::Rows>) -> Result<()> {
        *kept = Some(backend.copied(x)?);
        Ok(())
    }
}

/// A backend whose linear maps are watched: a keeper has something of each distinct input. Every backend can be observed.
pub struct Observed<B: Backend, K: Keeper<B> = SecondMoments> {
    inner: B,
    keeper: K,
    /// Channels of a diagonal block of the moments of a wide input.
    block: usize,
    /// In the order of loading.
    inputs: RefCell<Vec<(Input, K::Kept)>>,
}

/// An input that is gathered.
#[derive(Clone, Debug)]
pub struct Input {
    /// Canonical names of the maps that multiply it.
    pub maps: Vec<String>,
    /// Its channels.
    pub width: usize,
    /// Channels of a diagonal block of its moments.
    pub block: usize,
    /// Whether anything was gathered of it: a head of its own leaves the embedding without.
    pub is_seen: bool,
    /// Whether what its maps make of it is added to the residual stream.
    pub is_added: bool,
}

/// Maps, and where their input is gathered.
pub struct ObservedLinear<L> {
    inner: L,
    input: usize,
    is_head: bool,
}

/// A scan, and where the input of its `dt` projection is gathered.
pub struct ObservedScan<S> {
    inner: S,
    input: usize,
    /// Columns of the projection's input.
    rank: usize,
}

impl<B: Backend> Observed<B> {
    /// Observes `inner`. Of inputs wider than `widest` only diagonal blocks of equal width, at most that, are gathered.
    pub fn new(inner: B, widest: usize) -> Observed<B> {
        Observed { inner, keeper: SecondMoments, block: widest, inputs: RefCell::new(Vec::new()) }
    }

    /// What was gathered of input `index` so far; counts are tokens.
    ///
    /// # Errors
    /// [`Error::Activations`] if it cannot be exact any more; those of the device.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn sums(&self, index: usize) -> Result<Sums> {
        let sums = self.inner.read_gram(&self.inputs.borrow()[index].1)?;
        match sums.out_of_range() {
            None => Ok(sums),
            Some(sum) => Err(Error::Activations { map: sums.moments.maps[0].clone(), sum }),
        }
    }

    /// Adds what an earlier run gathered of an input with the same maps.
    ///
    /// # Errors
    /// Those of [`Observed::sums`].
    ///
    /// # Panics
    /// If there is no such input of the same extents.
    pub fn add(&self, earlier: &Sums) -> Result<()> {
        let maps = &earlier.moments.maps;
        let index = self.inputs.borrow().iter().position(|(input, _)| input.maps == *maps);
        let index = index.unwrap_or_else(|| panic!("{maps:?}: an input that is gathered"));
        let mut sums = self.sums(index)?;
        sums.merge(earlier);
        let (input, gram) = &mut self.inputs.borrow_mut()[index];
        input.is_seen |= sums.moments.count > 0;
        *gram = self.inner.load_gram(sums)?;
        Ok(())
    }
}

impl<B: Backend> Observed<B, Latest> {
    /// Observes `inner`, keeping inputs as they are until they are taken.
    pub fn latest(inner: B) -> Observed<B, Latest> {
        Observed { inner, keeper: Latest, block: usize::MAX, inputs: RefCell::new(Vec::new()) }
    }

    /// What maps were applied to since the last time, in the order of loading.
    pub fn take(&self) -> Vec<(Input, B::Rows)> {
        let mut inputs = self.inputs.borrow_mut();
        let mut take = |(input, kept): &mut (Input, Option<B::Rows>)| Some((input.clone(), kept.take()?));
        inputs.iter_mut().filter_map(&mut take).collect()
    }

    /// Forgets the maps that were loaded.
    pub fn forget(&self) {
        self.inputs.borrow_mut().clear();
    }
}

impl<B: Backend, K: Keeper<B>> Observed<B, K> {
    /// Every input, in the order of loading.
    pub fn inputs(&self) -> Vec<Input> {
        self.inputs.borrow().iter().map(|(input, _)| input.clone()).collect()
    }

    /// Makes room for the input of `maps`.
    fn input(&self, maps: &[Map<'_>]) -> Result<usize> {
        let width = maps[0].weight.cols();
        let block = width.div_ceil(width.div_ceil(self.block));
        // Maps may be parts of one matrix.
        let mut names: Vec<String> = maps.iter().map(|m| m.name.clone()).collect();
        names.dedup();
        let input = Input { maps: names, width, block, is_seen: false, is_added: false };
        let kept = self.keeper.start(&self.inner, &input)?;
        let mut inputs = self.inputs.borrow_mut();
        inputs.push((input, kept));
        Ok(inputs.len() - 1)
    }

    fn keep(&self, input: usize, x: &B::Rows) -> Result<()> {
        let (input, kept) = &mut self.inputs.borrow_mut()[input];
        input.is_seen = true;
        self.keeper.keep(&self.inner, x, kept)
    }
}

impl<B: Backend, K: Keeper<B>> Backend for Observed<B, K> {
    type Rows = B::Rows;
    type Vector = B::Vector;
    type Linear<'a> = ObservedLinear<B::Linear<'a>>;
    type Scan<'a> = ObservedScan<B::Scan<'a>>;
    type Rope = B::Rope;
    type KeyValues = B::KeyValues;
    type Place = B::Place;
    type Recording = B::Recording;
    type Gram = B::Gram;

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn chunk(&self) -> usize {
        self.inner.chunk().max(CHUNK)
    }

    fn is_exact(&self) -> bool {
        self.inner.is_exact()
    }

    fn other_mode(&self) -> Result<Option<Self>> {
        Ok(None)
    }

    fn vector(&self, values: Vec<f32>) -> Result<B::Vector> {
        self.inner.vector(values)
    }

    fn zeros(&self, len: usize) -> Result<B::Vector> {
        self.inner.zeros(len)
    }

    fn stack<'a>(&self, maps: Vec<Map<'a>>) -> Result<Self::Linear<'a>> {
        let (input, is_head) = (self.input(&maps)?, HEADS.contains(&maps[0].name.as_str()));
        Ok(ObservedLinear { inner: self.inner.stack(maps)?, input, is_head })
    }

    fn load_scan<'a>(&self, dt: Map<'a>, a: Vec<f32>, d: Vec<f32>) -> Result<Self::Scan<'a>> {
        let (input, rank) = (self.input(std::slice::from_ref(&dt))?, dt.weight.cols());
        Ok(ObservedScan { inner: self.inner.load_scan(dt, a, d)?, input, rank })
    }

    fn scan_state(&self, scan: &Self::Scan<'_>) -> Result<B::Vector> {
        self.inner.scan_state(&scan.inner)
    }

    fn load_rope(&self, rope: &Rope) -> Result<B::Rope> {
        self.inner.load_rope(rope)
    }

    fn key_values(&self, shape: &AttentionShape) -> Result<B::KeyValues> {
        self.inner.key_values(shape)
    }

    fn reserve(&self, kv: &mut B::KeyValues, shape: &AttentionShape, end: u64) -> Result<bool> {
        self.inner.reserve(kv, shape, end)
    }

    fn set_place(&self, place: &mut Option<B::Place>, tokens: &[u32], position: u64) -> Result<()> {
        self.inner.set_place(place, tokens, position)
    }

    fn take_likeliest(&self, logits: &B::Rows, vocab_size: usize, place: &mut B::Place) -> Result<()> {
        self.inner.take_likeliest(logits, vocab_size, place)
    }

    fn taken(&self, place: &B::Place, count: usize, end: u64) -> Result<Vec<u32>> {
        self.inner.taken(place, count, end)
    }

    /// A recording would go past the gathering: every walk is walked.
    fn repeat(&self, _: &mut B::Recording, walk: impl FnOnce() -> Result<B::Rows>) -> Result<B::Rows> {
        walk()
    }

    fn embed(&self, table: &Self::Linear<'_>, place: &B::Place) -> Result<B::Rows> {
        self.inner.embed(&table.inner, place)
    }

    fn norm(&self, norm: &NormWeights<Self::Vector>, x: &B::Rows) -> Result<B::Rows> {
        self.inner.norm(norm, x)
    }

    fn linear(&self, w: &Self::Linear<'_>, x: &B::Rows) -> Result<B::Rows> {
        self.keep(w.input, x)?;
        match w.is_head {
            true => self.inner.rows(1, Vec::new()),
            false => self.inner.linear(&w.inner, x),
        }
    }

    fn project_gated(&self, norm: &NormWeights<Self::Vector>, w: &Self::Linear<'_>, r: &B::Rows) -> Result<B::Rows> {
        self.keep(w.input, &self.inner.norm(norm, r)?)?;
        self.inner.project_gated(norm, &w.inner, r)
    }

    fn add_normed(&self, norm: &NormWeights<Self::Vector>, y: &B::Rows, r: &mut B::Rows) -> Result<()> {
        self.inner.add_normed(norm, y, r)
    }

    fn norm_heads(&self, norm: &NormWeights<Self::Vector>, head_dim: usize, x: &B::Rows) -> Result<B::Rows> {
        self.inner.norm_heads(norm, head_dim, x)
    }

    fn add_linear(&self, w: &Self::Linear<'_>, x: &B::Rows, r: &mut B::Rows) -> Result<()> {
        self.keep(w.input, x)?;
        self.inputs.borrow_mut()[w.input].0.is_added = true;
        self.inner.add_linear(&w.inner, x, r)
    }

    fn columns(&self, x: &B::Rows, range: Range<usize>) -> B::Rows {
        self.inner.columns(x, range)
    }

    fn row(&self, x: &B::Rows, t: usize) -> B::Rows {
        self.inner.row(x, t)
    }

    fn silu(&self, x: &mut B::Rows) -> Result<()> {
        self.inner.silu(x)
    }

    fn gate(&self, gate: &B::Rows, x: &B::Rows) -> Result<B::Rows> {
        self.inner.gate(gate, x)
    }

    fn conv(&self, conv: &Conv<Self::Vector>, x: &B::Rows, past: &mut B::Vector) -> Result<B::Rows> {
        self.inner.conv(conv, x, past)
    }

    fn scan(
        &self,
        scan: &Self::Scan<'_>,
        u: &B::Rows,
        driven: &B::Rows,
        gate: Option<&B::Rows>,
        state: &mut B::Vector,
    ) -> Result<B::Rows> {
        self.keep(scan.input, &self.inner.columns(driven, 0..scan.rank))?;
        self.inner.scan(&scan.inner, u, driven, gate, state)
    }

    fn headed_scan(
        &self,
        scan: &HeadedScan<Self::Vector>,
        u: &B::Rows,
        dt_b_c: [&B::Rows; 3],
        gate: &B::Rows,
        state: &mut B::Vector,
    ) -> Result<B::Rows> {
        self.inner.headed_scan(scan, u, dt_b_c, gate, state)
    }

    fn attend(
        &self,
        shape: &AttentionShape,
        rope: Option<&B::Rope>,
        qkv: &B::Rows,
        place: &B::Place,
        kv: &mut B::KeyValues,
    ) -> Result<B::Rows> {
        self.inner.attend(shape, rope, qkv, place, kv)
    }

    fn attend_over(&self, shape: &AttentionShape, q: &B::Rows, place: &B::Place, kv: &B::KeyValues) -> Result<B::Rows> {
        self.inner.attend_over(shape, q, place, kv)
    }

    fn spread_pairs(&self, heads: usize, head_dim: usize, x: &B::Rows) -> Result<B::Rows> {
        self.inner.spread_pairs(heads, head_dim, x)
    }

    fn differential_norm(&self, norm: &NormWeights<Self::Vector>, lambda: f32, o: &B::Rows) -> Result<B::Rows> {
        self.inner.differential_norm(norm, lambda, o)
    }

    fn rotate(&self, rope: &B::Rope, x: &B::Rows, head_dim: usize, place: &B::Place) -> Result<B::Rows> {
        self.inner.rotate(rope, x, head_dim, place)
    }

    fn outer_scan(
        &self,
        heads: Heads,
        qkv: [&B::Rows; 3],
        decay: Decay<'_, Self>,
        state: &mut B::Vector,
    ) -> Result<B::Rows> {
        let decay = match decay {
            Decay::Constant(decay) => Decay::Constant(decay),
            Decay::Gate(gate) => Decay::Gate(gate),
        };
        self.inner.outer_scan(heads, qkv, decay, state)
    }

    fn gated_norm(&self, norm: &NormWeights<Self::Vector>, o: &B::Rows, gate: &B::Rows) -> Result<B::Rows> {
        self.inner.gated_norm(norm, o, gate)
    }

    fn mega_attend(
        &self,
        mega: &MegaWeights<Self::Vector>,
        mixed: &B::Rows,
        v: &B::Rows,
        place: &B::Place,
        memory: &mut MegaMemory<Self::Vector>,
    ) -> Result<B::Rows> {
        self.inner.mega_attend(mega, mixed, v, place, memory)
    }

    fn mega_update(
        &self,
        mega: &MegaWeights<Self::Vector>,
        mixed: &B::Rows,
        y: &B::Rows,
        r: &mut B::Rows,
    ) -> Result<()> {
        self.inner.mega_update(mega, mixed, y, r)
    }

    fn rows(&self, cols: usize, numbers: Vec<f32>) -> Result<B::Rows> {
        self.inner.rows(cols, numbers)
    }

    fn read(&self, x: &B::Rows) -> Result<Vec<f32>> {
        self.inner.read(x)
    }

    fn copied(&self, x: &B::Rows) -> Result<B::Rows> {
        self.inner.copied(x)
    }

    fn beside_difference(&self, x: &B::Rows, pair: [&B::Rows; 2]) -> Result<B::Rows> {
        self.inner.beside_difference(x, pair)
    }

    fn load_gram(&self, sums: Sums) -> Result<B::Gram> {
        self.inner.load_gram(sums)
    }

    fn add_gram(&self, x: &B::Rows, gram: &mut B::Gram) -> Result<()> {
        self.inner.add_gram(x, gram)
    }

    fn read_gram(&self, gram: &B::Gram) -> Result<Sums> {
        self.inner.read_gram(gram)
    }

    fn read_gram_end(&self, gram: &B::Gram, first: usize) -> Result<Vec<f64>> {
        self.inner.read_gram_end(gram, first)
    }

    fn distances(&self, a: &B::Rows, b: &B::Rows, vocab_size: usize, targets: &[u32]) -> Result<Vec<Distance>> {
        self.inner.distances(a, b, vocab_size, targets)
    }
}
