//! A checkpoint seen as the model inside it: every tensor by its canonical name, shape and form.

use crate::checkpoint::{Checkpoint, Entry, Scalar};
use crate::config::{Description, describe};
use crate::finite::{first_nonfinite, narrow_f64};
use crate::{Error, Result, open_checkpoint};
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use tamborim_model::{Naming, Plan, Role, Stored, TensorSpec, View};
use tamborim_quant::{Format, SourceError, Tensor, TensorSource};

/// Buffers of the training code that hold nothing: uninitialised, possibly NaN.
const IGNORED_SUFFIX: &str = ".rel_pos_bias._float_tensor";

/// The output head in every naming; a tied one may be there too.
const HEAD: &str = "lm_head.weight";

/// A checkpoint together with its plan. Opening it has compared every name and shape.
pub struct CheckpointModel {
    checkpoint: Box<dyn Checkpoint>,
    plan: Plan,
    naming: Naming,
    allow_nonfinite: bool,
}

/// A tensor's place in the file.
struct Located<'s> {
    key: &'s str,
    entry: &'s Entry,
    stored: &'s Stored,
}

impl CheckpointModel {
    /// Opens the checkpoint at `path` (see [`open_checkpoint`]), finds its configuration (`config` is an official name or a
    /// JSON file; without it a `lit_config.json` or `config.json` beside it counts, else the name its trainer left inside)
    /// and checks that its tensors are exactly those of the plan.
    ///
    /// # Errors
    /// As [`open_checkpoint`]; [`Error::Model`] for the configuration; [`Error::Tensor`] for the first tensor that is
    /// missing, superfluous or of another shape, and for a head that should be the embedding and is not.
    pub fn open(path: &Path, config: Option<&str>, allow_nonfinite: bool) -> Result<CheckpointModel> {
        let checkpoint = open_checkpoint(path)?;
        let Description { plan, naming, origin } = describe(checkpoint.as_ref(), path, config)?;
        let model = CheckpointModel { checkpoint, plan, naming, allow_nonfinite };
        model.check().map_err(|e| e.by(&origin))?;
        Ok(model)
    }

    /// The file-level view.
    pub fn checkpoint(&self) -> &dyn Checkpoint {
        self.checkpoint.as_ref()
    }

    /// The naming its tensors follow.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    fn check(&self) -> Result<()> {
        let path = self.checkpoint.path();
        let entries = self.checkpoint.entries();
        let mut known: HashSet<&str> = HashSet::new();
        let tensors = self.plan.tensors();
        for spec in &tensors {
            let Located { key, entry, stored } = self.locate(spec)?;
            let shape = spec.stored_shape(stored);
            if entry.shape != shape {
                return Err(Error::tensor(path, key, format!("shape {shape:?}"), format!("{:?}", entry.shape)));
            }
            known.insert(key);
        }
        let [embedding, head] = self.tied_keys(&tensors);
        if self.plan.tied {
            known.extend([embedding, head]);
        }
        if let Some(extra) = entries.keys().find(|k| !known.contains(k.as_str()) && !k.ends_with(IGNORED_SUFFIX)) {
            return Err(Error::tensor(path, extra, "no such tensor in this configuration", "one in the file"));
        }
        if self.plan.tied
            && let (Some(a), Some(b)) = (entries.get(embedding), entries.get(head))
        {
            self.check_tie([embedding, head], [a, b])?;
        }
        Ok(())
    }

    /// The keys of embedding and head.
    fn tied_keys<'s>(&self, tensors: &'s [TensorSpec]) -> [&'s str; 2] {
        let embedding = tensors.iter().find(|t| t.role == Role::Embedding).and_then(|t| t.stored(self.naming));
        [embedding.map_or("", |stored| self.key(&stored.key)), HEAD]
    }

    /// The name of a tensor in this file. Where all names begin alike, reading has taken that away as a wrapper's prefix,
    /// although it may be part of the names.
    fn key<'s>(&self, key: &'s str) -> &'s str {
        match key.strip_prefix("model.") {
            Some(rest) if !self.checkpoint.entries().contains_key(key) => rest,
            _ => key,
        }
    }

    /// Where the file keeps a tensor. Either name serves for a tied embedding.
    fn locate<'s>(&'s self, spec: &'s TensorSpec) -> Result<Located<'s>> {
        let missing =
            |key: &str| Error::tensor(self.checkpoint.path(), key, format!("shape {:?}", spec.shape), "no such tensor");
        let stored = spec.stored(self.naming).ok_or_else(|| missing(&spec.name))?;
        let entries = self.checkpoint.entries();
        let mut key = self.key(&stored.key);
        if spec.role == Role::Embedding && self.plan.tied && !entries.contains_key(key) {
            key = HEAD;
        }
        let entry = entries.get_key_value(key).ok_or_else(|| missing(&stored.key))?;
        Ok(Located { key: entry.0, entry: entry.1, stored })
    }

    /// The configuration says that head and embedding are one: two different tensors there would change the model.
    fn check_tie(&self, [embedding_key, head_key]: [&str; 2], [embedding, head]: [&Entry; 2]) -> Result<()> {
        if embedding.identity == head.identity {
            return Ok(());
        }
        let path = self.checkpoint.path();
        let same = embedding.shape == head.shape && {
            let [a, b] = [embedding_key, head_key].map(|k| self.checkpoint.read(k));
            let (a, b) = (a?, b?);
            if embedding.scalar == head.scalar {
                a == b
            } else {
                as_tensor(a, embedding).to_f32() == as_tensor(b, head).to_f32()
            }
        };
        match same {
            true => Ok(()),
            false => {
                let expected = format!("the numbers of {embedding_key}, to which the configuration ties it");
                Err(Error::tensor(path, head_key, expected, "different ones"))
            }
        }
    }

    fn read_canonical(&self, spec: &TensorSpec) -> Result<Tensor<'_>> {
        let Located { key, entry, stored: Stored { view, .. } } = self.locate(spec)?;
        let path = self.checkpoint.path();
        let bytes = self.checkpoint.read(key)?;
        if !self.allow_nonfinite
            && let Some((index, value)) = first_nonfinite(entry.scalar, &bytes)
        {
            let expected = "finite numbers (--allow-nonfinite takes any)";
            return Err(Error::tensor(path, key, expected, format!("{value} at element {index}")));
        }
        let stored = as_tensor(bytes, entry);
        let whole = match view {
            View::Whole | View::Squeeze => stored,
            View::NegExp => mapped(&stored, |x| -x.exp()),
            View::Plus(offset) => mapped(&stored, |x| x + offset),
            View::HeadsOfGroups { groups, per_group, first, count, head } => {
                let row_bytes = stored.bytes.len() / stored.shape[0].max(1);
                let head_bytes = head * row_bytes;
                let mut bytes = Vec::with_capacity(groups * count * head_bytes);
                for group in 0..*groups {
                    let at = (group * per_group + first) * head_bytes;
                    bytes.extend_from_slice(&stored.bytes[at..at + count * head_bytes]);
                }
                Tensor { format: stored.format, shape: Vec::new(), bytes: bytes.into() }
            }
        };
        Ok(Tensor { shape: spec.shape.clone(), ..whole })
    }
}

impl TensorSource for CheckpointModel {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn format(&self, spec: &TensorSpec) -> std::result::Result<Format, SourceError> {
        let Located { entry, stored, .. } = self.locate(spec)?;
        Ok(match stored.view {
            View::NegExp | View::Plus(_) => Format::F32,
            _ => format_of(entry.scalar),
        })
    }

    fn read(&self, spec: &TensorSpec) -> std::result::Result<Tensor<'_>, SourceError> {
        Ok(self.read_canonical(spec)?)
    }

    fn release(&self) {
        self.checkpoint.release();
    }
}

/// What holds the numbers; float64, which no format has, becomes float32.
fn format_of(scalar: Scalar) -> Format {
    match scalar {
        Scalar::F64 | Scalar::F32 => Format::F32,
        Scalar::F16 => Format::F16,
        Scalar::Bf16 => Format::Bf16,
    }
}

/// The numbers after `f` in float64, as float32.
fn mapped(tensor: &Tensor<'_>, f: impl Fn(f64) -> f64) -> Tensor<'static> {
    let numbers: Vec<f32> = tensor.to_f32().iter().map(|x| f(f64::from(*x)) as f32).collect();
    let bytes = bytemuck::cast_slice(&numbers).to_vec();
    Tensor { format: Format::F32, shape: tensor.shape.clone(), bytes: bytes.into() }
}

/// The stored numbers.
fn as_tensor<'b>(bytes: Cow<'b, [u8]>, entry: &Entry) -> Tensor<'b> {
    let bytes = if entry.scalar == Scalar::F64 { Cow::Owned(narrow_f64(&bytes)) } else { bytes };
    Tensor { format: format_of(entry.scalar), shape: entry.shape.clone(), bytes }
}
