use crate::cli::Bench;
use crate::device::{Device, Mode, on_device};
use crate::output::table;
use crate::pipeline::runner::{Runner, Sequence};
use crate::random::RandomModel;
use crate::source::OpenModel;
use crate::{Outcome, Result};
use serde::Serialize;
use std::time::Instant;
use tamborim_kernels::{Backend, Logits};

pub fn run(args: &Bench) -> Result<Outcome> {
    if args.kernels {
        return kernels(args);
    }
    let opened = args.model.as_ref().map(|path| OpenModel::open(path, &args.open)).transpose()?;
    let random = args.random.as_ref().map(|config| RandomModel::new(config, args.to)).transpose()?;
    on_device!(args.device.open(Mode::Fast)?, |backend| {
        let runtime = match (&opened, &random) {
            (Some(model), _) => Runner::load(&backend, model)?,
            (None, Some(model)) => Runner::own(&backend, model)?,
            (None, None) => return Err("expected a model, or --random with a configuration".into()),
        };
        measure(&runtime, args)
    })
}

/// Single kernels of the GPU.
fn kernels(args: &Bench) -> Result<Outcome> {
    let Device::Cuda(cuda) = args.device.open(Mode::Fast)? else {
        return Err("--kernels: expected a CUDA device, found the CPU".into());
    };
    let times = cuda.kernel_times()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&times)?);
        return Ok(Outcome::Done);
    }
    let rows = times.iter().map(|t| {
        let rate = t.bytes as f64 / t.median_us * 1e-3;
        vec![t.name.clone(), t.shape.clone(), format!("{:.2}", t.median_us), format!("{rate:.0}")]
    });
    println!("{}", cuda.describe());
    print!("{}", table(&["kernel", "shape", ">us (median)", ">GB/s"], rows.collect()));
    Ok(Outcome::Done)
}

/// One kind of work.
#[derive(Serialize)]
struct Speed {
    name: &'static str,
    tokens: usize,
    tokens_per_second: f64,
    slowest: f64,
    fastest: f64,
}

#[derive(Serialize)]
struct Measured {
    device: String,
    parameters: usize,
    /// Tokens that precede the decoded ones.
    depth: usize,
    /// What of the blocks' multiplications prefill makes for the last token alone: 0 to 1.
    last_token_share: f64,
    speeds: Vec<Speed>,
}

fn measure<B: Backend>(runtime: &Runner<'_, B>, args: &Bench) -> Result<Outcome> {
    let backend = runtime.backend();
    let vocab_size = runtime.plan().vocab_size;
    // A fixed walk over the vocabulary: the speed does not depend on which tokens they are.
    let tokens = |n: usize| (0..n).map(|i| (i * 7919 % vocab_size) as u32).collect::<Vec<_>>();
    let forward = |tokens: &[u32], sequence: &mut Sequence<'_, '_, B>| {
        sequence.forward(tokens, Logits::Last, |rows| {
            // Reading waits for the device, as whoever chooses the next token does.
            backend.read(&rows)?;
            Ok(())
        })
    };
    let (prompt, before) = (tokens(args.prefill), tokens(args.depth));
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    // The first round only warms up: kernels are loaded, memory is taken, the decode step is recorded.
    for round in 0..=args.repeat {
        let mut sequence = runtime.start()?;
        let started = Instant::now();
        forward(&prompt, &mut sequence)?;
        let prefill_seconds = started.elapsed().as_secs_f64();
        drop(sequence);
        let mut sequence = runtime.start()?;
        if !before.is_empty() {
            forward(&before, &mut sequence)?;
        }
        sequence.continue_greedily(0, args.decode.min(3))?;
        let started = Instant::now();
        sequence.continue_greedily(0, args.decode)?;
        let decode_seconds = started.elapsed().as_secs_f64();
        if round > 0 {
            prefill.push(prompt.len() as f64 / prefill_seconds);
            decode.push(args.decode as f64 / decode_seconds);
        }
    }
    let speed = |name, tokens: usize, mut speeds: Vec<f64>| {
        speeds.sort_by(f64::total_cmp);
        let tokens_per_second = speeds[speeds.len() / 2];
        Speed { name, tokens, tokens_per_second, slowest: speeds[0], fastest: speeds[speeds.len() - 1] }
    };
    let speeds = vec![speed("prefill", prompt.len(), prefill), speed("decode", args.decode, decode)];
    let plan = runtime.plan();
    let measured = Measured {
        device: runtime.describe()?,
        parameters: plan.parameters(),
        depth: args.depth,
        last_token_share: plan.last_token_share(),
        speeds,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
        return Ok(Outcome::Done);
    }
    let rows = measured.speeds.iter().map(|s| {
        let (median, range) = (format!("{:.0}", s.tokens_per_second), format!("{:.0} to {:.0}", s.slowest, s.fastest));
        vec![s.name.to_owned(), s.tokens.to_string(), median, range]
    });
    println!("{}, {:.1} M parameters", measured.device, measured.parameters as f64 / 1e6);
    println!(
        "{:.1} % of prefill's multiplications are made for the last token alone",
        100.0 * measured.last_token_share
    );
    print!("{}", table(&["", ">tokens", ">tokens/s (median)", ">range"], rows.collect()));
    Ok(Outcome::Done)
}
