//! The report as a page and as Markdown: templates, and what they are filled with. Text is escaped for where it stands unless
//! it is a picture or the style.

use super::visible::{visible, visible_token};
use super::{Check, Report, Reports, TensorError, charts, numbers, palette, terminal};
use crate::Result;
use crate::output::bytes;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, escape_formatter};
use serde::Serialize;
use std::path::Path;

/// Everything a page says about several candidates, or one.
#[derive(Serialize)]
struct Page<'r> {
    style: Value,
    version: &'static str,
    reference: String,
    candidates: Vec<Candidate<'r>>,
    /// Of several.
    size_against_kld: Picture,
    all_pass: bool,
}

/// Everything a page says about one candidate.
#[derive(Serialize)]
struct Candidate<'r> {
    name: String,
    r: &'r Report,
    checks: Vec<Check>,
    /// Each noise floor's words, in the order of the report.
    noise: Vec<&'static str>,
    largest_noise: Option<f64>,
    on_front: bool,
    /// Largest error first.
    tensors: Vec<&'r TensorError>,
    calibrated: bool,
    /// Passkeys that the reference found, and that the candidate found.
    found: [usize; 2],
    distribution: Picture,
    by_position: Picture,
    by_domain: Picture,
    by_layer: Picture,
    by_tensor: Picture,
    by_context: Picture,
}

#[derive(Serialize)]
struct Picture {
    svg: Value,
    /// Names of colors and what they mean.
    legend: Vec<(&'static str, String)>,
}

impl From<charts::Chart> for Picture {
    fn from(chart: charts::Chart) -> Picture {
        Picture { svg: safe(chart.svg), legend: chart.legend.into_iter().map(|(c, word)| (c.name, word)).collect() }
    }
}

pub struct Pages {
    pub html: String,
    pub markdown: String,
}

/// Both pages.
pub fn render(reports: &Reports) -> Result<Pages> {
    let page = Page::new(reports.all())?;
    let environment = environment()?;
    let render = |name: &str| -> Result<String> {
        let template = environment.get_template(name)?;
        Ok(template.render(Serde(&page)).map_err(|e| format!("{name}: {e:#}"))?)
    };
    Ok(Pages { html: render("page.html")?, markdown: render("page.md")? })
}

impl<'r> Page<'r> {
    fn new(all: &'r [Report]) -> Result<Page<'r>> {
        let paths = all.iter().map(|r| r.candidate.path.as_str());
        let names = names(paths);
        let front = charts::pareto_front(all);
        let candidates = all.iter().zip(&names).zip(front).map(|((r, name), f)| Candidate::new(r, name, f));
        Ok(Page {
            style: safe([palette::style().as_str(), include_str!("style.css")].concat()),
            version: env!("CARGO_PKG_VERSION"),
            reference: file_name(&all[0].reference.path),
            candidates: candidates.collect::<Result<_>>()?,
            size_against_kld: charts::size_against_kld(all, &names)?.into(),
            all_pass: all.iter().all(|r| r.missed.is_empty()),
        })
    }
}

impl<'r> Candidate<'r> {
    fn new(r: &'r Report, name: &str, on_front: bool) -> Result<Candidate<'r>> {
        let mut tensors: Vec<_> = r.by_tensor.iter().collect();
        tensors.sort_by(|a, b| charts::error_of(b).total_cmp(&charts::error_of(a)));
        Ok(Candidate {
            name: name.to_owned(),
            r,
            checks: r.checks(),
            noise: r.noise_floor.iter().map(|n| terminal::between(n.between)).collect(),
            largest_noise: r.noise_floor.iter().map(|n| n.kld_mean).reduce(f64::max),
            on_front,
            tensors,
            calibrated: r.by_tensor.iter().any(|t| t.output_error.is_some()),
            found: [
                r.passkey.iter().filter(|p| p.reference.correct).count(),
                r.passkey.iter().filter(|p| p.candidate.correct).count(),
            ],
            distribution: charts::distribution(r)?.into(),
            by_position: charts::by_position(r)?.into(),
            by_domain: charts::by_domain(r)?.into(),
            by_layer: charts::by_layer(r)?.into(),
            by_tensor: charts::by_tensor(r)?.into(),
            by_context: charts::by_context(r)?.into(),
        })
    }
}

fn safe(text: String) -> Value {
    Value::from_safe_string(text)
}

/// The last part of a path.
fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| visible(path), |n| visible(&n.to_string_lossy()))
}

/// File names, or whole paths where two files have the same name.
fn names<'p>(paths: impl Iterator<Item = &'p str> + Clone) -> Vec<String> {
    let short: Vec<String> = paths.clone().map(file_name).collect();
    let distinct = short.iter().enumerate().all(|(i, name)| !short[..i].contains(name));
    if distinct { short } else { paths.map(visible).collect() }
}

fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|name| match name.ends_with(".md") {
        true => AutoEscape::Custom("markdown".into()),
        false => AutoEscape::Html,
    });
    environment.set_formatter(|out, state, value| match (state.auto_escape(), value.as_str()) {
        (AutoEscape::Custom(_), Some(text)) if !value.is_safe() => Ok(out.write_str(&markdown(text))?),
        (AutoEscape::Custom(_), _) => Ok(out.write_str(&value.to_string())?),
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("significant", numbers::significant);
    environment.add_filter("with_error", numbers::with_error);
    environment.add_filter("percent", numbers::percent);
    environment.add_filter("ratio", numbers::ratio);
    environment.add_filter("thousands", numbers::thousands);
    environment.add_filter("seconds", numbers::seconds);
    environment.add_filter("bytes", bytes);
    environment.add_filter("fixed", |x: f64, decimals: usize| format!("{x:.decimals$}"));
    environment.add_filter("visible", |text: &str| visible(text));
    environment.add_filter("token", |text: &str| visible_token(text));
    environment.add_template("page.html", include_str!("page.html"))?;
    environment.add_template("page.md", include_str!("page.md"))?;
    Ok(environment)
}

/// `text` as plain text in Markdown: nothing in it is markup.
fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '|' | '~' | '$' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
