//! The CPU: operations, one file each. All work on time-major float32 rows; results do not depend on the number of threads.

mod attention;
mod conv;
mod differential;
mod elementwise;
mod fused;
mod gram;
mod headed_scan;
mod linear;
mod matmul;
mod mega;
mod norm;
mod recurrence;
mod rope;
mod rows;
mod scan;
mod simd;

pub use attention::KeyValues;
pub use linear::Linear;
pub use rope::frequencies;
pub use rows::Rows;
pub use scan::Scan;
pub use simd::exp;

/// What the recurrences compute, over plain slices: a block of channels or a head at a time, for those who bring memory and
/// threads of their own.
pub mod recurrences {
    pub use super::recurrence::{OuterDecay, OuterInputs, outer_head};
    pub use super::rows::Columns;
    pub use super::scan::{SHARE, ScanInputs, blocks_len, from_blocks, scan_channels, to_blocks, to_rates};
}

use crate::Result;
use crate::backend::*;
use crate::parity::{Distance, distances};
use rope::Table;
use std::ops::Range;
use tamborim_model::mixers::Rope;
use tamborim_quant::Sums;

/// Computes on the CPU, on all of rayon's threads: float32 activations and states, float32 accumulation, weights decoded
/// exactly a panel at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

/// The tokens of a chunk and the first one's position.
pub struct Place {
    tokens: Vec<u32>,
    position: u64,
    /// Tokens that were chosen here.
    taken: Vec<u32>,
}

impl Backend for Cpu {
    type Rows = Rows;
    type Vector = Vec<f32>;
    type Linear<'a> = Linear<'a>;
    type Scan<'a> = Scan<'a>;
    type Rope = Rope;
    type KeyValues = KeyValues;
    type Place = Place;
    type Recording = ();
    type Gram = Sums;

    fn describe(&self) -> String {
        "cpu".to_owned()
    }

    fn chunk(&self) -> usize {
        256
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn other_mode(&self) -> Result<Option<Cpu>> {
        Ok(None)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn zeros(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }

    fn stack<'a>(&self, maps: Vec<Map<'a>>) -> Result<Linear<'a>> {
        Ok(Linear::new(maps))
    }

    fn load_scan<'a>(&self, dt: Map<'a>, a: Vec<f32>, d: Vec<f32>) -> Result<Scan<'a>> {
        Ok(Scan::new(Linear::new(vec![dt]), &a, d))
    }

    fn scan_state(&self, scan: &Scan<'_>) -> Result<Vec<f32>> {
        Ok(scan.start())
    }

    fn load_rope(&self, rope: &Rope) -> Result<Rope> {
        Ok(*rope)
    }

    fn key_values(&self, _: &AttentionShape) -> Result<KeyValues> {
        Ok(KeyValues::default())
    }

    fn reserve(&self, _: &mut KeyValues, _: &AttentionShape, _: u64) -> Result<bool> {
        Ok(false)
    }

    fn set_place(&self, place: &mut Option<Place>, tokens: &[u32], position: u64) -> Result<()> {
        *place = Some(Place { tokens: tokens.to_vec(), position, taken: Vec::new() });
        Ok(())
    }

    fn take_likeliest(&self, logits: &Rows, vocab_size: usize, place: &mut Place) -> Result<()> {
        let token = crate::sample::likeliest(&logits.row(0)[..vocab_size]);
        place.tokens = vec![token];
        place.position += 1;
        place.taken.push(token);
        Ok(())
    }

    fn taken(&self, place: &Place, count: usize, _: u64) -> Result<Vec<u32>> {
        Ok(place.taken[place.taken.len() - count..].to_vec())
    }

    fn repeat(&self, _: &mut (), walk: impl FnOnce() -> Result<Rows>) -> Result<Rows> {
        walk()
    }

    fn embed(&self, table: &Linear<'_>, place: &Place) -> Result<Rows> {
        Ok(table.rows_of(&place.tokens))
    }

    fn norm(&self, norm: &NormWeights<Self::Vector>, x: &Rows) -> Result<Rows> {
        Ok(norm::apply(norm, x))
    }

    fn linear(&self, w: &Linear<'_>, x: &Rows) -> Result<Rows> {
        Ok(w.apply(x))
    }

    fn project_gated(&self, norm: &NormWeights<Self::Vector>, w: &Linear<'_>, r: &Rows) -> Result<Rows> {
        Ok(elementwise::gated_halves(&self.project(norm, w, r)?))
    }

    fn add_normed(&self, norm: &NormWeights<Self::Vector>, y: &Rows, r: &mut Rows) -> Result<()> {
        elementwise::add(r, &norm::apply(norm, y));
        Ok(())
    }

    fn norm_heads(&self, norm: &NormWeights<Self::Vector>, head_dim: usize, x: &Rows) -> Result<Rows> {
        Ok(norm::heads(norm, head_dim, x))
    }

    fn add_linear(&self, w: &Linear<'_>, x: &Rows, r: &mut Rows) -> Result<()> {
        elementwise::add(r, &w.apply(x));
        Ok(())
    }

    fn columns(&self, x: &Rows, range: Range<usize>) -> Rows {
        x.columns(range)
    }

    fn row(&self, x: &Rows, t: usize) -> Rows {
        Rows { data: x.row(t).to_vec(), cols: x.cols }
    }

    fn silu(&self, x: &mut Rows) -> Result<()> {
        elementwise::silu_in_place(x);
        Ok(())
    }

    fn gate(&self, gate: &Rows, x: &Rows) -> Result<Rows> {
        Ok(elementwise::silu_times(gate.clone(), x))
    }

    fn conv(&self, conv: &Conv<Self::Vector>, x: &Rows, past: &mut Vec<f32>) -> Result<Rows> {
        Ok(conv::apply(conv, x, past))
    }

    fn scan(
        &self,
        scan: &Scan<'_>,
        u: &Rows,
        driven: &Rows,
        gate: Option<&Rows>,
        state: &mut Vec<f32>,
    ) -> Result<Rows> {
        Ok(scan.apply(u, driven, gate, state))
    }

    fn headed_scan(
        &self,
        scan: &HeadedScan<Self::Vector>,
        u: &Rows,
        dt_b_c: [&Rows; 3],
        gate: &Rows,
        state: &mut Vec<f32>,
    ) -> Result<Rows> {
        Ok(elementwise::silu_times(gate.clone(), &headed_scan::apply(scan, u, dt_b_c, state)))
    }

    fn attend(
        &self,
        shape: &AttentionShape,
        rope: Option<&Rope>,
        qkv: &Rows,
        place: &Place,
        kv: &mut KeyValues,
    ) -> Result<Rows> {
        let (queries, keys) = (shape.heads * shape.head_dim, shape.groups * shape.head_dim);
        let (mut q, mut k) = (qkv.columns(0..queries), qkv.columns(queries..queries + keys));
        if let Some(rope) = rope {
            let table = Table::new(rope, place.position, qkv.rows());
            table.rotate(&mut q, shape.head_dim);
            table.rotate(&mut k, shape.head_dim);
        }
        kv.push(&k, &qkv.columns(queries + keys..queries + 2 * keys));
        let mixed = attention::attend(&q, kv, *shape);
        kv.trim(shape.window, keys);
        Ok(mixed)
    }

    fn attend_over(&self, shape: &AttentionShape, q: &Rows, _: &Place, kv: &KeyValues) -> Result<Rows> {
        Ok(attention::attend(q, kv, *shape))
    }

    fn spread_pairs(&self, heads: usize, head_dim: usize, x: &Rows) -> Result<Rows> {
        Ok(differential::spread_pairs(heads, head_dim, x))
    }

    fn differential_norm(&self, norm: &NormWeights<Self::Vector>, lambda: f32, o: &Rows) -> Result<Rows> {
        Ok(norm::per_head(norm, &differential::difference(norm.weight.len(), lambda, o)))
    }

    fn rotate(&self, rope: &Rope, x: &Rows, head_dim: usize, place: &Place) -> Result<Rows> {
        let mut x = x.clone();
        Table::new(rope, place.position, x.rows()).rotate(&mut x, head_dim);
        Ok(x)
    }

    fn outer_scan(
        &self,
        heads: Heads,
        [q, k, v]: [&Rows; 3],
        decay: Decay<'_, Self>,
        state: &mut Vec<f32>,
    ) -> Result<Rows> {
        Ok(recurrence::outer_scan(heads, [q, k, v], decay, state))
    }

    fn gated_norm(&self, norm: &NormWeights<Self::Vector>, o: &Rows, gate: &Rows) -> Result<Rows> {
        Ok(elementwise::silu_times(gate.clone(), &norm::per_head(norm, o)))
    }

    fn mega_attend(
        &self,
        mega: &MegaWeights<Self::Vector>,
        mixed: &Rows,
        v: &Rows,
        place: &Place,
        memory: &mut MegaMemory<Self::Vector>,
    ) -> Result<Rows> {
        Ok(mega::attend(mega, mixed, v, place.position, memory))
    }

    fn mega_update(&self, mega: &MegaWeights<Self::Vector>, mixed: &Rows, y: &Rows, r: &mut Rows) -> Result<()> {
        mega::update(mega, mixed, y, r);
        Ok(())
    }

    fn rows(&self, cols: usize, data: Vec<f32>) -> Result<Rows> {
        Ok(Rows { data, cols })
    }

    fn read(&self, x: &Rows) -> Result<Vec<f32>> {
        Ok(x.data.clone())
    }

    fn copied(&self, x: &Rows) -> Result<Rows> {
        Ok(x.clone())
    }

    fn beside_difference(&self, x: &Rows, pair: [&Rows; 2]) -> Result<Rows> {
        Ok(elementwise::beside_difference(x, pair))
    }

    fn load_gram(&self, sums: Sums) -> Result<Sums> {
        Ok(sums)
    }

    fn add_gram(&self, x: &Rows, gram: &mut Sums) -> Result<()> {
        gram::add(&x.data, gram);
        Ok(())
    }

    fn read_gram(&self, gram: &Sums) -> Result<Sums> {
        Ok(gram.clone())
    }

    fn read_gram_end(&self, gram: &Sums, first: usize) -> Result<Vec<f64>> {
        Ok(gram.moments.lower[first..].to_vec())
    }

    fn distances(&self, a: &Rows, b: &Rows, vocab_size: usize, targets: &[u32]) -> Result<Vec<Distance>> {
        Ok(distances(&a.data, &b.data, [a.cols, b.cols], vocab_size, targets))
    }
}
