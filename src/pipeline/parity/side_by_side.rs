//! Models over the same tokens: logits are compared as they come and forgotten.

use super::worst::Worst;
use crate::Result;
use crate::pipeline::runner::{Runner, Sequence};
use tamborim_kernels::parity::Distance;
use tamborim_kernels::{Backend, Logits};

/// What comparing one candidate found.
pub struct Found {
    /// Of every position.
    pub distances: Vec<Distance>,
    pub worst: Worst,
}

/// How far candidates' predictions of `ids[1..]` are from the reference's, over windows of `context` tokens with fresh
/// states. The `keep` worst positions of each candidate are looked at closer. `advanced` hears of every chunk's length.
pub fn side_by_side<B: Backend>(
    reference: &Runner<'_, B>,
    candidates: &[Runner<'_, B>],
    ids: &[u32],
    context: usize,
    keep: usize,
    mut advanced: impl FnMut(usize),
) -> Result<Vec<Found>> {
    let backend = reference.backend();
    let step = candidates.iter().map(|c| c.backend().chunk()).fold(backend.chunk(), usize::min);
    let vocab_size = reference.plan().vocab_size;
    let positions = ids.len() - 1;
    let nothing = |_: &Runner<'_, B>| Found { distances: Vec::with_capacity(positions), worst: Worst::new(keep) };
    let mut all: Vec<Found> = candidates.iter().map(nothing).collect();
    let mut done = 0;
    while done < positions {
        let window = &ids[done..ids.len().min(done + context + 1)];
        let mut first = reference.start()?;
        let mut others = candidates.iter().map(|c| c.start()).collect::<Result<Vec<_>>>()?;
        for (inputs, targets) in window[..window.len() - 1].chunks(step).zip(window[1..].chunks(step)) {
            let a = chunk_logits(&mut first, inputs)?;
            for (sequence, found) in others.iter_mut().zip(&mut all) {
                let b = chunk_logits(sequence, inputs)?;
                let distances = backend.distances(&a, &b, vocab_size, targets)?;
                let finite = |d: &Distance| d.kld.is_finite() && d.mean_square_difference.is_finite();
                if let Some(i) = distances.iter().position(|d| !finite(d)) {
                    return Err(format!(
                        "position {}: expected finite logits of both models, found NaN or infinity",
                        done + i
                    )
                    .into());
                }
                found.worst.look(backend, [&a, &b], vocab_size, &distances, done)?;
                found.distances.extend(distances);
            }
            done += inputs.len();
            advanced(inputs.len());
        }
    }
    Ok(all)
}

/// The logits of all of a chunk's tokens.
pub fn chunk_logits<B: Backend>(sequence: &mut Sequence<'_, '_, B>, tokens: &[u32]) -> Result<B::Rows> {
    let mut rows = None;
    sequence.forward(tokens, Logits::All, |r| {
        rows = Some(r);
        Ok(())
    })?;
    rows.ok_or_else(|| "a chunk gave no logits".into())
}
