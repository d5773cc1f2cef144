//! A GGUF file seen as the model inside it.

use super::plan::read_plan;
use super::{Architecture, GgufFile, TensorInfo, architecture, read_tokenizer};
use crate::checkpoint::Scalar;
use crate::error::quoted;
use crate::finite::first_nonfinite;
use crate::{Error, Result};
use std::collections::HashSet;
use tamborim_model::tokenizer::Tokenizer;
use tamborim_model::{Plan, TensorSpec};
use tamborim_quant::{Format, SourceError, Tensor, TensorSource};

/// A GGUF file together with its plan. Opening it has compared every name and shape.
pub struct GgufModel {
    file: GgufFile,
    plan: Plan,
    architecture: Architecture,
    allow_nonfinite: bool,
}

impl GgufModel {
    /// Reads the plan and checks that the file's tensors are exactly the plan's.
    ///
    /// # Errors
    /// As [`read_plan`]; [`Error::Tensor`] for the first tensor that is missing, superfluous, of another shape, or in a
    /// format without a decoder here.
    pub fn new(file: GgufFile, allow_nonfinite: bool) -> Result<GgufModel> {
        let plan = read_plan(file.metadata(), &|name| file.tensors().get(name).map(|t| t.shape.as_slice()))?;
        let mut known = HashSet::new();
        for spec in plan.tensors() {
            let wrong = |expected: String, found: String| Err(Error::tensor(file.path(), &spec.name, expected, found));
            let Some(info) = file.tensors().get(&spec.name) else {
                return wrong(format!("shape {:?}", spec.shape), "no such tensor".to_owned());
            };
            if info.shape != spec.shape {
                return wrong(format!("shape {:?}", spec.shape), format!("{:?}", info.shape));
            }
            if Format::from_gguf_type(info.ggml_type.id).is_none() {
                let names: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
                return wrong(format!("one of {}", names.join(", ")), info.ggml_type.name.to_owned());
            }
            known.insert(spec.name);
        }
        let is_inert = |name: &str, t: &TensorInfo| {
            let format = Format::from_gguf_type(t.ggml_type.id);
            file.bytes(name).is_ok_and(|bytes| architecture::is_inert(name, format, bytes))
        };
        let mut extra = file.tensors().iter().filter(|(k, t)| !known.contains(*k) && !is_inert(k, t));
        if let Some((extra, _)) = extra.next() {
            return Err(Error::tensor(file.path(), quoted(extra), "no such tensor in this model", "one in the file"));
        }
        let name = file.metadata().required::<&str>("general.architecture")?;
        let architecture = Architecture::from_name(file.path(), name)?;
        Ok(GgufModel { architecture, file, plan, allow_nonfinite })
    }

    /// The container.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// The tokenizer in the file, if it has one.
    ///
    /// # Errors
    /// As [`read_tokenizer`].
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        read_tokenizer(self.file.metadata())
    }

    fn format_of(&self, spec: &TensorSpec) -> Result<Format> {
        let info = self.file.tensors().get(&spec.name);
        let format = info.and_then(|t| Format::from_gguf_type(t.ggml_type.id));
        format.ok_or_else(|| Error::tensor(self.file.path(), &spec.name, "a tensor of the plan", "none"))
    }

    fn read_tensor(&self, spec: &TensorSpec) -> Result<Tensor<'_>> {
        let path = self.file.path();
        let wrong = |found: String| Error::tensor(path, &spec.name, "a tensor of the plan", found);
        let info = self.file.tensors().get(&spec.name).ok_or_else(|| wrong("none".to_owned()))?;
        let format = Format::from_gguf_type(info.ggml_type.id).ok_or_else(|| wrong(info.ggml_type.name.to_owned()))?;
        let bytes = self.file.bytes(&spec.name)?;
        let scalar = match format {
            Format::F32 => Some(Scalar::F32),
            Format::F16 => Some(Scalar::F16),
            Format::Bf16 => Some(Scalar::Bf16),
            _ => None,
        };
        if !self.allow_nonfinite
            && let Some(scalar) = scalar
            && let Some((index, value)) = first_nonfinite(scalar, bytes)
        {
            let expected = "finite numbers (--allow-nonfinite takes any)";
            return Err(Error::tensor(path, &spec.name, expected, format!("{value} at element {index}")));
        }
        let tensor = Tensor::new(format, spec.shape.clone(), bytes).map_err(|e| wrong(e.to_string()))?;
        Ok(self.architecture.restore(&self.plan, spec, tensor))
    }
}

impl TensorSource for GgufModel {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn format(&self, spec: &TensorSpec) -> std::result::Result<Format, SourceError> {
        Ok(self.format_of(spec)?)
    }

    fn read(&self, spec: &TensorSpec) -> std::result::Result<Tensor<'_>, SourceError> {
        Ok(self.read_tensor(spec)?)
    }

    fn release(&self) {
        self.file.release();
    }
}
