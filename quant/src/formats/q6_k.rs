//! `q6_k`: 256 elements of 6 bits in 16 sub-blocks of 16, each with an 8-bit scale, under one f16 scale. Source:
//! `block_q6_K` in ggml-common.h, `dequantize_row_q6_K` and `quantize_row_q6_K_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0 ... 127 | 128 ... 191 | 192 ... 207    | 208 209
//!        u8 ql[128]| u8 qh[64]   | i8 scales[16]  | f16 d        x[i] = d * scales[i / 16] * (q[i] - 32)
//!
//! q[i] = 4 low bits in ql, 2 high bits in qh; in half h of 128 elements, for l = 0 .. 31:
//!   element 128 h + l        ql[64 h + l]      bits 0-3    qh[32 h + l] bits 0-1
//!   element 128 h + l + 32   ql[64 h + l + 32] bits 0-3    qh[32 h + l] bits 2-3
//!   element 128 h + l + 64   ql[64 h + l]      bits 4-7    qh[32 h + l] bits 4-5
//!   element 128 h + l + 96   ql[64 h + l + 32] bits 4-7    qh[32 h + l] bits 6-7
//! ```
//!
//! With importance, element errors weigh exactly that, as in ggml.

use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::grid::{Codes, Factor, Grid, Scales as Stored};
use crate::lanes::{Lanes, load, store};
use crate::search::scales::Scales;
use crate::search::{Grid as _, Levels, weights};
use crate::simd::dispatch;

pub(crate) const BLOCK_LEN: usize = 256;
pub(crate) const BLOCK_BYTES: usize = 210;

/// Sub-blocks, and elements of each.
const SUBS: usize = 16;
const SUB_LEN: usize = 16;
const LEVELS: Levels = Levels { low: -32.0, high: 31.0 };
const SUB_SCALES: Levels = Levels { low: -128.0, high: 127.0 };
const LIMIT: f32 = F16_MAX * 128.0 * 32.0;
/// Levels to which the element of largest magnitude may go.
const TRIES: [f32; 8] = [-33.2, -32.6, -32.0, -31.5, -31.0, -30.5, 31.0, 31.5];

pub(crate) const GRID: Option<&Grid> = Some(&Grid {
    group_len: SUB_LEN,
    codes: Codes::Integers(LEVELS),
    scale: Factor::Under(SUB_SCALES),
    minimum: Factor::None,
    read: read_block,
    write: write_block,
});

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let d = f16_to_f32(u16::from_le_bytes([block[208], block[209]]));
        let mut scale = [0.0; SUBS];
        for s in 0..SUBS {
            scale[s] = d * block[192 + s] as i8 as f32;
        }
        for (h, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (low, high) = (&block[64 * h..][..64], &block[128 + 32 * h..][..32]);
            let scale = &scale[8 * h..][..8];
            for part in 0..2 {
                for l in 16 * part..16 * (part + 1) {
                    let (a, b, high) = (low[l], low[l + 32], high[l]);
                    let level = |low: u8, high: u8| ((low | high) as i8 - 32) as f32;
                    out[l] = scale[part] * level(a & 15, (high & 3) << 4);
                    out[l + 32] = scale[part + 2] * level(b & 15, (high & 12) << 2);
                    out[l + 64] = scale[part + 4] * level(a >> 4, high & 48);
                    out[l + 96] = scale[part + 6] * level(b >> 4, (high & 192) >> 2);
                }
            }
        }
    }
}

#[inline(always)]
fn encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (b, (values, block)) in
        values.as_chunks::<BLOCK_LEN>().0.iter().zip(out.as_chunks_mut::<BLOCK_BYTES>().0).enumerate()
    {
        let x = load::<SUBS, SUB_LEN>(values, LIMIT);
        let w = weights(&x, importance.map(|a| &a[b * BLOCK_LEN..(b + 1) * BLOCK_LEN]), None);
        pack(&x, Scales::search(&x, &w, LEVELS, SUB_SCALES, &TRIES), block);
    }
}

#[inline(always)]
fn pack(x: &[Lanes<SUBS>; SUB_LEN], scales: Scales<SUBS, SUBS>, block: &mut [u8; BLOCK_BYTES]) {
    let inverse = scales.inverse();
    let q = store(x, |x| LEVELS.nearest(x, inverse));
    pack_codes(q.as_flattened(), block);
    for (byte, sub) in block[192..208].iter_mut().zip(scales.sub.to_ints()) {
        *byte = sub as u8;
    }
    block[208..].copy_from_slice(&f32_to_f16(scales.d.0[0]).to_le_bytes());
}

fn read_block(block: &[u8]) -> Stored {
    let d = f16_to_f32(u16::from_le_bytes([block[208], block[209]]));
    let scale = std::array::from_fn(|i| block[192 + i] as i8 as f32);
    Stored { d, dmin: 0.0, scale, minimum: [0.0; SUBS] }
}

fn write_block(scales: &Stored, codes: &[i8], block: &mut [u8]) {
    pack_codes(codes, block);
    for (byte, scale) in block[192..208].iter_mut().zip(scales.scale) {
        *byte = scale as i8 as u8;
    }
    block[208..].copy_from_slice(&f32_to_f16(scales.d).to_le_bytes());
}

#[inline(always)]
fn pack_codes(q: &[i8], block: &mut [u8]) {
    for h in 0..2 {
        for l in 0..32 {
            let [a, b, c, e] = [0, 32, 64, 96].map(|part| (q[128 * h + part + l] + 32) as u8);
            block[64 * h + l] = (a & 15) | (c & 15) << 4;
            block[64 * h + l + 32] = (b & 15) | (e & 15) << 4;
            block[128 + 32 * h + l] = (a >> 4) | (b >> 4) << 2 | (c >> 4) << 4 | (e >> 4) << 6;
        }
    }
}
