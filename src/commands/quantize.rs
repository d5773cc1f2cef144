use crate::cli::Quantize;
use crate::device::{Device, Mode};
use crate::output::{bytes, note, table};
use crate::pipeline::calibrate::{note_other_numbers, open_calibration};
use crate::pipeline::genai::{self, write_folder};
use crate::pipeline::quantize::{Plan, Rule};
use crate::pipeline::quantize_onnx::{OnnxPlan, Wish, stored_as};
use crate::pipeline::rounding::Calibrated;
use crate::pipeline::write::Written;
use crate::pipeline::write_onnx::onnx_alone;
use crate::source::OpenModel;
use crate::{Outcome, Result};
use std::path::Path;
use tamborim_converters::gguf::CalibrationFile;
use tamborim_converters::onnx::Options;
use tamborim_quant::Calibration;

/// As many as two cores run through the 61M model in a minute.
const CPU_TOKENS: usize = 32768;
/// Of fewer, chance has a larger part in what maps lack than what they do lack (docs/quantization.md).
const TOKENS_PER_CHANNEL: usize = 16;

pub fn run(args: &Quantize) -> Result<Outcome> {
    let is_onnx =
        args.genai.is_some() || args.output.as_ref().is_some_and(|o| o.extension().is_some_and(|e| e == "onnx"));
    if !is_onnx {
        let options = [args.block.is_some(), args.symmetric, args.pure_onnx];
        onnx_alone(&[("--block", options[0]), ("--symmetric", options[1]), ("--pure-onnx", options[2])])?;
    }
    let model = OpenModel::open(&args.model, &args.open)?;
    let calibration = args.calibration.as_deref().map(|path| open_calibration(path, &model)).transpose()?;
    let (model, calibration) = (&model, calibration.as_ref());
    std::thread::scope(|scope| {
        let note = |(path, calibration)| scope.spawn(move || note_other_numbers(path, calibration, model));
        let noted = args.calibration.as_deref().zip(calibration).map(note);
        let run = if is_onnx { run_onnx } else { run_gguf };
        let outcome = run(args, model, calibration)?;
        noted.map_or(Ok(()), |noted| noted.join().map_err(|_| "hashing failed")?)?;
        Ok(outcome)
    })
}

fn run_gguf(args: &Quantize, model: &OpenModel, calibration: Option<&CalibrationFile>) -> Result<Outcome> {
    let rules = args.rules.iter().map(|r| Rule::parse(r)).collect::<Result<Vec<_>>>()?;
    let device = device(args, calibration)?;
    let plan = match (args.to, args.target_bpw, calibration) {
        (_, Some(target), Some(calibration)) => match &device {
            Some(device) => Plan::within(model, target, &rules, calibration, device)?,
            None => return Err("--target-bpw: expected a calibration with its text, found an importance matrix".into()),
        },
        (_, Some(_), None) => return Err("--target-bpw: expected a --calibration to measure on".into()),
        (Some(recipe), None, calibration) => Plan::of_recipe(model, recipe, &rules, calibration, device.as_ref())?,
        (None, None, _) => return Err("expected --to TYPE or --target-bpw X".into()),
    };
    if args.dry_run {
        print(&plan);
        return Ok(Outcome::Done);
    }
    let Some(output) = &args.output else { return Err("expected an output file (-o)".into()) };
    if output.extension().is_none_or(|e| e != "gguf") {
        return Err(format!("{}: expected a file name that ends in .gguf or .onnx", output.display()).into());
    }
    let written = plan.write(model, output, calibrated(args, model, calibration, device))?;
    for line in plan.fallbacks() {
        eprintln!("{line}");
    }
    report(output, &written, plan.bits_per_weight(), plan.parameters());
    Ok(Outcome::Done)
}

fn run_onnx(args: &Quantize, model: &OpenModel, calibration: Option<&CalibrationFile>) -> Result<Outcome> {
    let rules = args.rules.iter().map(|r| Rule::parse(r)).collect::<Result<Vec<_>>>()?;
    let Some(recipe) = args.to else {
        return Err("--target-bpw: expected a .gguf to write; for .onnx give --to int8 or int4".into());
    };
    let output = genai::output(args.output.as_ref(), args.genai.as_ref())?;
    let wish = Wish { recipe, block: args.block.unwrap_or(32), symmetric: args.symmetric, rules: &rules };
    let plan = OnnxPlan::new(model, &wish)?;
    plan.notes.iter().for_each(|line| note(line.clone()));
    if args.dry_run {
        print_onnx(&plan);
        return Ok(Outcome::Done);
    }
    let device = device(args, calibration)?;
    let options = Options { pure: args.pure_onnx };
    let write = |path: &Path| plan.write(model, path, options, calibrated(args, model, calibration, device));
    let written = match &args.genai {
        Some(folder) => write_folder(model, folder, write)?,
        None => write(&output)?,
    };
    report(&output, &written, plan.bits_per_weight(), plan.parameters());
    Ok(Outcome::Done)
}

/// Where the model will run: nowhere without a text.
fn device(args: &Quantize, calibration: Option<&CalibrationFile>) -> Result<Option<Device>> {
    let has_text = calibration.is_some_and(|c| !c.windows().is_empty());
    has_text.then(|| args.device.open(Mode::Exact)).transpose()
}

fn calibrated<'c>(
    args: &Quantize,
    model: &OpenModel,
    calibration: Option<&'c CalibrationFile>,
    device: Option<Device>,
) -> Option<Calibrated<'c>> {
    let with_tokens = |file: &CalibrationFile, device: Device| {
        let most = if matches!(device, Device::Cpu(_)) { CPU_TOKENS } else { usize::MAX };
        let there: usize = file.windows().iter().map(Vec::len).sum();
        let enough = TOKENS_PER_CHANNEL * model.source().plan().d_model;
        let default = if there.min(most) < enough { 0 } else { most };
        (device, args.tokens.unwrap_or(default))
    };
    calibration.map(|file| Calibrated { file, run: device.map(|device| with_tokens(file, device)) })
}

fn report(output: &Path, written: &Written, bits_per_weight: f64, parameters: usize) {
    eprintln!(
        "{}: {} at {bits_per_weight:.3} bits per weight in {:.2} s ({:.1} M weights/s)",
        output.display(),
        bytes(written.bytes),
        written.seconds,
        parameters as f64 / 1e6 / written.seconds.max(1e-9)
    );
}

fn print_onnx(plan: &OnnxPlan) {
    let rows = plan.rows.iter().map(|(spec, storage)| {
        let stored = stored_as(spec, *storage);
        let size = spec.elements() as f64 * stored.bits_per_weight / 8.0;
        let shape = format!("{:?}", spec.shape);
        vec![spec.name.clone(), shape, stored.name, format!("{:.3}", stored.bits_per_weight), bytes(size as u64)]
    });
    print!("{}", table(&["tensor", "shape", "type", ">bits", ">size"], rows.collect()));
    let total = plan.bits_per_weight() * plan.parameters() as f64 / 8.0;
    println!("total {} at {:.3} bits per weight", bytes(total as u64), plan.bits_per_weight());
}

fn print(plan: &Plan) {
    let rows = plan.rows.iter().map(|row| {
        let format = row.choice.format;
        let note = row.choice.instead_of.map(|w| format!("{w} does not fit its rows")).unwrap_or_default();
        vec![
            row.spec.name.clone(),
            format!("{:?}", row.spec.shape),
            format.to_string(),
            format!("{:.3}", format.bits_per_weight()),
            bytes(row.bytes() as u64),
            row.loss.map(|loss| format!("{loss:.6}")).unwrap_or_default(),
            note,
        ]
    });
    print!("{}", table(&["tensor", "shape", "type", ">bits", ">size", ">KLD", ""], rows.collect()));
    let loss = plan.loss().map(|loss| format!(", expected KLD {loss:.6} by rounding to nearest")).unwrap_or_default();
    println!("total {} at {:.3} bits per weight{loss}", bytes(plan.bytes() as u64), plan.bits_per_weight());
}
