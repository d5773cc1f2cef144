//! Plans from Hugging Face's `config.json`, a file for each kind of model.

mod phi4flash;
mod plamo2;
mod samba;

use crate::error::one_line;
use crate::plan::Plan;
use crate::{Error, Result};
use serde::Deserialize;

/// Largest number of channels, of tokens, or of anything made of them.
const MAX_EXTENT: usize = 1 << 24;
/// Largest number of layers.
const MAX_LAYERS: usize = 4096;

/// A whole number or the word `"auto"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Auto {
    Number(usize),
    Word(String),
}

impl Auto {
    /// The rank of dt: `auto` is a sixteenth of the width, rounded up.
    fn dt_rank(&self, field: &str, d_model: usize) -> Result<usize> {
        match self {
            Auto::Number(n) => extent(field, *n, MAX_EXTENT),
            Auto::Word(w) if w == "auto" => Ok(d_model.div_ceil(16)),
            Auto::Word(w) => Err(Error::config(field, "a number or \"auto\"", w)),
        }
    }
}

impl Plan {
    /// The plan of a Hugging Face `config.json` with `model_type` `samba`, `mamba`, `phi4flash` or `plamo2`. `tensors`: names of
    /// the checkpoint beside it, which tell what the configuration does not say; none where there is no checkpoint.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field, [`Error::Json`] where the file is no such object.
    pub fn from_hugging_face(text: &str, tensors: &[&str]) -> Result<Plan> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: String,
        }
        let kind: Kind = parse(text)?;
        match kind.model_type.as_str() {
            "samba" | "mamba" => samba::plan(text),
            "phi4flash" => phi4flash::plan(text, tensors),
            "plamo2" => plamo2::plan(text),
            other => Err(Error::config("model_type", "samba, mamba, phi4flash or plamo2", other)),
        }
    }
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Json { reason: one_line(&e.to_string()) })
}

/// `value` where it is from 1 to `max`.
fn extent(field: &str, value: usize, max: usize) -> Result<usize> {
    match (1..=max).contains(&value) {
        true => Ok(value),
        false => Err(Error::config(field, format!("a whole number from 1 to {max}"), value)),
    }
}

/// `a * b`, where that is no more than any extent may be.
fn channels(field: &str, a: usize, b: usize) -> Result<usize> {
    match a.checked_mul(b).filter(|n| *n <= MAX_EXTENT) {
        Some(n) => Ok(n),
        None => Err(Error::config(field, format!("at most {MAX_EXTENT} channels together"), format!("{a} times {b}"))),
    }
}

fn epsilon(field: &str, value: f64) -> Result<f32> {
    match value as f32 {
        eps if eps > 0.0 && eps < 1.0 => Ok(eps),
        _ => Err(Error::config(field, "a number between 0 and 1", value)),
    }
}

fn positive(field: &str, value: f64) -> Result<f32> {
    match value as f32 {
        x if x > 0.0 && x.is_finite() => Ok(x),
        _ => Err(Error::config(field, "a positive number", value)),
    }
}

fn only_silu(act: Option<&str>) -> Result<()> {
    match act {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(Error::config("hidden_act", "silu", other)),
    }
}
