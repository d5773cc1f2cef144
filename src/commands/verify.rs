use crate::cli::Verify;
use crate::data::Tokens;
use crate::device::{Mode, on_device};
use crate::pipeline::calibrate::{note_other_numbers, open_calibration};
use crate::pipeline::parity::{Settings, compare};
use crate::report::{Reports, Thresholds, Verdict, print};
use crate::source::OpenModel;
use crate::{Outcome, Result};

pub fn run(args: &Verify) -> Result<Outcome> {
    let reference = OpenModel::open(&args.reference, &args.open)?;
    let candidates =
        args.candidates.iter().map(|path| OpenModel::open(path, &args.open)).collect::<Result<Vec<_>>>()?;
    // One more token than positions: the last one's target.
    let limit = if args.tokens == 0 { usize::MAX } else { args.tokens.saturating_add(1) };
    let tokens = Tokens::read(&args.data, limit, || reference.tokenizer().or_else(|_| candidates[0].tokenizer()))?;
    let calibration = args.calibration.as_deref().map(|path| open_calibration(path, &reference)).transpose()?;
    if let (Some(path), Some(calibration)) = (&args.calibration, &calibration) {
        note_other_numbers(path, calibration, &reference)?;
    }
    let settings = Settings {
        context: args.context,
        thresholds: Thresholds { max_kld: args.max_kld, min_top1: args.min_top1, max_ppl_ratio: args.max_ppl_ratio },
        calibration: calibration.as_ref(),
        closely: args.report.is_some(),
        prompts: &args.prompts,
        passkey: &args.passkey,
    };
    let reports = Reports::new(on_device!(args.device.open(Mode::Exact)?, |backend| {
        compare(&backend, &reference, &candidates, &tokens, &settings)
    })?);
    if let Some(folder) = &args.report {
        reports.write(folder)?;
    }
    match args.json {
        true => println!("{}", reports.json()?),
        false => print(&reports),
    }
    Ok(match reports.verdict() {
        Verdict::Pass => Outcome::Done,
        Verdict::Fail => Outcome::ThresholdMissed,
    })
}
