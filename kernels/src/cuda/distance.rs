//! Two models' logits side by side.

use super::device::Launch;
use super::{Cuda, Rows};
use crate::Result;
use crate::parity::Distance;

/// What `logit_distance` leaves for a position.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
struct Record {
    kld: f64,
    reference_nll: f64,
    candidate_nll: f64,
    mean_square_difference: f64,
    max_difference: f32,
    same_top1: i32,
    top5_shared: i32,
    zero: i32,
}

/// [`distance`](crate::parity::distance) of each row.
pub fn distances(cuda: &Cuda, a: &Rows, b: &Rows, vocab_size: usize, targets: &[u32]) -> Result<Vec<Distance>> {
    let device = &cuda.device;
    let target_block = device.take(size_of_val(targets))?;
    device.upload(&target_block, targets)?;
    let out = device.take(targets.len() * size_of::<Record>())?;
    device.launch(
        "distance",
        "logit_distance",
        Launch::blocks(targets.len(), 256),
        &[
            &a.ptr(),
            &(a.stride as i64),
            &b.ptr(),
            &(b.stride as i64),
            &target_block.ptr,
            &out.ptr,
            &(vocab_size as i32),
        ],
    )?;
    let mut records = vec![bytemuck::Zeroable::zeroed(); targets.len()];
    device.download::<Record>(out.ptr, &mut records)?;
    let distance = |r: &Record| Distance {
        kld: r.kld,
        reference_nll: r.reference_nll,
        candidate_nll: r.candidate_nll,
        same_top1: r.same_top1 != 0,
        top5_overlap: f64::from(r.top5_shared) / vocab_size.min(5) as f64,
        max_difference: r.max_difference,
        mean_square_difference: r.mean_square_difference,
    };
    Ok(records.iter().map(distance).collect())
}
