use crate::cli::Quantize;
use crate::output::{bytes, table};
use crate::pipeline::write::write_gguf;
use crate::source::OpenModel;
use crate::{Outcome, Result};
use regex_lite::Regex;
use tamborim_model::TensorSpec;
use tamborim_quant::{Choice, Format, Recipe};

pub fn run(args: &Quantize) -> Result<Outcome> {
    let rules = args.rules.iter().map(|r| Rule::parse(r)).collect::<Result<Vec<_>>>()?;
    let model = OpenModel::open(&args.model, &args.open)?;
    let plan = Plan::new(&model, args.to, &rules);
    let matches_none = |rule: &&Rule| !plan.rows.iter().any(|(s, _)| rule.pattern.is_match(&s.name));
    if let Some(rule) = rules.iter().find(matches_none) {
        let pattern = &rule.pattern;
        return Err(format!("--rule {pattern}: expected a pattern that matches a tensor's name, found none").into());
    }
    if args.dry_run {
        plan.print();
        return Ok(Outcome::Done);
    }
    let Some(output) = &args.output else { return Err("expected an output file (-o)".into()) };
    if output.extension().is_none_or(|e| e != "gguf") {
        return Err(format!("{}: expected a file name that ends in .gguf", output.display()).into());
    }
    let written = plan.write(&model, output)?;
    for line in plan.fallbacks() {
        eprintln!("{line}");
    }
    eprintln!(
        "{}: {} at {:.3} bits per weight in {:.2} s ({:.1} M weights/s)",
        output.display(),
        bytes(written.bytes),
        plan.bits_per_weight(),
        written.seconds,
        plan.parameters() as f64 / 1e6 / written.seconds.max(1e-9)
    );
    Ok(Outcome::Done)
}

/// `REGEX=TYPE`: tensors whose name matches get that type.
pub struct Rule {
    pattern: Regex,
    format: Format,
}

impl Rule {
    fn parse(text: &str) -> Result<Rule> {
        let expected = |what: String| format!("--rule {text}: expected REGEX=TYPE, found {what}");
        let (pattern, name) = text.rsplit_once('=').ok_or_else(|| expected("no '='".to_owned()))?;
        let pattern = Regex::new(pattern).map_err(|e| expected(format!("a bad pattern ({e})")))?;
        let format = Format::from_name(name).ok_or_else(|| expected(format!("an unknown type {name}")))?;
        Ok(Rule { pattern, format })
    }
}

/// Every tensor with its format.
pub struct Plan {
    rows: Vec<(TensorSpec, Choice)>,
}

impl Plan {
    pub fn new(model: &OpenModel, recipe: Recipe, rules: &[Rule]) -> Plan {
        let choose = |spec: &TensorSpec| {
            let rule = rules.iter().find(|r| r.pattern.is_match(&spec.name));
            recipe.choose(spec, rule.map(|r| r.format))
        };
        Plan { rows: model.source().plan().tensors().into_iter().map(|s| (s.clone(), choose(&s))).collect() }
    }

    pub fn write(&self, model: &OpenModel, output: &std::path::Path) -> Result<crate::pipeline::write::Written> {
        write_gguf(model, output, "quantize", |spec| {
            let row = self.rows.iter().find(|(s, _)| s.name == spec.name);
            Ok(row.map_or(Format::F32, |(_, c)| c.format))
        })
    }

    fn parameters(&self) -> usize {
        self.rows.iter().map(|(s, _)| s.elements()).sum()
    }

    fn bytes(&self) -> f64 {
        self.rows.iter().map(|(s, c)| s.elements() as f64 * c.format.bits_per_weight() / 8.0).sum()
    }

    pub fn bits_per_weight(&self) -> f64 {
        self.bytes() * 8.0 / self.parameters() as f64
    }

    /// One line for each type that did not fit, with the tensors it concerns.
    fn fallbacks(&self) -> Vec<String> {
        let mut lines: Vec<(String, usize)> = Vec::new();
        for (spec, choice) in &self.rows {
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

    fn print(&self) {
        let rows = self.rows.iter().map(|(s, c)| {
            let note = c.instead_of.map(|w| format!("{w} does not fit its rows")).unwrap_or_default();
            vec![
                s.name.clone(),
                format!("{:?}", s.shape),
                c.format.to_string(),
                format!("{:.3}", c.format.bits_per_weight()),
                bytes((s.elements() as f64 * c.format.bits_per_weight() / 8.0) as u64),
                note,
            ]
        });
        print!("{}", table(&["tensor", "shape", "type", ">bits", ">size", ""], rows.collect()));
        println!("total {} at {:.3} bits per weight", bytes(self.bytes() as u64), self.bits_per_weight());
    }
}
