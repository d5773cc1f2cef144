//! Mega's attention inside chunks.

use super::device::Launch;
use super::elementwise::{self, View};
use super::rows::{Kind, Rows, Vector};
use super::{Cuda, Place};
use crate::Result;
use crate::backend::{MegaMemory, MegaWeights};

/// [`Backend::mega_attend`](crate::Backend::mega_attend), the part of each chunk in turn.
pub fn attend(
    cuda: &Cuda,
    mega: &MegaWeights<Vector>,
    mixed: &Rows,
    v: &Rows,
    place: &Place,
    memory: &MegaMemory<Vector>,
) -> Result<Rows> {
    let out = cuda.new_rows(mixed.rows, mega.d_model)?;
    let mut first = 0;
    while first < mixed.rows {
        let start = ((place.host_position + first as u64) % mega.chunk as u64) as usize;
        let count = (mixed.rows - first).min(mega.chunk - start);
        let part = |x: &Rows| x.rows(first..first + count);
        attend_part(cuda, mega, [&part(mixed), &part(v), &part(&out)], place, [first, start], memory)?;
        first += count;
    }
    Ok(out)
}

/// Tokens of one chunk, `first` of which come before them in this pass, the first one at place `start`.
fn attend_part(
    cuda: &Cuda,
    mega: &MegaWeights<Vector>,
    [mixed, v, out]: [&Rows; 3],
    place: &Place,
    [first, start]: [usize; 2],
    memory: &MegaMemory<Vector>,
) -> Result<()> {
    let MegaWeights { d_model: d, z_dim, chunk, .. } = *mega;
    let (z, r) = (mixed.columns(d..d + z_dim), mixed.columns(d + z_dim..2 * d + z_dim));
    let (rows, suffix) = (mixed.rows, out.kind.suffix());
    let [queries, keys] = mega.positions.each_ref().map(|p| p.ptr());
    let (first, z_arg, d_arg, chunk_arg) = (first as i32, z_dim as i32, d as i32, chunk as i32);
    let scale = 1.0 / (z_dim as f32).sqrt();
    let q = cuda.new_rows(rows, z_dim)?;
    let launch = |name: &str, how, arguments: &[&dyn super::device::Argument]| {
        cuda.device.launch("mega", &format!("mega_{name}_{suffix}"), how, arguments)
    };
    launch(
        "prepare",
        Launch::blocks(rows, 256),
        &[
            &z.ptr(),
            &(z.stride as i64),
            &v.ptr(),
            &(v.stride as i64),
            &mega.gamma.ptr(),
            &mega.beta.ptr(),
            &q.ptr(),
            &memory.keys.ptr(),
            &memory.values.ptr(),
            &place.position(),
            &first,
            &z_arg,
            &d_arg,
            &chunk_arg,
        ],
    )?;
    let scores = Rows::new(&cuda.device, rows, chunk.next_multiple_of(4), Kind::F32)?;
    if rows == 1 {
        // Where the token stands changes from replay to replay, so the grid serves all places.
        launch(
            "score_one",
            Launch::blocks(chunk.div_ceil(8), 256),
            &[
                &q.ptr(),
                &memory.keys.ptr(),
                &queries,
                &keys,
                &scale,
                &scores.ptr(),
                &place.position(),
                &first,
                &z_arg,
                &chunk_arg,
            ],
        )?;
        launch(
            "values_one",
            Launch::blocks(d.div_ceil(16), 256).shared(4 * chunk + 8_192),
            &[&scores.ptr(), &memory.values.ptr(), &r.ptr(), &out.ptr(), &place.position(), &first, &d_arg, &chunk_arg],
        )?;
        return Ok(());
    }
    let reach = start + rows;
    let p = cuda.new_rows(rows, chunk.next_multiple_of(8))?;
    launch(
        "scores",
        Launch::grid([rows.div_ceil(64), reach.div_ceil(64), 1], 256),
        &[
            &q.ptr(),
            &memory.keys.ptr(),
            &queries,
            &keys,
            &scale,
            &scores.ptr(),
            &(scores.stride as i64),
            &place.position(),
            &first,
            &(rows as i32),
            &z_arg,
            &chunk_arg,
        ],
    )?;
    launch(
        "softmax",
        Launch::blocks(rows, 256),
        &[
            &scores.ptr(),
            &(scores.stride as i64),
            &p.ptr(),
            &(p.stride as i64),
            &place.position(),
            &first,
            &(rows as i32),
            &chunk_arg,
        ],
    )?;
    let shared = if out.kind == Kind::F32 { 49_152 } else { 98_304 };
    launch(
        "values",
        Launch::grid([rows.div_ceil(128), d.div_ceil(128), 1], 128).shared(shared),
        &[
            &p.ptr(),
            &(p.stride as i64),
            &memory.values.ptr(),
            &r.ptr(),
            &(r.stride as i64),
            &out.ptr(),
            &(out.stride as i64),
            &place.position(),
            &first,
            &(rows as i32),
            &d_arg,
            &chunk_arg,
        ],
    )?;
    Ok(())
}

/// [`Backend::mega_update`](crate::Backend::mega_update).
pub fn update(cuda: &Cuda, mega: &MegaWeights<Vector>, mixed: &Rows, y: &Rows, r: &Rows) -> Result<()> {
    let (d, z) = (mega.d_model, mega.z_dim);
    let (u, h) = (mixed.columns(0..d), mixed.columns(2 * d + z..3 * d + z));
    let change = cuda.new_rows(r.rows, d)?;
    let views = [View::of(&u), View::of(&h), View::of(y), View::of(r), View::of(&change)];
    elementwise::map(cuda, &format!("mega_gate_{}", change.kind.suffix()), &views, r.rows, d)?;
    let views = [View::of(r), View::of(&change)];
    elementwise::map(cuda, &format!("add_{}", change.kind.suffix()), &views, r.rows, d)
}
