//! Tensors of a source, as the operations want them.

use crate::backend::{Backend, Conv, Map, NormWeights};
use crate::{Error, Result};
use std::collections::HashMap;
use tamborim_model::{Norm, NormKind, Place, TensorSpec};
use tamborim_quant::{Tensor, TensorSource};

/// Reads tensors by their name below a block.
pub struct Loader<'a, 'l, B> {
    /// Where they will be used.
    pub backend: &'l B,
    /// Where they are.
    pub source: &'a dyn TensorSource,
    /// The plan's tensors by name.
    pub specs: &'l HashMap<String, TensorSpec>,
    /// What their names begin with.
    pub prefix: String,
    /// Of the branch being loaded.
    pub place: Option<Place>,
}

impl<'a, B: Backend> Loader<'a, '_, B> {
    /// Whether the mixer being loaded is the MLP half of its block.
    pub fn is_mlp(&self) -> bool {
        self.place == Some(Place::Mlp)
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor<'a>>> {
        match self.specs.get(&format!("{}{name}", self.prefix)) {
            Some(spec) => self.source.read(spec).map(Some).map_err(Error::Source),
            None => Ok(None),
        }
    }

    fn maybe_numbers(&self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.tensor(name)?.map(|t| t.to_f32()))
    }

    /// All numbers of `name`; none if the plan has no such tensor.
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.maybe_numbers(name)?.unwrap_or_default())
    }

    /// The same, on the device.
    pub fn vector(&self, name: &str) -> Result<B::Vector> {
        self.backend.vector(self.numbers(name)?)
    }

    /// `name.weight`, with `name.bias` where the plan has one.
    pub fn map(&self, name: &str) -> Result<Map<'a>> {
        let weight = self.tensor(&format!("{name}.weight"))?.unwrap_or_else(|| unreachable!("the plan lists {name}"));
        Ok(Map {
            name: format!("{}{name}.weight", self.prefix),
            weight,
            bias: self.maybe_numbers(&format!("{name}.bias"))?,
        })
    }

    /// Maps with the same input as one.
    pub fn stack(&self, names: &[&str]) -> Result<B::Linear<'a>> {
        self.backend.stack(names.iter().map(|name| self.map(name)).collect::<Result<_>>()?)
    }

    /// One map.
    pub fn linear(&self, name: &str) -> Result<B::Linear<'a>> {
        self.stack(&[name])
    }

    /// A causal convolution of the channels of all `names` side by side: `name.weight` (channels, width) and, where the plan
    /// has them, `name.bias`.
    pub fn conv(&self, names: &[&str], width: usize) -> Result<Conv<B::Vector>> {
        let (mut kernel, mut bias) = (Vec::new(), None);
        for name in names {
            kernel.extend(self.numbers(&format!("{name}.weight"))?);
            if let Some(part) = self.maybe_numbers(&format!("{name}.bias"))? {
                bias.get_or_insert_with(Vec::new).extend(part);
            }
        }
        Conv::new(self.backend, &kernel, width, bias)
    }

    /// `name.weight`, and `name.bias` for LayerNorm.
    pub fn norm(&self, name: &str, norm: Norm) -> Result<NormWeights<B::Vector>> {
        let bias = match norm.kind {
            NormKind::Rms => Vec::new(),
            NormKind::Layer => self.numbers(&format!("{name}.bias"))?,
        };
        NormWeights::new(self.backend, norm, self.numbers(&format!("{name}.weight"))?, bias)
    }
}
