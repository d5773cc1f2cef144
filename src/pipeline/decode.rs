//! Continuing a sequence, token after token.

use super::runner::Runner;
use crate::Result;
use tamborim_kernels::sample::Sampler;
use tamborim_kernels::{Backend, Logits};

/// Continues `prompt`, which is not empty, by up to `n` tokens, ending before `end`; `grown` hears of each.
pub fn decode<B: Backend>(
    model: &Runner<'_, B>,
    prompt: &[u32],
    n: usize,
    mut sampler: Sampler,
    end: Option<u32>,
    mut grown: impl FnMut(u32),
) -> Result<Vec<u32>> {
    let vocab_size = model.plan().vocab_size;
    let mut sequence = model.start()?;
    let mut made = Vec::new();
    for _ in 0..n {
        let next = made.last().map_or(prompt, std::slice::from_ref);
        let mut token = 0;
        sequence.forward(next, Logits::Last, |logits| {
            token = sampler.next(&model.backend().read(&logits)?[..vocab_size]);
            Ok(())
        })?;
        if Some(token) == end {
            break;
        }
        grown(token);
        made.push(token);
    }
    Ok(made)
}
