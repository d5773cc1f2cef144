//! One file per block format: layout, decoder, encoder. The table that names them is in `format.rs`.
//!
//! Each module has `BLOCK_LEN` (elements), `BLOCK_BYTES`, `decode(level, bytes, out)` and
//! `encode(level, values, importance, out)`, both over whole blocks.

pub(crate) mod bf16;
pub(crate) mod f16;
pub(crate) mod f32;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
