//! Retrieval from afar: a number is hidden in a long text of no interest, and asked for at its end (as in the passkey task of
//! the Samba paper, arXiv 2406.07522, section 3.4, after arXiv 2305.16300). A model must be able to do this at full
//! precision before its failing at it says anything about a candidate.

use super::text::text_after;
use crate::Result;
use crate::pipeline::decode::decode;
use crate::pipeline::runner::Runner;
use crate::progress::Progress;
use crate::report::{Passkey, PasskeyAnswer};
use tamborim_kernels::Backend;
use tamborim_kernels::sample::{Sampler, Sampling};
use tamborim_model::tokenizer::Tokenizer;

const INTRODUCTION: &str = "Somewhere in this long text there is a pass key. Find it and remember it.";
const FILLER: &str = "The river runs to the sea. The wind moves the leaves. Day follows night, and night follows day.";
const QUESTION: &str = "What is the pass key? The pass key is";
/// Where the key is hidden: 0 at the start, 1 at the end.
const DEPTHS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// Tokens of an answer.
const ANSWER: usize = 12;

/// For each candidate, its answers beside the reference's, over prompts of `lengths` tokens.
pub fn passkey<'a, B: Backend>(
    reference: &Runner<'a, B>,
    candidates: &[Runner<'a, B>],
    tokenizer: &Tokenizer,
    lengths: &[usize],
) -> Result<Vec<Vec<Passkey>>> {
    let mut found: Vec<Vec<_>> = candidates.iter().map(|_| Vec::new()).collect();
    let progress = Progress::items("passkey", (lengths.len() * DEPTHS.len()) as u64);
    let mut random = fastrand::Rng::with_seed(0);
    for &length in lengths {
        for depth in DEPTHS {
            let key = random.u32(10_000..100_000).to_string();
            let prompt = prompt(tokenizer, length, depth, &key)?;
            let ask = |model| answer(model, tokenizer, &prompt, &key);
            let first = ask(reference)?;
            for (candidate, found) in candidates.iter().zip(&mut found) {
                found.push(Passkey {
                    tokens: prompt.len(),
                    depth,
                    key: key.clone(),
                    reference: first.clone(),
                    candidate: ask(candidate)?,
                });
            }
            progress.advance(1);
        }
    }
    progress.finish();
    Ok(found)
}

/// `length` tokens.
fn prompt(tokenizer: &Tokenizer, length: usize, depth: f64, key: &str) -> Result<Vec<u32>> {
    let encode = |text: &str| tokenizer.encode(text);
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().chain(encode(INTRODUCTION)).collect();
    let hidden = encode(&format!("The pass key is {key}. Remember it: {key} is the pass key."));
    let (filler, question) = (encode(FILLER), encode(QUESTION));
    let least = ids.len() + hidden.len() + question.len();
    let Some(room) = length.checked_sub(least) else {
        return Err(format!("--passkey {length}: expected at least {least} tokens").into());
    };
    let before = (room as f64 * depth).round() as usize;
    ids.extend(filler.iter().cycle().take(before));
    ids.extend(hidden);
    ids.extend(filler.iter().cycle().take(room - before));
    ids.extend(question);
    Ok(ids)
}

fn answer<B: Backend>(
    model: &Runner<'_, B>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    key: &str,
) -> Result<PasskeyAnswer> {
    let greedy = Sampler::new(Sampling { temperature: 0.0, top_p: 1.0 }, 0);
    let made = decode(model, prompt, ANSWER, greedy, tokenizer.eos(), |_| ())?;
    let answer = text_after(tokenizer, prompt, &made);
    let digits: String = answer.trim_start().chars().take_while(char::is_ascii_digit).collect();
    Ok(PasskeyAnswer { correct: digits == key, answer })
}
