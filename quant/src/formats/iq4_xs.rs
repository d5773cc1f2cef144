//! `iq4_xs`: 256 elements of 4 bits in 8 sub-blocks of 32, each with a signed 6-bit scale, under one f16 scale; a nibble
//! indexes a table of levels (`codebook.rs`). Source: `block_iq4_xs` in ggml-common.h, `dequantize_row_iq4_xs` and
//! `quantize_row_iq4_nl_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0  1 | 2      3     | 4 ... 7         | 8 ... 135
//!        f16 d| u16 scales_h | u8 scales_l[4]  | u8 qs[128]    x[i] = d * (s[i / 32] - 32) * table[q[i]]
//!
//! scales_l[b / 2]      bits 0-3: low bits of s[b], b even     bits 4-7: of s[b], b odd
//! scales_h             bits 2 b, 2 b + 1: bits 4-5 of s[b]
//! qs[16 b + j]         bits 0-3: element 32 b + j             bits 4-7: element 32 b + 16 + j
//! ```
//!
//! With importance `a` element errors weigh `a * sqrt(2 * mean of x^2 over the super-block + x^2)`, as in ggml.

use crate::codebook::{Codebook, FINE_TRIES, TRIES, VALUES};
use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::grid::{Codes, Factor, Grid, MAX_GROUPS, Scales as Stored};
use crate::lanes::{Lanes, load, store};
use crate::search::scales::Scales;
use crate::search::{Levels, weights};
use crate::simd::dispatch;
use crate::vector::Vector as _;

pub(crate) const BLOCK_LEN: usize = 256;
pub(crate) const BLOCK_BYTES: usize = 136;

/// Super-blocks side by side, sub-blocks of each, and elements of those.
const TOGETHER: usize = 2;
const LANES: usize = TOGETHER * SUBS;
const SUBS: usize = 8;
const SUB_LEN: usize = 32;
const SUB_SCALES: Levels = Levels { low: -32.0, high: 31.0 };
const LIMIT: f32 = F16_MAX * 31.0 * 113.0;

pub(crate) const GRID: Option<&Grid> = Some(&Grid {
    group_len: SUB_LEN,
    codes: Codes::Table,
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
        let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        let scales_h = u16::from_le_bytes([block[2], block[3]]);
        for (b, (qs, out)) in block[8..].as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<SUB_LEN>().0).enumerate() {
            let low = block[4 + b / 2] >> (4 * (b % 2)) & 15;
            let high = (scales_h >> (2 * b)) as u8 & 3;
            let scale = d * ((low | high << 4) as i8 - 32) as f32;
            let (first, second) = out.split_at_mut(16);
            for j in 0..16 {
                first[j] = scale * VALUES[(qs[j] & 15) as usize] as f32;
                second[j] = scale * VALUES[(qs[j] >> 4) as usize] as f32;
            }
        }
    }
}

#[inline(always)]
fn encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let tries = if importance.is_some() { &FINE_TRIES[..] } else { &TRIES[..] };
    let step = TOGETHER * BLOCK_LEN;
    for (batch, out) in out.chunks_mut(TOGETHER * BLOCK_BYTES).enumerate() {
        let here = batch * step..values.len().min((batch + 1) * step);
        let x = load::<LANES, SUB_LEN>(&values[here.clone()], LIMIT);
        let squares = x.iter().fold(Lanes::ZERO, |sum, x| sum + *x * *x);
        let spread = squares.each::<SUBS>(Lanes::sum) * Lanes::splat(2.0 / BLOCK_LEN as f32);
        let w = weights(&x, importance.map(|a| &a[here]), Some(spread));
        let scales = Scales::<LANES, SUBS>::search(&x, &w, Codebook, SUB_SCALES, tries);
        let inverse = scales.inverse();
        let q = store(&x, |x| Codebook.index(x, inverse));
        let s = scales.sub.to_ints();
        for (i, block) in out.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            pack(scales.d.0[i * SUBS], &s[i * SUBS..], &q[i * SUBS..], block);
        }
    }
}

#[inline(always)]
fn pack(d: f32, sub_scales: &[i32], q: &[[i8; SUB_LEN]], block: &mut [u8]) {
    let s: [u16; SUBS] = std::array::from_fn(|b| (sub_scales[b] + 32) as u16);
    let scales_h = (0..SUBS).fold(0, |bits, b| bits | (s[b] >> 4) << (2 * b));
    block[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
    block[2..4].copy_from_slice(&scales_h.to_le_bytes());
    for i in 0..SUBS / 2 {
        block[4 + i] = (s[2 * i] & 15 | (s[2 * i + 1] & 15) << 4) as u8;
    }
    for b in 0..SUBS {
        for j in 0..16 {
            block[8 + 16 * b + j] = (q[b][j] | q[b][j + 16] << 4) as u8;
        }
    }
}

fn read_block(block: &[u8]) -> Stored {
    let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
    let scales_h = u16::from_le_bytes([block[2], block[3]]);
    let mut scale = [0.0; MAX_GROUPS];
    for b in 0..SUBS {
        let low = block[4 + b / 2] >> (4 * (b % 2)) & 15;
        scale[b] = ((low | ((scales_h >> (2 * b)) as u8 & 3) << 4) as i8 - 32) as f32;
    }
    Stored { d, dmin: 0.0, scale, minimum: [0.0; MAX_GROUPS] }
}

fn write_block(scales: &Stored, codes: &[i8], block: &mut [u8]) {
    let sub_scales: [i32; SUBS] = std::array::from_fn(|b| scales.scale[b] as i32);
    pack(scales.d, &sub_scales, codes.as_chunks().0, block);
}
