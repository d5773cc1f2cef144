//! The outer-product recurrence of linear attention.

use super::device::Launch;
use super::elementwise::{self, View};
use super::rows::{Kind, Rows, Vector};
use super::{Cuda, DeviceError};
use crate::Result;
use crate::backend::{Decay, Heads};

/// Kernels by the most keys they take: value channels of a block, and dynamic shared memory in float32 and bfloat16.
const KERNELS: [(usize, usize, usize, usize); 6] = [
    (64, 32, 14_336, 9_216),
    (128, 32, 26_624, 17_408),
    (192, 32, 38_912, 25_600),
    (256, 32, 51_200, 33_792),
    (384, 16, 74_752, 49_664),
    (512, 16, 99_328, 66_048),
];

/// [`Backend::outer_scan`](crate::Backend::outer_scan).
pub fn outer_scan(
    cuda: &Cuda,
    heads: Heads,
    [q, k, v]: [&Rows; 3],
    decay: Decay<'_, Cuda>,
    state: &Vector,
) -> Result<Rows> {
    let gates;
    let (decay, decay_stride) = match decay {
        Decay::Constant(row) => (row.ptr(), 0),
        Decay::Gate(x) => {
            gates = Rows::new(&cuda.device, x.rows, x.cols, Kind::F32)?;
            let name = format!("decay_gate_{}", x.kind.suffix());
            elementwise::map(cuda, &name, &[View::of(x), View::of(&gates)], x.rows, x.cols)?;
            (gates.ptr(), gates.stride)
        }
    };
    let Some((keys, columns, wide, narrow)) = KERNELS.iter().find(|(keys, ..)| heads.keys <= *keys) else {
        let limit = KERNELS[KERNELS.len() - 1].0;
        return Err(DeviceError::Unsupported { what: "key channels of a head", limit, found: heads.keys }.into());
    };
    let out = cuda.new_rows(q.rows, v.cols)?;
    let shared = if out.kind == Kind::F32 { *wide } else { *narrow };
    cuda.device.launch(
        "recurrence",
        &format!("outer_scan_{}_{keys}", out.kind.suffix()),
        Launch::grid([heads.values.div_ceil(*columns), heads.count, 1], 128).shared(shared),
        &[
            &q.ptr(),
            &(q.stride as i64),
            &k.ptr(),
            &(k.stride as i64),
            &v.ptr(),
            &(v.stride as i64),
            &decay,
            &(decay_stride as i64),
            &(1.0 / (heads.keys as f32).sqrt()),
            &out.ptr(),
            &(out.stride as i64),
            &state.ptr(),
            &(q.rows as i32),
            &(heads.keys as i32),
            &(heads.values as i32),
        ],
    )?;
    Ok(out)
}
