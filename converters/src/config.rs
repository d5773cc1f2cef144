//! Which model a checkpoint is: an explicit choice, a file beside it, or the name its trainer left inside.

use crate::checkpoint::Checkpoint;
use crate::error::quoted;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use tamborim_model::{Config, Naming, Plan, ShapeHints, official};

/// Largest configuration file read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What a checkpoint is.
pub struct Description {
    /// Its plan.
    pub plan: Plan,
    /// The naming its tensors follow.
    pub naming: Naming,
    /// Where this is known from, for messages.
    pub origin: String,
}

/// Describes the checkpoint opened at `path`. `choice` is an official name or a JSON file; without it a `lit_config.json`
/// or `config.json` beside the checkpoint is used, else the `model_name` among its `hparams`.
///
/// # Errors
/// [`Error::Model`] where a configuration is unreadable, and where there is none: then the message lists what would fit.
pub fn describe(checkpoint: &dyn Checkpoint, path: &Path, choice: Option<&str>) -> Result<Description> {
    let named = |name: &str, origin: String| {
        let plan = official::config(name).and_then(|c| Plan::from_config(&c));
        let plan = plan.map_err(|source| Error::Model { path: path.to_owned(), source })?;
        Ok(Description { plan, naming: Naming::Lit, origin })
    };
    if let Some(choice) = choice {
        return match official::names().any(|n| n == choice) || !Path::new(choice).exists() {
            true => named(choice, format!("--config {choice}")),
            false => described_by_file(checkpoint, Path::new(choice)),
        };
    }
    if let Some(file) = config_beside(path) {
        return described_by_file(checkpoint, &file);
    }
    match &checkpoint.extras().model_name {
        Some(name) if official::names().any(|n| n == name) => {
            named(name, format!("{name}, as the checkpoint's hparams say; --config can say otherwise"))
        }
        _ => Err(no_config(checkpoint)),
    }
}

/// `lit_config.json` or `config.json` in the folder, else beside the file or folder.
fn config_beside(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let folders = [Some(path.as_path()).filter(|p| p.is_dir()), path.parent()];
    let files = folders.into_iter().flatten().flat_map(|f| ["lit_config.json", "config.json"].map(|n| f.join(n)));
    files.into_iter().find(|p| p.is_file())
}

fn described_by_file(checkpoint: &dyn Checkpoint, file: &Path) -> Result<Description> {
    let at = |source| Error::Model { path: file.to_owned(), source };
    let size = std::fs::metadata(file).map_err(Error::io(file))?.len();
    if size > MAX_CONFIG_BYTES {
        let found = format!("{size} bytes");
        return Err(Error::damaged(file, "configuration", format!("at most {MAX_CONFIG_BYTES} bytes"), found));
    }
    let bytes = std::fs::read(file).map_err(Error::io(file))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::damaged(file, "configuration", "JSON", "no UTF-8 text"))?;
    let plan = if is_hugging_face(&text) {
        let names: Vec<&str> = checkpoint.entries().keys().map(String::as_str).collect();
        Plan::from_hugging_face(&text, &names)
    } else {
        Config::from_json(&text, &hints(checkpoint)).and_then(|c| Plan::from_config(&c))
    };
    let plan = plan.map_err(at)?;
    let naming = match Naming::of(&plan) {
        Naming::Lit if is_hugging_face(&text) => Naming::HuggingFace,
        naming => naming,
    };
    let origin = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Description { plan, naming, origin })
}

/// Whether a `config.json` is Hugging Face's: those name a `model_type`; the training code's have no such field.
pub fn is_hugging_face(text: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct ModelType {
        #[allow(dead_code)]
        model_type: String,
    }
    serde_json::from_str::<ModelType>(text).is_ok()
}

/// What the tensors tell, the tie included.
fn hints(checkpoint: &dyn Checkpoint) -> ShapeHints {
    let entries = checkpoint.entries();
    let shapes = entries.iter().map(|(name, e)| (name.as_str(), e.shape.as_slice()));
    let tied = match (entries.get("transformer.wte.weight"), entries.get("lm_head.weight")) {
        (Some(a), Some(b)) => a.identity == b.identity,
        _ => true,
    };
    ShapeHints { tied: Some(tied), ..ShapeHints::from_shapes(shapes) }
}

fn no_config(checkpoint: &dyn Checkpoint) -> Error {
    let entries = checkpoint.entries();
    let fits = |name: &str| {
        let Ok(plan) = official::config(name).and_then(|c| Plan::from_config(&c)) else { return false };
        plan.tensors().iter().all(|t| {
            let entry_of = |key: &str| {
                entries.get(key).or(entries.get("lm_head.weight").filter(|_| plan.tied && t.block.is_none()))
            };
            t.stored(Naming::Lit).is_some_and(|s| entry_of(&s.key).is_some_and(|e| e.shape == t.stored_shape(s)))
        })
    };
    let fitting: Vec<&str> = official::names().filter(|n| fits(n)).collect();
    let expected = match fitting.as_slice() {
        [] => "an official name or a JSON file of config fields with --config, or a lit_config.json beside the file"
            .to_owned(),
        names => format!("--config with one of {}, whose shapes fit (or a JSON file)", names.join(", ")),
    };
    let found = match &checkpoint.extras().model_name {
        Some(name) => format!("none, and hparams name {}, which is no official one", quoted(name)),
        None => "no configuration".to_owned(),
    };
    let source = tamborim_model::Error::Config { field: "--config".into(), expected, found };
    Error::Model { path: checkpoint.path().to_owned(), source }
}
