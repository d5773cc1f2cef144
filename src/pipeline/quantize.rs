//! From a model and a wish to a quantized file: which format each tensor gets, and how it is rounded.

use super::rounding::{Calibrated, with_rounded};
use super::sensitivity::measure;
use super::write::{Written, write_gguf};
use crate::Result;
use crate::device::{Device, on_device};
use crate::progress::Progress;
use crate::source::OpenModel;
use regex_lite::Regex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;
use tamborim_converters::gguf::CalibrationFile;
use tamborim_model::{Role, TensorSpec};
use tamborim_quant::{Calibration, Choice, Format, Hessian, Recipe, Tensor, allocate};

/// What `--target-bpw` chooses from. Others of as many bits lose more at the same size (docs/quantization.md).
const WANTED: [Format; 7] =
    [Format::Iq4Xs, Format::Q4K, Format::Q5K, Format::Q6K, Format::Q8_0, Format::F16, Format::Bf16];
/// Calibration tokens on which each tensor's sensitivity is measured.
const SENSITIVITY_TOKENS: usize = 1024;

/// `REGEX=TYPE`: tensors whose name matches get that type.
pub struct Rule<T> {
    pattern: Regex,
    r#type: T,
}

impl<T: FromStr + Copy> Rule<T> {
    pub fn parse(text: &str) -> Result<Rule<T>> {
        let expected = |what: String| format!("--rule {text}: expected REGEX=TYPE, found {what}");
        let (pattern, name) = text.rsplit_once('=').ok_or_else(|| expected("no '='".to_owned()))?;
        let pattern = Regex::new(pattern).map_err(|e| expected(format!("a bad pattern ({e})")))?;
        let r#type = name.parse().map_err(|_| expected(format!("an unknown type {name}")))?;
        Ok(Rule { pattern, r#type })
    }
}

/// The type of the first rule that matches.
pub fn ruled<T: Copy>(rules: &[Rule<T>], spec: &TensorSpec) -> Option<T> {
    rules.iter().find(|r| r.pattern.is_match(&spec.name)).map(|r| r.r#type)
}

/// The first rule that matches no tensor of the model.
pub fn refuse_idle<T>(model: &OpenModel, rules: &[Rule<T>]) -> Result<()> {
    let specs = model.source().plan().tensors();
    match rules.iter().find(|r| !specs.iter().any(|s| r.pattern.is_match(&s.name))) {
        None => Ok(()),
        Some(Rule { pattern, .. }) => {
            Err(format!("--rule {pattern}: expected a pattern that matches a tensor's name, found none").into())
        }
    }
}

/// The Hessian of the last map's input: maps of one input follow each other, and share its factors.
#[derive(Default)]
pub struct LastHessian(RefCell<Option<(Vec<String>, Rc<Hessian>)>>);

impl LastHessian {
    /// Of the input of `spec`'s map; none where the calibration never saw it.
    pub fn hessian(
        &self,
        calibration: &CalibrationFile,
        model: &OpenModel,
        spec: &TensorSpec,
    ) -> Result<Option<Rc<Hessian>>> {
        if let Some((maps, hessian)) = &*self.0.borrow()
            && maps.contains(&spec.name)
        {
            return Ok(Some(hessian.clone()));
        }
        let Some(moments) = calibration.moments(&spec.name)? else { return Ok(None) };
        let is_tied = spec.role == Role::Embedding && model.source().plan().tied;
        let hessian = Rc::new(if is_tied { Hessian::of_tied(&moments) } else { Hessian::new(&moments) });
        *self.0.borrow_mut() = Some((moments.maps, hessian.clone()));
        Ok(Some(hessian))
    }
}

/// A tensor's row of the plan.
pub struct Row {
    pub spec: TensorSpec,
    pub choice: Choice,
    /// Divergence it is expected to cost, in nats, where that was measured.
    pub loss: Option<f64>,
}

/// Every tensor with its format.
pub struct Plan {
    pub rows: Vec<Row>,
}

impl Plan {
    /// A recipe's formats, but for what rules say.
    pub fn new(model: &OpenModel, recipe: Recipe, rules: &[Rule<Format>]) -> Result<Plan> {
        refuse_idle(model, rules)?;
        let row = |spec: TensorSpec| Row { choice: recipe.choose(&spec, ruled(rules, &spec)), spec, loss: None };
        Ok(Plan { rows: model.source().plan().tensors().into_iter().map(row).collect() })
    }

    /// A recipe's formats; where there is a calibration's text to measure on, and a device to do so, those that lose least in the
    /// space that the recipe is known for.
    pub fn of_recipe(
        model: &OpenModel,
        recipe: Recipe,
        rules: &[Rule<Format>],
        calibration: Option<&CalibrationFile>,
        device: Option<&Device>,
    ) -> Result<Plan> {
        match (recipe.bits_per_weight(), calibration, device) {
            (Some(bits), Some(calibration), Some(device)) => Plan::measured(model, bits, rules, calibration, device),
            _ => Plan::new(model, recipe, rules),
        }
    }

    /// The formats that lose least at no more than `bits_per_weight` over the whole file, by what each tensor was measured
    /// to cost.
    ///
    /// # Errors
    /// If the smallest types take more.
    pub fn within(
        model: &OpenModel,
        bits_per_weight: f64,
        rules: &[Rule<Format>],
        calibration: &CalibrationFile,
        device: &Device,
    ) -> Result<Plan> {
        let plan = Plan::measured(model, bits_per_weight, rules, calibration, device)?;
        match plan.bits_per_weight() <= bits_per_weight {
            true => Ok(plan),
            false => Err(format!(
                "--target-bpw {bits_per_weight}: expected at least {:.3}, what the smallest types take",
                plan.bits_per_weight()
            )
            .into()),
        }
    }

    /// The same, or the smallest types where they take more.
    fn measured(
        model: &OpenModel,
        bits_per_weight: f64,
        rules: &[Rule<Format>],
        calibration: &CalibrationFile,
        device: &Device,
    ) -> Result<Plan> {
        refuse_idle(model, rules)?;
        let source = model.source();
        let candidates = |spec: &TensorSpec| {
            let wanted = ruled(rules, spec).map_or(WANTED.to_vec(), |format| vec![format]);
            let mut formats: Vec<Format> =
                wanted.into_iter().map(|format| Recipe::Uniform(format).choose(spec, Some(format)).format).collect();
            formats.dedup();
            formats
        };
        let specs = source.plan().tensors();
        let (linear, other): (Vec<_>, Vec<_>) = specs.into_iter().partition(|s| s.role.is_linear());
        let progress = Progress::items("measure", linear.len() as u64);
        let advanced = || progress.advance(1);
        let costs = on_device!(device, |backend| {
            measure(backend, source, calibration, SENSITIVITY_TOKENS, candidates, advanced)
        })?;
        progress.finish();
        let fixed: usize = other.iter().map(|s| s.elements() * Format::F32.block_bytes()).sum();
        let whole = bits_per_weight * source.plan().parameters() as f64 / 8.0;
        let lists: Vec<_> = costs.iter().map(|(_, candidates)| candidates.clone()).collect();
        let chosen = allocate(&lists, (whole - fixed as f64).max(0.0) as u64);
        let row = |(spec, chosen): (TensorSpec, Option<(Format, f64)>)| {
            let wanted = ruled(rules, &spec);
            let format = chosen.map_or(Format::F32, |(format, _)| format);
            let instead_of = wanted.filter(|w| *w != format && spec.role.is_linear());
            Row { choice: Choice { format, instead_of }, loss: chosen.map(|(_, loss)| loss), spec }
        };
        let measured = costs.into_iter().zip(chosen).map(|((spec, candidates), i)| {
            let taken = candidates[i];
            (spec, Some((taken.format, taken.loss)))
        });
        let plan = Plan { rows: measured.chain(other.into_iter().map(|spec| (spec, None))).map(row).collect() };
        Ok(plan)
    }

    /// Writes the model by this plan; with a calibration, rounded for what its maps' inputs are.
    pub fn write(&self, model: &OpenModel, output: &Path, calibrated: Option<Calibrated<'_>>) -> Result<Written> {
        let format = |spec: &TensorSpec| {
            let row = self.rows.iter().find(|r| r.spec.name == spec.name);
            Ok(row.map_or(Format::F32, |r| r.choice.format))
        };
        let write = |rounded: &dyn Fn(&TensorSpec) -> Result<Option<Tensor<'static>>>| {
            write_gguf(model, output, "quantize", format, |spec, tensor, to| match rounded(spec)? {
                Some(rounded) => Ok(rounded),
                None => Ok(tensor.recode(to, None)?),
            })
        };
        match calibrated {
            None => write(&|_| Ok(None)),
            Some(calibrated) => with_rounded(model, calibrated, self.targets(model)?, |rounded| write(rounded)),
        }
    }

    /// What maps are rounded to: those that become floats, or stay what they are, are not.
    fn targets(&self, model: &OpenModel) -> Result<HashMap<String, Format>> {
        let mut targets = HashMap::new();
        for Row { spec, choice, .. } in self.rows.iter().filter(|row| row.choice.format.is_quantized()) {
            if choice.format != model.source().format(spec)? {
                targets.insert(spec.name.clone(), choice.format);
            }
        }
        Ok(targets)
    }

    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|r| r.spec.elements()).sum()
    }

    pub fn bytes(&self) -> f64 {
        self.rows.iter().map(Row::bytes).sum()
    }

    pub fn bits_per_weight(&self) -> f64 {
        self.bytes() * 8.0 / self.parameters() as f64
    }

    /// The divergence that the whole model is expected to have, where that was measured.
    pub fn loss(&self) -> Option<f64> {
        self.rows.iter().filter_map(|r| r.loss).reduce(|a, b| a + b)
    }

    /// One line for each type that did not fit, with the tensors it concerns.
    pub fn fallbacks(&self) -> Vec<String> {
        let mut lines: Vec<(String, usize)> = Vec::new();
        for Row { spec, choice, .. } in &self.rows {
            let Some(wanted) = choice.instead_of else { continue };
            let cols = spec.shape.last().copied().unwrap_or(1);
            let line = format!("rows of {cols} ({}) do not fit {wanted}: {}", spec.role.words(), choice.format);
            match lines.iter_mut().find(|(l, _)| *l == line) {
                Some((_, n)) => *n += 1,
                None => lines.push((line, 1)),
            }
        }
        lines.into_iter().map(|(line, n)| format!("{line} ({n} tensors)")).collect()
    }
}

impl Row {
    pub fn bytes(&self) -> f64 {
        self.spec.elements() as f64 * self.choice.format.bits_per_weight() / 8.0
    }
}
