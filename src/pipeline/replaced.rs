//! A model with some tensors of another's.

use std::borrow::Cow;
use std::collections::HashMap;
use tamborim_model::{Plan, TensorSpec};
use tamborim_quant::{Format, SourceError, Tensor, TensorSource};

/// `source`, but for `tensors`, by canonical name.
pub struct Replaced<'s> {
    pub source: &'s dyn TensorSource,
    pub tensors: HashMap<String, Tensor<'static>>,
}

impl TensorSource for Replaced<'_> {
    fn plan(&self) -> &Plan {
        self.source.plan()
    }

    fn format(&self, spec: &TensorSpec) -> Result<Format, SourceError> {
        self.tensors.get(&spec.name).map_or_else(|| self.source.format(spec), |t| Ok(t.format))
    }

    fn read(&self, spec: &TensorSpec) -> Result<Tensor<'_>, SourceError> {
        let Some(Tensor { format, shape, bytes }) = self.tensors.get(&spec.name) else {
            return self.source.read(spec);
        };
        Ok(Tensor { format: *format, shape: shape.clone(), bytes: Cow::Borrowed(bytes) })
    }

    fn release(&self) {}
}
