//! Softmax attention over a ring of keys and values, and rotary position embedding.

use super::device::Launch;
use super::memory::Block;
use super::rows::{Kind, Rows, Vector};
use super::{Cuda, Place};
use crate::Result;
use crate::backend::{AttentionShape, Backend, Mode};
use tamborim_model::mixers::{self, RopeTable};

/// Keys are worked on in tiles that must not wrap around the ring's end.
const TILE: usize = 128;

/// A rotary position embedding.
pub struct Rope {
    rope: mixers::Rope,
    /// Frequencies: (dims / 2).
    theta: Vector,
}

/// Cosines and sines of a chunk's positions, (tokens, dims / 2) each.
pub struct Table {
    rope: mixers::Rope,
    cos: Rows,
    sin: Rows,
}

impl Rope {
    /// Takes the frequencies along, rounded as the CPU's are.
    pub fn load(cuda: &Cuda, rope: &mixers::Rope) -> Result<Rope> {
        let theta = cuda.vector(crate::cpu::frequencies(rope))?;
        Ok(Rope { rope: *rope, theta })
    }

    /// The table for a chunk, which all layers of the same embedding share.
    fn table(&self, cuda: &Cuda, place: &Place) -> Result<(u64, u64)> {
        let mut tables = place.tables.borrow_mut();
        if let Some(table) = tables.iter().find(|t| t.rope == self.rope) {
            return Ok((table.cos.ptr(), table.sin.ptr()));
        }
        let (tokens, half) = (place.count, self.rope.dims / 2);
        let new = || Rows::new(&cuda.device, tokens, half, Kind::F32);
        let (cos, sin) = (new()?, new()?);
        cuda.device.launch(
            "rope",
            "rope_table",
            Launch::threads(tokens * half, 256).overlapping(),
            &[
                &cos.ptr(),
                &sin.ptr(),
                &self.theta.ptr(),
                &place.position(),
                &(tokens as i32),
                &(half as i32),
                &self.rope.condense,
                &i32::from(self.rope.table == RopeTable::Bf16),
            ],
        )?;
        let addresses = (cos.ptr(), sin.ptr());
        tables.push(Table { rope: self.rope, cos, sin });
        Ok(addresses)
    }
}

/// Keys and values that later tokens see: rings of rows (groups * head_dim); position p lies in slot p % capacity.
pub struct KeyValues {
    keys: Option<Block>,
    values: Option<Block>,
    capacity: usize,
    /// How many blocks of a decode step have ended, for each of at most as many rows of blocks as there are heads; zeros
    /// between launches.
    tickets: Block,
}

impl KeyValues {
    /// None yet.
    pub fn new(cuda: &Cuda, shape: &AttentionShape) -> Result<KeyValues> {
        let tickets = cuda.device.take(4 * shape.heads)?;
        cuda.device.clear(&tickets, 4 * shape.heads)?;
        Ok(KeyValues { keys: None, values: None, capacity: 0, tickets })
    }

    /// Room for positions below `end` and the keys that they see. Whether anything moved.
    pub fn reserve(&mut self, cuda: &Cuda, shape: &AttentionShape, end: u64) -> Result<bool> {
        // A ring of this size never grows again: a chunk is appended before it is attended.
        let most = shape.window.map_or(usize::MAX, |w| (w - 1).saturating_add(cuda.chunk()).next_multiple_of(TILE));
        let wanted = usize::try_from(end).unwrap_or(usize::MAX).min(most);
        if wanted <= self.capacity {
            return Ok(false);
        }
        self.grow(cuda, shape, wanted.max(2 * self.capacity).next_multiple_of(TILE).min(most))?;
        Ok(true)
    }

    /// Makes the rings larger: `capacity` rows, rounded up to whole tiles.
    pub fn grow(&mut self, cuda: &Cuda, shape: &AttentionShape, capacity: usize) -> Result<()> {
        let capacity = capacity.next_multiple_of(TILE);
        let row = shape.groups * shape.head_dim * cuda.kind().bytes();
        for line in [&mut self.keys, &mut self.values] {
            let block = cuda.device.take(capacity * row)?;
            // A ring that still grows has never wrapped: positions lie in their own slots. What has not been written yet is
            // masked, but must be finite.
            cuda.device.clear(&block, capacity * row)?;
            if let Some(old) = line {
                cuda.device.copy(block.ptr, old.ptr, self.capacity * row)?;
            }
            *line = Some(block);
        }
        self.capacity = capacity;
        Ok(())
    }

    fn rings(&self) -> [u64; 2] {
        [&self.keys, &self.values].map(|line| line.as_ref().map_or(0, |block| block.ptr))
    }
}

/// A kernel for chunks: the largest head it takes, queries and threads of a block, bytes of dynamic shared memory.
struct Chunked {
    file: &'static str,
    name: &'static str,
    head_dim: usize,
    queries: usize,
    block: usize,
    shared: usize,
}

const fn chunked(file: &'static str, name: &'static str, [head_dim, queries, block, shared]: [usize; 4]) -> Chunked {
    Chunked { file, name, head_dim, queries, block, shared }
}

/// For compute capability 9.0 and heads in whole pieces of 16 bytes.
const HOPPER: [Chunked; 2] = [
    chunked("attention_prefill", "attention_prefill_bf16_d64_sm90a", [64, 192, 512, 91_200]),
    chunked("attention_prefill", "attention_prefill_bf16_d128_sm90a", [128, 128, 384, 164_928]),
];
const FAST: [Chunked; 6] = [
    chunked("attention_prefill", "attention_prefill_bf16_d32", [32, 128, 128, 20_480]),
    chunked("attention_prefill", "attention_prefill_bf16_d64", [64, 128, 128, 36_864]),
    chunked("attention_prefill", "attention_prefill_bf16_d96", [96, 128, 128, 53_248]),
    chunked("attention_prefill", "attention_prefill_bf16_d128", [128, 128, 128, 69_632]),
    chunked("attention_prefill", "attention_prefill_bf16_d192", [192, 64, 128, 51_200]),
    chunked("attention_prefill", "attention_prefill_bf16_d256", [256, 64, 128, 67_584]),
];

const EXACT: [Chunked; 4] = [
    chunked("attention_exact", "attention_exact_f32_d32", [32, 64, 256, 45_056]),
    chunked("attention_exact", "attention_exact_f32_d64", [64, 64, 256, 69_632]),
    chunked("attention_exact", "attention_exact_f32_d128", [128, 64, 256, 76_800]),
    chunked("attention_exact", "attention_exact_f32_d256", [256, 32, 128, 69_120]),
];

/// [`Backend::attend`](crate::Backend::attend). Turns the queries inside `qkv` in place.
pub fn attend(
    cuda: &Cuda,
    shape: &AttentionShape,
    rope: Option<&Rope>,
    qkv: &Rows,
    place: &Place,
    kv: &KeyValues,
) -> Result<Rows> {
    let out = cuda.new_rows(qkv.rows, shape.heads * shape.head_dim)?;
    match qkv.rows {
        1 => {
            let [q, k, v] = split(shape, qkv);
            attend_one(cuda, shape, rope, &q, Some([&k, &v]), place, kv, &out)?;
        }
        _ => {
            append(cuda, shape, rope, qkv, place, kv)?;
            attend_chunk(cuda, shape, qkv, place, kv, &out)?;
        }
    }
    Ok(out)
}

/// [`Backend::attend_over`](crate::Backend::attend_over).
pub fn attend_over(cuda: &Cuda, shape: &AttentionShape, q: &Rows, place: &Place, kv: &KeyValues) -> Result<Rows> {
    let out = cuda.new_rows(q.rows, shape.heads * shape.head_dim)?;
    match q.rows {
        1 => attend_one(cuda, shape, None, q, None, place, kv, &out)?,
        _ => attend_chunk(cuda, shape, q, place, kv, &out)?,
    }
    Ok(out)
}

/// Queries, keys and values of a stacked projection.
fn split(shape: &AttentionShape, qkv: &Rows) -> [Rows; 3] {
    let (queries, keys) = (shape.heads * shape.head_dim, shape.groups * shape.head_dim);
    [qkv.columns(0..queries), qkv.columns(queries..queries + keys), qkv.columns(queries + keys..queries + 2 * keys)]
}

/// Cosines, sines and how many channels they turn.
fn angles(cuda: &Cuda, rope: Option<&Rope>, place: &Place) -> Result<(u64, u64, i32)> {
    match rope {
        None => Ok((0, 0, 0)),
        Some(rope) => rope.table(cuda, place).map(|(cos, sin)| (cos, sin, rope.rope.dims as i32)),
    }
}

/// Turns queries in place, and puts turned keys and values into the rings.
pub fn append(
    cuda: &Cuda,
    shape: &AttentionShape,
    rope: Option<&Rope>,
    qkv: &Rows,
    place: &Place,
    kv: &KeyValues,
) -> Result<()> {
    let ([q, k, v], (cos, sin, dims), [keys, values]) = (split(shape, qkv), angles(cuda, rope, place)?, kv.rings());
    cuda.device.launch(
        "rope",
        &format!("rope_append_{}", qkv.kind.suffix()),
        Launch::blocks(qkv.rows, 256),
        &[
            &q.ptr(),
            &k.ptr(),
            &v.ptr(),
            &cos,
            &sin,
            &keys,
            &values,
            &place.position(),
            &(shape.heads as i32),
            &(shape.groups as i32),
            &(shape.head_dim as i32),
            &dims,
            &(q.stride as i32),
            &(k.stride as i32),
            &(v.stride as i32),
            &(kv.capacity as i32),
        ],
    )?;
    Ok(())
}

/// Queries that are turned, the first columns of `qkv`, over keys that are there.
pub fn attend_chunk(
    cuda: &Cuda,
    shape: &AttentionShape,
    qkv: &Rows,
    place: &Place,
    kv: &KeyValues,
    out: &Rows,
) -> Result<()> {
    let (q, [keys, values]) = (qkv.columns(0..shape.heads * shape.head_dim), kv.rings());
    // Hopper's instructions want rows in whole pieces of 16 bytes.
    let hopper = |k: &&Chunked| {
        shape.head_dim.is_multiple_of(8)
            && q.stride.is_multiple_of(8)
            && q.ptr().is_multiple_of(16)
            && cuda.device.has(k.file, k.name)
    };
    let fits = |k: &&Chunked| shape.head_dim <= k.head_dim;
    let kernel = match cuda.mode {
        Mode::Exact => EXACT.iter().find(fits),
        Mode::Fast => HOPPER.iter().find(fits).filter(hopper).or(FAST.iter().find(fits)),
    };
    let Some(kernel) = kernel else { return Err(too_wide(shape).into()) };
    let blocks = shape.heads * qkv.rows.div_ceil(kernel.queries);
    cuda.device.launch(
        kernel.file,
        kernel.name,
        Launch::blocks(blocks, kernel.block).shared(kernel.shared),
        &[
            &out.ptr(),
            &q.ptr(),
            &keys,
            &values,
            &place.position(),
            &(qkv.rows as i32),
            &(shape.heads as i32),
            &(shape.groups as i32),
            &(shape.head_dim as i32),
            &(shape.window.unwrap_or(0) as i32),
            &(q.stride as i32),
            &(out.stride as i32),
            &(kv.capacity as i32),
        ],
    )?;
    Ok(())
}

fn too_wide(shape: &AttentionShape) -> super::DeviceError {
    super::DeviceError::Unsupported { what: "channels of an attention head", limit: 256, found: shape.head_dim }
}

/// One token, from its projections to its output in one launch. `fresh`: its key and value, which are appended; none where
/// they are there.
#[allow(clippy::too_many_arguments)]
fn attend_one(
    cuda: &Cuda,
    shape: &AttentionShape,
    rope: Option<&Rope>,
    q: &Rows,
    fresh: Option<[&Rows; 2]>,
    place: &Place,
    kv: &KeyValues,
    out: &Rows,
) -> Result<()> {
    if shape.head_dim > 256 {
        return Err(too_wide(shape).into());
    }
    let ((cos, sin, dims), [keys, values]) = (angles(cuda, rope, place)?, kv.rings());
    let [k, v] = fresh.map_or([0; 2], |fresh| fresh.map(Rows::ptr));
    let per_group = shape.heads / shape.groups;
    let (kernel, heads_of_block) = match shape.head_dim * q.kind.bytes() % 16 {
        0 => {
            let size = [32, 64, 128, 256].into_iter().find(|d| shape.head_dim <= *d).unwrap_or(256);
            let heads = if per_group > 1 { 4 } else { 1 };
            (format!("attention_decode_{}_d{size}_h{heads}", q.kind.suffix()), heads)
        }
        _ => (format!("attention_decode_{}_any", q.kind.suffix()), 1),
    };
    let rows = shape.groups * per_group.div_ceil(heads_of_block);
    // A block for each multiprocessor, if the most keys that this ring can show need as many: a recorded step serves all
    // positions.
    let sight = shape.window.map_or(kv.capacity, |w| w.min(kv.capacity));
    let splits = sight.div_ceil(128).min(cuda.device.multiprocessors / rows).max(1);
    let parts = cuda.device.take(4 * shape.heads * splits * (shape.head_dim + 2))?;
    cuda.device.launch(
        "attention_decode",
        &kernel,
        // It reads the ring before it waits, which only the kernel before the last may have written.
        Launch { overlap: fresh.is_some(), ..Launch::grid([splits, rows, 1], 256).shared(101_376) },
        &[
            &out.ptr(),
            &q.ptr(),
            &k,
            &v,
            &cos,
            &sin,
            &keys,
            &values,
            &place.position(),
            &parts.ptr,
            &kv.tickets.ptr,
            &(shape.heads as i32),
            &(shape.groups as i32),
            &(shape.head_dim as i32),
            &dims,
            &(shape.window.unwrap_or(0) as i32),
            &(kv.capacity as i32),
        ],
    )?;
    Ok(())
}

/// Every head of `x` turned. Queries turn in place as they are appended, so a copy is turned there, with no keys.
pub fn rotate(cuda: &Cuda, rope: &Rope, x: &Rows, head_dim: usize, place: &Place) -> Result<Rows> {
    let out = super::elementwise::copied(cuda, x, x.kind)?;
    let (cos, sin, dims) = angles(cuda, Some(rope), place)?;
    let none = 0u64;
    cuda.device.launch(
        "rope",
        &format!("rope_append_{}", x.kind.suffix()),
        Launch::blocks(x.rows, 256),
        &[
            &out.ptr(),
            &none,
            &none,
            &cos,
            &sin,
            &none,
            &none,
            &place.position(),
            &((x.cols / head_dim) as i32),
            &0i32,
            &(head_dim as i32),
            &dims,
            &(out.stride as i32),
            &0i32,
            &0i32,
            &1i32,
        ],
    )?;
    Ok(out)
}
