use crate::cli::Verify;
use crate::data::Tokens;
use crate::device::{Mode, on_device};
use crate::output::{bytes, table};
use crate::pipeline::calibrate::open_calibration;
use crate::pipeline::parity::compare;
use crate::pipeline::report::{Report, Thresholds, Verdict};
use crate::source::OpenModel;
use crate::{Outcome, Result};
use std::path::Path;
use tamborim_converters::AtomicFile;

pub fn run(args: &Verify) -> Result<Outcome> {
    let reference = OpenModel::open(&args.reference, &args.open)?;
    let candidate = OpenModel::open(&args.candidate, &args.open)?;
    // One more token than positions: the last one's target.
    let limit = if args.tokens == 0 { usize::MAX } else { args.tokens.saturating_add(1) };
    let tokens = Tokens::read(&args.data, limit, || reference.tokenizer().or_else(|_| candidate.tokenizer()))?;
    let thresholds = Thresholds { max_kld: args.max_kld, min_top1: args.min_top1, max_ppl_ratio: args.max_ppl_ratio };
    let calibration = args.calibration.as_deref().map(|path| open_calibration(path, &reference)).transpose()?;
    let report = on_device!(args.device.open(Mode::Exact)?, |backend| {
        compare(&backend, &reference, &candidate, &tokens, args.context, thresholds, calibration.as_ref())
    })?;
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(folder) = &args.report {
        write_report(folder, &json)?;
    }
    match args.json {
        true => println!("{json}"),
        false => print(&report),
    }
    Ok(match report.verdict {
        Verdict::Pass => Outcome::Done,
        Verdict::Fail => Outcome::ThresholdMissed,
    })
}

fn write_report(folder: &Path, json: &str) -> Result<()> {
    let at = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(folder).map_err(at)?;
    let mut file = AtomicFile::create(&folder.join("report.json"))?;
    file.put(json.as_bytes())?;
    file.commit()?;
    Ok(())
}

fn print(r: &Report) {
    let model = |m: &crate::pipeline::report::ModelFacts| {
        vec![m.path.clone(), m.format.clone(), format!("{:.3}", m.bits_per_weight), bytes(m.bytes)]
    };
    println!(
        "{}",
        table(
            &["", "", ">bits/weight", ">size"],
            vec![[vec!["reference".to_owned()], model(&r.reference)].concat()[1..].to_vec(), model(&r.candidate),]
        )
    );
    let mut rows = vec![
        row("KL divergence", format!("{:.6} +- {:.6} nats", r.kld.mean, r.kld.stderr)),
        row(
            "",
            format!("median {:.6}, p90 {:.6}, p99 {:.6}, max {:.4}", r.kld.median, r.kld.p90, r.kld.p99, r.kld.max),
        ),
        row(
            "same next token",
            format!("{:.2} % (top five: {:.2} %)", 100.0 * r.top1_agreement, 100.0 * r.top5_agreement),
        ),
        row(
            "perplexity",
            format!(
                "{:.4} -> {:.4}, ratio {:.5} +- {:.5}",
                r.perplexity.reference, r.perplexity.candidate, r.perplexity.ratio, r.perplexity.ratio_stderr
            ),
        ),
        row("logit difference", format!("rms {:.4}, max {:.4}", r.rms_logit_difference, r.max_abs_logit_difference)),
        row(
            "measured on",
            format!("{} positions, context {}, {}, {:.1} s", r.positions, r.context, r.device, r.seconds),
        ),
    ];
    if let Some(m) = &r.fast_mode {
        rows.push(row(
            "fast mode",
            format!(
                "KL divergence {:.6} from exact (max {:.4}), same next token {:.2} %, over {} positions",
                m.kld_mean,
                m.kld_max,
                100.0 * m.top1_agreement,
                m.positions
            ),
        ));
    }
    println!("{}", table(&["", ""], rows).trim_start_matches('\n'));
    if r.by_domain.len() > 1 {
        let rows = r.by_domain.iter().map(|d| {
            vec![
                d.name.clone(),
                d.positions.to_string(),
                format!("{:.6}", d.kld_mean),
                format!("{:.2} %", 100.0 * d.top1_agreement),
                format!("{:.5}", d.perplexity_ratio),
            ]
        });
        println!("{}", table(&["domain", ">positions", ">KLD", ">same token", ">ppl ratio"], rows.collect()));
    }
    let rows = r.by_position.iter().map(|b| {
        vec![
            format!("{} to {}", b.from, b.to - 1),
            format!("{:.6}", b.kld_mean),
            format!("{:.2} %", 100.0 * b.top1_agreement),
        ]
    });
    println!("{}", table(&["position", ">KLD", ">same token"], rows.collect()));
    for line in &r.missed {
        println!("missed: {line}");
    }
    println!("verdict: {}", if r.verdict == Verdict::Pass { "pass" } else { "fail" });
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}
