use crate::cli::{Demo, Open};
use crate::commands::generate::generate;
use crate::data::Tokens;
use crate::output::{bytes, table};
use crate::pipeline::parity::{Settings, compare};
use crate::pipeline::quantize::Plan;
use crate::pipeline::write::{nearest, write_gguf};
use crate::source::OpenModel;
use crate::{Outcome, Result};
use tamborim_converters::AtomicFile;
use tamborim_kernels::Cpu;
use tamborim_kernels::sample::{Sampler, Sampling};
use tamborim_quant::Recipe;

/// A Samba of 6.7M parameters that this project trained, and a page to measure on.
const FILES: [(&str, &[u8]); 4] = [
    ("checkpoint.pth", include_bytes!("../../demo/samba-7m/checkpoint.pth")),
    ("lit_config.json", include_bytes!("../../demo/samba-7m/lit_config.json")),
    ("tokenizer.model", include_bytes!("../../demo/samba-7m/tokenizer.model")),
    ("page.txt", include_bytes!("../../demo/page.txt")),
];
const CONTEXT: usize = 512;
const PROMPT: &str = "The river is";
const CONTINUATION: usize = 48;
/// As the paper samples, but warmer: a model this small repeats itself otherwise.
const SAMPLING: Sampling = Sampling { temperature: 0.7, top_p: 0.95 };
const SEED: u64 = 1;

pub fn run(args: &Demo) -> Result<Outcome> {
    let folder = &args.out;
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for (name, content) in FILES {
        let mut file = AtomicFile::create(&folder.join(name))?;
        file.put(content)?;
        file.commit()?;
    }
    let at = |name: &str| folder.join(name).display().to_string();
    let open = |name: &str| OpenModel::open(&folder.join(name), &Open::default());
    let checkpoint = open("checkpoint.pth")?;
    step(&format!("convert {} -o {}", at("checkpoint.pth"), at("samba.gguf")));
    let format = |spec: &tamborim_model::TensorSpec| {
        if spec.role.is_linear() { checkpoint.source().format(spec) } else { Ok(tamborim_quant::Format::F32) }
    };
    write_gguf(&checkpoint, &folder.join("samba.gguf"), "convert", format, nearest)?;
    let reference = open("samba.gguf")?;
    for (recipe, name) in [(Recipe::Int8, "samba-int8.gguf"), (Recipe::Int4, "samba-int4.gguf")] {
        step(&format!("quantize {} --to {recipe} -o {}", at("samba.gguf"), at(name)));
        Plan::new(&reference, recipe, &[])?.write(&reference, &folder.join(name), None)?;
    }
    let page = [folder.join("page.txt")];
    let tokens = Tokens::read(&page, usize::MAX, || reference.tokenizer())?;
    let (mut rows, mut samples) = (vec![size_row(&reference)?], vec![("reference", sample(&reference)?)]);
    for (label, name) in [("int8", "samba-int8.gguf"), ("int4", "samba-int4.gguf")] {
        step(&format!("verify {} {} --data {} --context {CONTEXT}", at("samba.gguf"), at(name), at("page.txt")));
        let candidate = [open(name)?];
        let settings = Settings { context: CONTEXT, ..Settings::default() };
        let r = &compare(&Cpu, &reference, &candidate, &tokens, &settings)?[0];
        let mut row = size_row(&candidate[0])?;
        row.truncate(3);
        row.extend([
            format!("{:.5}", r.kld.mean),
            format!("{:.2} %", 100.0 * r.top1_agreement),
            format!("{:.3}", r.perplexity.candidate),
            format!("{:.5}", r.perplexity.ratio),
        ]);
        // The reference's own perplexity comes with every comparison.
        rows[0][5] = format!("{:.3}", r.perplexity.reference);
        rows.push(row);
        samples.push((label, sample(&candidate[0])?));
    }
    println!();
    let header = ["", ">size", ">bits/weight", ">KLD (nats)", ">same next token", ">perplexity", ">ratio"];
    println!("{}", table(&header, rows));
    for (label, text) in samples {
        println!("{label:>10}: {PROMPT}{}", text.replace('\n', " "));
    }
    println!(
        "\nThe files are in {}; try: tamborim inspect {}",
        folder.display(),
        folder.join("samba-int4.gguf").display()
    );
    Ok(Outcome::Done)
}

/// Shows the command that does the same from a shell.
fn step(command: &str) {
    println!("$ tamborim {command}");
}

fn size_row(model: &OpenModel) -> Result<Vec<String>> {
    let facts = model.facts()?;
    let name = model.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dash = || "-".to_owned();
    Ok(vec![name, bytes(facts.bytes), format!("{:.3}", facts.bits_per_weight), dash(), dash(), dash(), dash()])
}

fn sample(model: &OpenModel) -> Result<String> {
    generate(&Cpu, model, PROMPT, CONTINUATION, Sampler::new(SAMPLING, SEED), |_| {})
}
