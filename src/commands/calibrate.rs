use crate::cli::{Calibrate, Sampling};
use crate::data::Tokens;
use crate::device::{Mode, on_device};
use crate::output::{bytes, count};
use crate::pipeline::calibrate::{Job, calibrate, merge};
use crate::pipeline::sampling::proportional;
use crate::pipeline::write::refuse_overwriting;
use crate::source::OpenModel;
use crate::{Outcome, Result};
use std::path::Path;
use std::time::Duration;
use tamborim_converters::gguf::Facts;

pub fn run(args: &Calibrate) -> Result<Outcome> {
    let output = &args.output;
    if output.extension().is_none_or(|e| e != "gguf") {
        return Err(format!("{}: expected a file name that ends in .gguf", output.display()).into());
    }
    let Some(path) = &args.model else {
        let facts = merge(&args.merge, output)?;
        eprintln!("{}: {}, {} files", said(output)?, words(&facts), args.merge.len());
        let repeated = facts.windows.windows(2).filter(|pair| pair[0] == pair[1]).count();
        if repeated > 0 {
            eprintln!("{repeated} of {} windows occur more than once and count as often", facts.windows.len());
        }
        return Ok(Outcome::Done);
    };
    let model = OpenModel::open(path, &args.open)?;
    refuse_overwriting(&model, output)?;
    let context = u32::try_from(args.context).map_err(|_| "--context: expected at most 2^32 - 1")?;
    let tokens = match args.sampling {
        Sampling::Sequential => Tokens::read(&args.data, args.tokens, || model.tokenizer()),
        Sampling::Proportional => proportional(&args.data, args.tokens, args.context, || model.tokenizer()),
    }?;
    if tokens.ids.is_empty() {
        return Err("data: expected at least one token, found none".into());
    }
    let names = args.data.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
    let facts = Facts {
        model: String::new(),
        context,
        datasets: names.collect(),
        sets: tokens.by_domain(),
        inputs: Vec::new(),
        windows: tokens.ids.chunks(args.context).map(<[u32]>::to_vec).collect(),
    };
    let what = words(&facts);
    let interval = Duration::from_secs(args.checkpoint);
    let job = Job { model: &model, facts, widest: args.widest, output, interval };
    let done = on_device!(args.device.open(Mode::Exact)?, |backend| calibrate(backend, job))?;
    let speed = done.tokens as f64 / done.seconds.max(1e-9);
    eprintln!("{}: {what}, in {:.1} s ({speed:.0} tokens/s)", said(output)?, done.seconds);
    Ok(Outcome::Done)
}

fn said(output: &Path) -> Result<String> {
    let size = std::fs::metadata(output).map_err(|e| format!("{}: {e}", output.display()))?.len();
    Ok(format!("{}: {}", output.display(), bytes(size)))
}

/// Tokens and where they are from: `131.1 k tokens (RedPajamaC4 27 %, ..)`.
fn words(facts: &Facts) -> String {
    let total = facts.windows.iter().map(Vec::len).sum::<usize>();
    let part = |(name, n): &(String, u64)| format!("{name} {:.1} %", 100.0 * *n as f64 / total as f64);
    let parts: Vec<String> = facts.sets.iter().map(part).collect();
    match parts.is_empty() {
        true => format!("{} tokens", count(total)),
        false => format!("{} tokens ({})", count(total), parts.join(", ")),
    }
}
