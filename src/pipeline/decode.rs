//! Continuing a sequence, token after token.

use super::runner::Runner;
use crate::Result;
use std::time::{Duration, Instant};
use tamborim_kernels::sample::Sampler;
use tamborim_kernels::{Backend, Logits};

/// Tokens that the device chooses come in batches that take less than twice this.
const STEADY: Duration = Duration::from_millis(20);

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
    let greedy = sampler.is_greedy();
    let mut sequence = model.start()?;
    let mut made = Vec::new();
    let mut at_once = 1;
    while made.len() < n {
        let started = Instant::now();
        let chosen = match made.last() {
            Some(last) if greedy => sequence.continue_greedily(*last, at_once.min(n - made.len()))?,
            _ => {
                let mut token = 0;
                let next = made.last().map_or(prompt, std::slice::from_ref);
                sequence.forward(next, Logits::Last, |logits| {
                    token = sampler.next(&model.backend().read(&logits)?[..vocab_size]);
                    Ok(())
                })?;
                vec![token]
            }
        };
        // As many in a row as still appear at a steady pace.
        if started.elapsed() < STEADY {
            at_once *= 2;
        }
        for token in chosen {
            if Some(token) == end {
                return Ok(made);
            }
            grown(token);
            made.push(token);
        }
    }
    Ok(made)
}
