//! The selective scan with heads.

use super::device::Launch;
use super::rows::{Rows, Vector};
use super::{Cuda, DeviceError};
use crate::Result;
use crate::backend::HeadedScan;

/// States of a channel that there are kernels for.
const KERNELS: [usize; 3] = [16, 64, 128];

/// [`Backend::headed_scan`](crate::Backend::headed_scan).
pub fn apply(
    cuda: &Cuda,
    scan: &HeadedScan<Vector>,
    u: &Rows,
    [dt, b, c]: [&Rows; 3],
    gate: &Rows,
    state: &Vector,
) -> Result<Rows> {
    let Some(states) = KERNELS.iter().find(|n| scan.d_state <= **n) else {
        let limit = KERNELS[KERNELS.len() - 1];
        return Err(DeviceError::Unsupported { what: "states of a channel", limit, found: scan.d_state }.into());
    };
    let out = cuda.new_rows(u.rows, u.cols)?;
    cuda.device.launch(
        "headed_scan",
        &format!("headed_scan_{}_n{states}", out.kind.suffix()),
        Launch::grid([scan.head_dim.div_ceil(16), scan.heads, 1], 128).overlapping(),
        &[
            &u.ptr(),
            &(u.stride as i64),
            &dt.ptr(),
            &(dt.stride as i64),
            &b.ptr(),
            &(b.stride as i64),
            &c.ptr(),
            &(c.stride as i64),
            &gate.ptr(),
            &(gate.stride as i64),
            &scan.dt_bias.ptr(),
            &scan.a.ptr(),
            &scan.d.ptr(),
            &state.ptr(),
            &out.ptr(),
            &(out.stride as i64),
            &(u.rows as i32),
            &(scan.head_dim as i32),
            &(scan.d_state as i32),
        ],
    )?;
    Ok(out)
}
