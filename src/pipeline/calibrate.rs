//! A model run over text for what goes into its linear maps, and such runs put together.

use super::fingerprint::fingerprint;
use crate::Result;
use crate::output::note;
use crate::progress::Progress;
use crate::source::OpenModel;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tamborim_converters::gguf::{CalibrationFile, CalibrationWriter, Facts, GgufFile, Input};
use tamborim_kernels::{Backend, Error, Logits, Model, Observed};

/// What to run, and where the results go.
pub struct Job<'a> {
    pub model: &'a OpenModel,
    /// All but model and inputs, which are found out; windows in the order in which they are run.
    pub facts: Facts,
    /// Widest input whose moments are gathered whole.
    pub widest: usize,
    pub output: &'a Path,
    /// Between saved states, at least.
    pub interval: Duration,
}

/// What a run did.
pub struct Done {
    /// Tokens run, without those of an earlier, interrupted run.
    pub tokens: usize,
    pub seconds: f64,
}

/// Runs every window from a fresh state and writes the calibration. What is gathered is saved beside the output now and
/// then; a run that finds its own beginning there goes on from it.
pub fn calibrate<B: Backend>(backend: B, mut job: Job<'_>) -> Result<Done> {
    let source = job.model.source();
    let vocab_size = source.plan().vocab_size;
    if let Some((i, token)) = job.facts.windows.iter().flatten().enumerate().find(|(_, t)| **t as usize >= vocab_size) {
        return Err(format!("data: token {token} at {i}: expected one of the vocabulary's {vocab_size}").into());
    }
    job.facts.model = fingerprint(source)?;
    let checkpoint = checkpoint_path(job.output);
    let observed = Observed::new(backend, job.widest);
    let model = Model::load(&observed, source)?;
    let done = resume(&checkpoint, &job, &observed)?;
    let windows = &job.facts.windows;
    let total: usize = windows[done..].iter().map(Vec::len).sum();
    let progress = Progress::tokens("calibrate", total as u64);
    let (mut saved, mut interval) = (Instant::now(), job.interval);
    for (i, window) in windows.iter().enumerate().skip(done) {
        // Every token's head input is wanted, the logits are not.
        model.forward(window, &mut model.start()?, Logits::All, |_| Ok::<_, Error>(()))?;
        progress.advance(window.len() as u64);
        if saved.elapsed() >= interval && i + 1 < windows.len() {
            let started = Instant::now();
            write(&checkpoint, facts_of(&job.facts, i + 1), &observed)?;
            saved = Instant::now();
            // The sums of a large model take their time: no more than a twentieth of it all.
            interval = job.interval.max(19 * started.elapsed());
        }
    }
    write(job.output, facts_of(&job.facts, windows.len()), &observed)?;
    if checkpoint.exists() {
        std::fs::remove_file(&checkpoint).map_err(|e| format!("{}: {e}", checkpoint.display()))?;
    }
    Ok(Done { tokens: total, seconds: progress.finish() })
}

/// Where an interrupted run's sums are.
fn checkpoint_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// The facts of the first `windows` windows. Only a whole run knows how many tokens it has of each set.
fn facts_of(facts: &Facts, windows: usize) -> Facts {
    let mut facts = facts.clone();
    if windows < facts.windows.len() {
        facts.windows.truncate(windows);
        facts.sets.clear();
    }
    facts.sort();
    facts
}

/// Takes the sums of an interrupted run of the same job along; the number of windows they cover.
fn resume<B: Backend>(checkpoint: &Path, job: &Job<'_>, observed: &Observed<B>) -> Result<usize> {
    if !checkpoint.exists() {
        return Ok(0);
    }
    let file = CalibrationFile::new(GgufFile::open(checkpoint)?)?;
    let found = file.facts();
    let done = found.windows.len();
    let mut expected = facts_of(&job.facts, done.min(job.facts.windows.len()));
    expected.sets.clone_from(&found.sets);
    expected.inputs = observed.inputs().into_iter().map(input_of).collect();
    expected.inputs.retain(|e| found.inputs.iter().any(|f| f.maps == e.maps));
    if *found != expected {
        let path = checkpoint.display();
        return Err(format!(
            "{path}: expected an interrupted run of the same model, data and options, found another: remove it, or repeat \
             that command"
        )
        .into());
    }
    for index in 0..found.inputs.len() {
        observed.add(&file.sums(index)?)?;
    }
    Ok(done)
}

fn input_of(input: tamborim_kernels::Input) -> Input {
    Input { maps: input.maps, width: input.width, block: input.block }
}

/// Writes the sums of every input that was seen, one read from the device after the other.
fn write<B: Backend>(path: &Path, mut facts: Facts, observed: &Observed<B>) -> Result<()> {
    let inputs = observed.inputs();
    let seen: Vec<usize> = (0..inputs.len()).filter(|i| inputs[*i].is_seen).collect();
    facts.inputs = inputs.into_iter().filter(|i| i.is_seen).map(input_of).collect();
    let mut writer = CalibrationWriter::create(path, &facts)?;
    for index in seen {
        writer.put(&observed.sums(index)?)?;
    }
    Ok(writer.finish()?)
}

/// Adds up calibrations of one model, an input at a time. The result does not depend on the files' order, nor on the
/// order in which results are merged further.
pub fn merge(files: &[PathBuf], output: &Path) -> Result<Facts> {
    let files = files.iter().map(|f| Ok(CalibrationFile::new(GgufFile::open(f)?)?)).collect::<Result<Vec<_>>>()?;
    let Some((first, others)) = files.split_first() else { return Err("--merge: expected files".into()) };
    let mut facts = first.facts().clone();
    for file in &files {
        let path = file.path().display();
        let wrong = |expected: &str, found: &str| Err(format!("{path}: expected {expected}, found {found}").into());
        if !file.is_mergeable() {
            return wrong("a calibration of tamborim", "an importance matrix, whose sums do not merge exactly");
        }
        if file.facts().model != facts.model {
            return wrong("the model of the first file", "another");
        }
        if file.facts().context != facts.context {
            return wrong(&format!("windows of {} tokens, as in the first file", facts.context), "others");
        }
        if file.facts().inputs != facts.inputs {
            return wrong("the inputs and blocks of the first file", "others (--widest)");
        }
    }
    others.iter().for_each(|f| facts.merge(f.facts().clone()));
    facts.sort();
    let mut writer = CalibrationWriter::create(output, &facts)?;
    for index in 0..facts.inputs.len() {
        let mut sums = first.sums(index)?;
        for file in others {
            sums.merge(&file.sums(index)?);
        }
        if let Some(sum) = sums.out_of_range() {
            let map = &facts.inputs[index].maps[0];
            return Err(format!("{map}: expected sums of squares below 2^44, found {sum:e}").into());
        }
        writer.put(&sums)?;
    }
    writer.finish()?;
    Ok(facts)
}

/// Opens a calibration or importance matrix and checks that its inputs are those of `model`.
pub fn open_calibration(path: &Path, model: &OpenModel) -> Result<CalibrationFile> {
    let file = CalibrationFile::new(GgufFile::open(path)?)?;
    let specs = model.source().plan().tensors();
    for Input { maps, width, .. } in &file.facts().inputs {
        for map in maps {
            let found = match specs.iter().find(|s| s.name == *map && s.role.is_linear()) {
                Some(spec) if spec.shape.last() == Some(width) => continue,
                Some(spec) => format!("{:?}", spec.shape),
                None => "no such map".to_owned(),
            };
            let (path, model) = (path.display(), model.path().display());
            return Err(format!("{path}: {map}: expected a map of {width} inputs in {model}, found {found}").into());
        }
    }
    Ok(file)
}

/// Says so if a calibration was made of other numbers than those of `model`, say of an earlier checkpoint: it is used all the
/// same. That takes one core seconds for a billion numbers.
pub fn note_other_numbers(path: &Path, calibration: &CalibrationFile, model: &OpenModel) -> Result<()> {
    let made_of = &calibration.facts().model;
    if !made_of.is_empty() && *made_of != fingerprint(model.source())? {
        note(format!("{}: made of other numbers than those of {}", path.display(), model.path().display()));
    }
    Ok(())
}
