//! A report in a few lines.

use super::{NoiseSource, Report, Reports, Verdict};
use crate::output::{bytes, table};

/// Prints one candidate's report, or several candidates' side by side.
pub fn print(reports: &Reports) {
    match reports {
        Reports::One(report) => print_one(report),
        Reports::Several { reports, .. } => print_several(reports),
    }
    println!("verdict: {}", word(reports.verdict()));
}

fn word(verdict: Verdict) -> &'static str {
    if verdict == Verdict::Pass { "pass" } else { "fail" }
}

fn print_several(reports: &[Report]) {
    let reference = &reports[0].reference;
    let mut rows =
        vec![vec![reference.path.clone(), format!("{:.3}", reference.bits_per_weight), bytes(reference.bytes)]];
    rows[0].resize(7, String::new());
    rows.extend(reports.iter().map(|r| {
        vec![
            r.candidate.path.clone(),
            format!("{:.3}", r.candidate.bits_per_weight),
            bytes(r.candidate.bytes),
            format!("{:.6} +- {:.6}", r.kld.mean, r.kld.stderr),
            format!("{:.2} %", 100.0 * r.top1_agreement),
            format!("{:.5} +- {:.5}", r.perplexity.ratio, r.perplexity.ratio_stderr),
            word(r.verdict).to_owned(),
        ]
    }));
    let header = ["", ">bits/weight", ">size", ">KLD (nats)", ">same next token", ">ppl ratio", "verdict"];
    println!("{}", table(&header, rows));
    println!("{}\n", measured_on(&reports[0]));
    for r in reports {
        r.missed.iter().for_each(|line| println!("missed: {}: {line}", crate::output::one_line(&r.candidate.path)));
    }
}

fn measured_on(r: &Report) -> String {
    format!("{} positions, context {}, {}, {:.1} s", r.positions, r.context, r.device, r.seconds)
}

/// What is compared, in words.
pub fn between(source: NoiseSource) -> &'static str {
    match source {
        NoiseSource::ExactAndFast => "exact and fast mode",
        NoiseSource::GpuAndCpu => "GPU and CPU",
        NoiseSource::OnnxRuntimeAndOwn => "ONNX Runtime and tamborim's own",
        NoiseSource::TogetherAndOneByOne => "tokens together and one by one",
    }
}

fn print_one(r: &Report) {
    let model = |m: &super::ModelFacts| {
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
        row("measured on", measured_on(r)),
    ];
    for n in &r.noise_floor {
        rows.push(row(
            "runtime's noise",
            format!(
                "{}: KL divergence {:.2e} (max {:.2e}), same next token {:.2} %, over {} positions",
                between(n.between),
                n.kld_mean,
                n.kld_max,
                100.0 * n.top1_agreement,
                n.positions
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
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}
