use crate::cli::Generate;
use crate::device::{Mode, on_device};
use crate::pipeline::decode::decode;
use crate::pipeline::runner::Runner;
use crate::source::OpenModel;
use crate::{Outcome, Result};
use std::io::Write;
use tamborim_kernels::Backend;
use tamborim_kernels::sample::{Sampler, Sampling};

pub fn run(args: &Generate) -> Result<Outcome> {
    let model = OpenModel::open(&args.model, &args.open)?;
    let sampling = Sampling { temperature: args.temperature, top_p: args.top_p };
    let mut shown = None;
    let show = |text: &str| {
        let from = shown.replace(text.len()).unwrap_or_else(|| {
            print!("{}", args.prompt);
            0
        });
        print!("{}", &text[from..]);
        let _ = std::io::stdout().flush();
    };
    let sampler = Sampler::new(sampling, args.seed);
    on_device!(args.device.open(Mode::Fast)?, |backend| generate(
        &backend,
        &model,
        &args.prompt,
        args.n,
        sampler,
        show
    ))?;
    println!();
    Ok(Outcome::Done)
}

/// Continues `prompt` by up to `n` tokens, ending early at the end-of-document token; `grown` sees the
/// continuation so far, first the empty one when all is loaded.
pub fn generate<B: Backend>(
    backend: &B,
    model: &OpenModel,
    prompt: &str,
    n: usize,
    sampler: Sampler,
    mut grown: impl FnMut(&str),
) -> Result<String> {
    let tokenizer = model.tokenizer()?;
    let runtime = Runner::load(backend, model)?;
    let ids: Vec<u32> = tokenizer.bos().into_iter().chain(tokenizer.encode(prompt)).collect();
    if ids.is_empty() {
        return Err("--prompt: expected text, found none, and the tokenizer has no token to begin with".into());
    }
    // The decoder goes over the prompt first: whether a leading space is kept depends on what came before.
    let mut decoder = tokenizer.decoder();
    ids.iter().for_each(|id| decoder.push(*id, &mut String::new()));
    let mut text = String::new();
    grown(&text);
    decode(&runtime, &ids, n, sampler, tokenizer.eos(), |token| {
        decoder.push(token, &mut text);
        grown(&text);
    })?;
    decoder.finish(&mut text);
    grown(&text);
    Ok(text)
}
