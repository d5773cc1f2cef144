//! What the models write: continuations of the same prompts, side by side.

use super::text::text_after;
use crate::Result;
use crate::data::Tokens;
use crate::pipeline::decode::decode;
use crate::pipeline::runner::Runner;
use crate::report::Continuation;
use tamborim_kernels::Backend;
use tamborim_kernels::sample::{Sampler, Sampling};
use tamborim_model::tokenizer::Tokenizer;

/// Tokens of a continuation.
const TOKENS: usize = 64;
/// Beginnings of documents that are continued where no prompts are given, and their tokens.
const PROMPTS: usize = 3;
const PROMPT_TOKENS: usize = 32;
/// Greedy, and the nucleus that the Samba paper samples from (arXiv 2406.07522, section 4).
const SAMPLINGS: [Sampling; 2] =
    [Sampling { temperature: 0.0, top_p: 1.0 }, Sampling { temperature: 0.2, top_p: 0.95 }];
/// Of both models' choices: equal probabilities choose equal tokens.
const SEED: u64 = 0;

/// For each candidate, its continuations beside the reference's.
pub fn continuations<'a, B: Backend>(
    reference: &Runner<'a, B>,
    candidates: &[Runner<'a, B>],
    tokenizer: &Tokenizer,
    tokens: &Tokens,
    prompts: &[String],
) -> Result<Vec<Vec<Continuation>>> {
    let given = prompts.iter().map(|p| tokenizer.bos().into_iter().chain(tokenizer.encode(p)).collect::<Vec<u32>>());
    let prompts = if prompts.is_empty() { beginnings(tokens) } else { given.filter(|p| !p.is_empty()).collect() };
    let mut found: Vec<Vec<_>> = candidates.iter().map(|_| Vec::new()).collect();
    for sampling in SAMPLINGS {
        for prompt in &prompts {
            let written = |model| decode(model, prompt, TOKENS, Sampler::new(sampling, SEED), tokenizer.eos(), |_| ());
            let first = written(reference)?;
            for (candidate, found) in candidates.iter().zip(&mut found) {
                let other = written(candidate)?;
                let shared = first.iter().zip(&other).take_while(|(a, b)| a == b).count();
                let before = [prompt, &first[..shared]].concat();
                found.push(Continuation {
                    prompt: tokenizer.decode(prompt),
                    temperature: sampling.temperature,
                    top_p: sampling.top_p,
                    tokens: first.len(),
                    shared_tokens: shared,
                    shared: text_after(tokenizer, prompt, &first[..shared]),
                    reference: text_after(tokenizer, &before, &first[shared..]),
                    candidate: text_after(tokenizer, &before, &other[shared..]),
                });
            }
        }
    }
    Ok(found)
}

/// How documents of as many domains as there are begin.
fn beginnings(tokens: &Tokens) -> Vec<Vec<u32>> {
    let ends = tokens.documents.iter().skip(1).copied().chain([tokens.ids.len()]);
    let long = tokens.documents.iter().zip(ends).filter(|(start, end)| end - **start > PROMPT_TOKENS);
    let mut seen = Vec::new();
    let mut prompts = Vec::new();
    for (&start, _) in long {
        let domain = tokens.domains[start];
        if prompts.len() < PROMPTS && !seen.contains(&domain) {
            seen.push(domain);
            prompts.push(tokens.ids[start..start + PROMPT_TOKENS].to_vec());
        }
    }
    prompts
}
