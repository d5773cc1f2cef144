use crate::cli::Bench;
use crate::device::{Mode, on_device};
use crate::output::table;
use crate::source::OpenModel;
use crate::{Outcome, Result};
use std::time::Instant;
use tamborim_kernels::{Backend, Logits, Model};

pub fn run(args: &Bench) -> Result<Outcome> {
    let model = OpenModel::open(&args.model, &args.open)?;
    on_device!(args.device.open(Mode::Fast)?, |backend| measure(&backend, args, &model))
}

fn measure<B: Backend>(backend: &B, args: &Bench, model: &OpenModel) -> Result<Outcome> {
    let runtime = Model::load(backend, model.source())?;
    // A fixed walk over the vocabulary: the speed does not depend on which tokens they are.
    let tokens: Vec<u32> = (0..args.prefill.max(1)).map(|i| (i * 7919 % runtime.plan().vocab_size) as u32).collect();
    let mut prefill = Vec::new();
    let mut decode = Vec::new();
    for _ in 0..args.repeat {
        let mut state = runtime.start()?;
        let started = Instant::now();
        runtime.forward(&tokens, &mut state, Logits::All, |_| -> Result<()> { Ok(()) })?;
        prefill.push(args.prefill as f64 / started.elapsed().as_secs_f64());
        let started = Instant::now();
        for token in tokens.iter().cycle().take(args.decode) {
            runtime.forward(&[*token], &mut state, Logits::Last, |_| -> Result<()> { Ok(()) })?;
        }
        decode.push(args.decode as f64 / started.elapsed().as_secs_f64());
    }
    let row = |what: &str, n: usize, speeds: &mut Vec<f64>| {
        speeds.sort_by(f64::total_cmp);
        let median = speeds[speeds.len() / 2];
        let spread = format!("{:.0} to {:.0}", speeds[0], speeds[speeds.len() - 1]);
        vec![what.to_owned(), n.to_string(), format!("{median:.0}"), spread]
    };
    let rows = vec![row("prefill, all logits", args.prefill, &mut prefill), row("decode", args.decode, &mut decode)];
    print!("{}", table(&["", ">tokens", ">tokens/s (median)", ">range"], rows));
    Ok(Outcome::Done)
}
