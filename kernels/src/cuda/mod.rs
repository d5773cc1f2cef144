//! NVIDIA GPUs: operations, one file each, over the kernels in `kernels/cuda/`.
//!
//! Nothing of CUDA is needed to build or to start: the driver is looked for when a device is opened, the kernels are part of
//! this binary. See `kernels/cuda/README.md`.

mod attention;
mod bench;
mod blas;
mod conv;
mod device;
mod differential;
mod distance;
mod elementwise;
mod error;
mod gemv;
mod gram;
mod head_norm;
mod headed_scan;
mod libraries;
mod linear;
mod mega;
mod memory;
mod modules;
mod norm;
mod recording;
mod recurrence;
mod rows;
mod scan;

pub use attention::{KeyValues, Rope};
pub use bench::KernelTime;
pub use error::DeviceError;
pub use gram::Gram;
pub use linear::Linear;
pub use recording::Recording;
pub use rows::{Rows, Vector};
pub use scan::Scan;

use crate::Result;
use crate::backend::*;
use crate::parity::Distance;
use blas::Blas;
use device::{Device, Launch};
use memory::Block;
use rows::Kind;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use tamborim_model::mixers;
use tamborim_quant::Sums;

/// Computes on an NVIDIA GPU.
pub struct Cuda {
    /// `None` in exact mode, and where it is not installed.
    blas: Option<Blas>,
    device: Rc<Device>,
    ordinal: usize,
    mode: Mode,
}

/// The tokens of a chunk and the first one's position, on the device.
pub struct Place {
    /// An int64 position, then an int32 for each token of the longest chunk.
    block: Block,
    /// An int32 for each of as many tokens: those that were chosen on the device, at their positions' places in a ring.
    taken: Block,
    /// Tokens.
    count: usize,
    /// The position, for what the host decides; a recorded step must not depend on it.
    host_position: u64,
    /// Tables of the rotary embeddings that this chunk has needed so far.
    tables: RefCell<Vec<attention::Table>>,
}

impl Place {
    fn position(&self) -> u64 {
        self.block.ptr
    }

    fn tokens(&self) -> u64 {
        self.block.ptr + 8
    }
}

impl Cuda {
    /// Gets device `ordinal` ready to compute in `mode`.
    ///
    /// # Errors
    /// [`DeviceError`], where there is no driver, no such device, or one that is too old.
    pub fn open(ordinal: usize, mode: Mode) -> std::result::Result<Cuda, DeviceError> {
        Cuda { blas: None, device: Device::open(ordinal)?, ordinal, mode }.in_mode(mode)
    }

    /// A backend on the same device and stream that computes in another mode.
    ///
    /// # Errors
    /// Where cuBLAS is there but does not start.
    pub fn in_mode(&self, mode: Mode) -> std::result::Result<Cuda, DeviceError> {
        let blas = match mode {
            Mode::Exact => None,
            Mode::Fast => Blas::open(&self.device)?,
        };
        Ok(Cuda { blas, device: self.device.clone(), ordinal: self.ordinal, mode })
    }

    /// How activations are stored.
    fn kind(&self) -> Kind {
        match self.mode {
            Mode::Exact => Kind::F32,
            Mode::Fast => Kind::Bf16,
        }
    }

    /// Whether fast mode has found NVIDIA's matrix products.
    pub fn has_cublas(&self) -> bool {
        self.blas.is_some()
    }

    /// Uninitialized activations.
    fn new_rows(&self, rows: usize, cols: usize) -> Result<Rows> {
        Ok(Rows::new(&self.device, rows, cols, self.kind())?)
    }
}

impl Backend for Cuda {
    type Rows = Rows;
    type Vector = Vector;
    type Linear<'a> = Linear;
    type Scan<'a> = Scan;
    type Rope = Rope;
    type KeyValues = KeyValues;
    type Place = Place;
    type Recording = Recording;
    type Gram = Gram;

    fn describe(&self) -> String {
        let mode = match self.mode {
            Mode::Exact => "exact",
            Mode::Fast => "fast",
        };
        format!("cuda:{} ({}), {mode}", self.ordinal, self.device.name())
    }

    fn chunk(&self) -> usize {
        match self.mode {
            Mode::Exact => 2048,
            Mode::Fast => 8192,
        }
    }

    fn is_exact(&self) -> bool {
        self.mode == Mode::Exact
    }

    fn other_mode(&self) -> Result<Option<Cuda>> {
        let other = match self.mode {
            Mode::Exact => Mode::Fast,
            Mode::Fast => Mode::Exact,
        };
        Ok(Some(self.in_mode(other)?))
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vector> {
        Ok(Vector::new(&self.device, &values)?)
    }

    fn zeros(&self, len: usize) -> Result<Vector> {
        Ok(Vector::zeros(&self.device, len)?)
    }

    fn stack<'a>(&self, maps: Vec<Map<'a>>) -> Result<Linear> {
        linear::load(self, maps)
    }

    fn stack_gated<'a>(&self, gate: Map<'a>, up: Map<'a>) -> Result<Linear> {
        linear::load_gated(self, gate, up)
    }

    fn load_scan<'a>(&self, dt: Map<'a>, a: Vec<f32>, d: Vec<f32>) -> Result<Scan> {
        scan::load(self, dt, a, d)
    }

    fn scan_state(&self, scan: &Scan) -> Result<Vector> {
        self.zeros(scan.state_len())
    }

    fn load_rope(&self, rope: &mixers::Rope) -> Result<Rope> {
        Rope::load(self, rope)
    }

    fn key_values(&self, shape: &AttentionShape) -> Result<KeyValues> {
        KeyValues::new(self, shape)
    }

    fn reserve(&self, kv: &mut KeyValues, shape: &AttentionShape, end: u64) -> Result<bool> {
        kv.reserve(self, shape, end)
    }

    fn set_place(&self, place: &mut Option<Place>, tokens: &[u32], position: u64) -> Result<()> {
        let bytes: Vec<u8> =
            position.to_ne_bytes().into_iter().chain(tokens.iter().flat_map(|t| t.to_ne_bytes())).collect();
        let kept = place.take().filter(|p| p.block.holds(bytes.len()));
        let (block, taken) = match kept {
            Some(place) => (place.block, place.taken),
            // At once as large as any chunk needs: recordings rely on the address.
            None => (self.device.take(8 + 4 * tokens.len().max(self.chunk()))?, self.device.take(4 * self.chunk())?),
        };
        self.device.upload(&block, &bytes)?;
        *place = Some(Place { block, taken, count: tokens.len(), host_position: position, tables: RefCell::default() });
        Ok(())
    }

    fn take_likeliest(&self, logits: &Rows, vocab_size: usize, place: &mut Place) -> Result<()> {
        let (vocab_size, capacity) = (vocab_size as i32, self.chunk() as i32);
        self.device.launch(
            "distance",
            "next_token",
            Launch::blocks(1, 1024).overlapping(),
            &[&logits.ptr(), &vocab_size, &place.position(), &place.tokens(), &place.taken.ptr, &capacity],
        )?;
        // The next step computes them anew.
        place.tables.take();
        Ok(())
    }

    fn taken(&self, place: &Place, count: usize, end: u64) -> Result<Vec<u32>> {
        let capacity = self.chunk();
        let mut ring = vec![0u32; capacity];
        self.device.download(place.taken.ptr, &mut ring)?;
        let last = (end % capacity as u64) as usize;
        Ok((0..count).map(|i| ring[(last + capacity + 1 + i - count) % capacity]).collect())
    }

    fn repeat(&self, recording: &mut Recording, walk: impl FnOnce() -> Result<Rows>) -> Result<Rows> {
        recording.repeat(&self.device, walk)
    }

    fn embed(&self, table: &Linear, place: &Place) -> Result<Rows> {
        linear::embed(self, table, place)
    }

    fn norm(&self, norm: &NormWeights<Self::Vector>, x: &Rows) -> Result<Rows> {
        norm::apply(self, norm, x)
    }

    fn linear(&self, w: &Linear, x: &Rows) -> Result<Rows> {
        linear::apply(self, w, None, x)
    }

    fn project(&self, norm: &NormWeights<Self::Vector>, w: &Linear, r: &Rows) -> Result<Rows> {
        linear::apply(self, w, Some(norm), r)
    }

    fn project_logits(&self, norm: &NormWeights<Self::Vector>, w: &Linear, r: &Rows) -> Result<Rows> {
        linear::logits(self, w, norm, r)
    }

    fn project_gated(&self, norm: &NormWeights<Self::Vector>, w: &Linear, r: &Rows) -> Result<Rows> {
        linear::gated(self, w, norm, r)
    }

    fn add_normed(&self, norm: &NormWeights<Self::Vector>, y: &Rows, r: &mut Rows) -> Result<()> {
        head_norm::add(self, norm, y, r)
    }

    fn norm_heads(&self, norm: &NormWeights<Self::Vector>, head_dim: usize, x: &Rows) -> Result<Rows> {
        head_norm::heads(self, norm, head_dim, x)
    }

    fn project_conv(
        &self,
        norm: &NormWeights<Self::Vector>,
        w: &Linear,
        r: &Rows,
        conv: &Conv<Self::Vector>,
        past: &mut Vector,
        [channels, _]: [usize; 2],
    ) -> Result<(Rows, Rows)> {
        linear::convolved(self, w, norm, r, gemv::Convolution { weights: conv, past, channels })
    }

    fn add_linear(&self, w: &Linear, x: &Rows, r: &mut Rows) -> Result<()> {
        linear::add(self, w, x, r)
    }

    fn columns(&self, x: &Rows, range: Range<usize>) -> Rows {
        x.columns(range)
    }

    fn row(&self, x: &Rows, t: usize) -> Rows {
        x.rows(t..t + 1)
    }

    fn silu(&self, x: &mut Rows) -> Result<()> {
        elementwise::silu(self, x)
    }

    fn gate(&self, gate: &Rows, x: &Rows) -> Result<Rows> {
        elementwise::gate(self, gate, x)
    }

    fn conv(&self, conv: &Conv<Self::Vector>, x: &Rows, past: &mut Vector) -> Result<Rows> {
        conv::apply(self, conv, x, past)
    }

    fn scan(&self, scan: &Scan, u: &Rows, driven: &Rows, gate: Option<&Rows>, state: &mut Vector) -> Result<Rows> {
        scan::apply(self, scan, u, driven, gate, state)
    }

    fn headed_scan(
        &self,
        scan: &HeadedScan<Vector>,
        u: &Rows,
        dt_b_c: [&Rows; 3],
        gate: &Rows,
        state: &mut Vector,
    ) -> Result<Rows> {
        headed_scan::apply(self, scan, u, dt_b_c, gate, state)
    }

    fn attend(
        &self,
        shape: &AttentionShape,
        rope: Option<&Rope>,
        qkv: &Rows,
        place: &Place,
        kv: &mut KeyValues,
    ) -> Result<Rows> {
        attention::attend(self, shape, rope, qkv, place, kv)
    }

    fn attend_over(&self, shape: &AttentionShape, q: &Rows, place: &Place, kv: &KeyValues) -> Result<Rows> {
        attention::attend_over(self, shape, q, place, kv)
    }

    fn spread_pairs(&self, heads: usize, head_dim: usize, x: &Rows) -> Result<Rows> {
        differential::spread_pairs(self, heads, head_dim, x)
    }

    fn differential_norm(&self, norm: &NormWeights<Self::Vector>, lambda: f32, o: &Rows) -> Result<Rows> {
        differential::norm(self, norm, lambda, o)
    }

    fn rotate(&self, rope: &Rope, x: &Rows, head_dim: usize, place: &Place) -> Result<Rows> {
        attention::rotate(self, rope, x, head_dim, place)
    }

    fn outer_scan(&self, heads: Heads, qkv: [&Rows; 3], decay: Decay<'_, Self>, state: &mut Vector) -> Result<Rows> {
        recurrence::outer_scan(self, heads, qkv, decay, state)
    }

    fn gated_norm(&self, norm: &NormWeights<Self::Vector>, o: &Rows, gate: &Rows) -> Result<Rows> {
        norm::gated(self, norm, o, gate)
    }

    fn mega_attend(
        &self,
        mega: &MegaWeights<Self::Vector>,
        mixed: &Rows,
        v: &Rows,
        place: &Place,
        memory: &mut MegaMemory<Self::Vector>,
    ) -> Result<Rows> {
        mega::attend(self, mega, mixed, v, place, memory)
    }

    fn mega_update(&self, mega: &MegaWeights<Self::Vector>, mixed: &Rows, y: &Rows, r: &mut Rows) -> Result<()> {
        mega::update(self, mega, mixed, y, r)
    }

    fn rows(&self, cols: usize, numbers: Vec<f32>) -> Result<Rows> {
        let rows = numbers.len().checked_div(cols).unwrap_or(0);
        let x = self.new_rows(rows, cols)?;
        match self.kind() {
            Kind::F32 => x.upload(&self.device, &numbers)?,
            Kind::Bf16 => {
                let rounded: Vec<half::bf16> = numbers.iter().map(|x| half::bf16::from_f32(*x)).collect();
                x.upload(&self.device, &rounded)?;
            }
        }
        Ok(x)
    }

    fn read(&self, x: &Rows) -> Result<Vec<f32>> {
        elementwise::read(self, x)
    }

    fn copied(&self, x: &Rows) -> Result<Rows> {
        elementwise::copied(self, x, x.kind)
    }

    fn beside_difference(&self, x: &Rows, pair: [&Rows; 2]) -> Result<Rows> {
        elementwise::beside_difference(self, x, pair)
    }

    fn load_gram(&self, sums: Sums) -> Result<Gram> {
        gram::load(self, sums)
    }

    fn add_gram(&self, x: &Rows, gram: &mut Gram) -> Result<()> {
        gram::add(self, x, gram)
    }

    fn read_gram(&self, gram: &Gram) -> Result<Sums> {
        gram::read(self, gram)
    }

    fn read_gram_end(&self, gram: &Gram, first: usize) -> Result<Vec<f64>> {
        gram::read_end(self, gram, first)
    }

    fn distances(&self, a: &Rows, b: &Rows, vocab_size: usize, targets: &[u32]) -> Result<Vec<Distance>> {
        distance::distances(self, a, b, vocab_size, targets)
    }
}
