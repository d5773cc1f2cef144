//! Tensors of a source, as the operations want them.

use crate::cpu::conv::CausalConv;
use crate::cpu::linear::Linear;
use crate::cpu::norm::NormWeights;
use crate::{Error, Result};
use std::collections::HashMap;
use tamborim_model::{Norm, NormKind, Place, TensorSpec};
use tamborim_quant::{Tensor, TensorSource};

/// Reads tensors by their name below a block.
pub struct Loader<'a, 'l> {
    source: &'a dyn TensorSource,
    specs: &'l HashMap<String, TensorSpec>,
    prefix: String,
    place: Option<Place>,
}

impl<'a, 'l> Loader<'a, 'l> {
    /// For the tensors whose names begin with `prefix`, of the branch that stands in `place`.
    pub fn new(
        source: &'a dyn TensorSource,
        specs: &'l HashMap<String, TensorSpec>,
        prefix: String,
        place: Option<Place>,
    ) -> Loader<'a, 'l> {
        Loader { source, specs, prefix, place }
    }

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

    /// All numbers of `name`.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.maybe_vector(name)?.unwrap_or_default())
    }

    fn maybe_vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.tensor(name)?.map(|t| t.to_f32()))
    }

    /// `name.weight`, with `name.bias` where the plan has one.
    pub fn linear(&self, name: &str) -> Result<Linear<'a>> {
        let weight = self.tensor(&format!("{name}.weight"))?.unwrap_or_else(|| unreachable!("the plan lists {name}"));
        Ok(Linear::new(weight, self.maybe_vector(&format!("{name}.bias"))?))
    }

    /// A causal convolution of `name.weight` (channels, width) and, where the plan has one, `name.bias`.
    pub fn conv(&self, name: &str, width: usize) -> Result<CausalConv> {
        let kernel = self.vector(&format!("{name}.weight"))?;
        Ok(CausalConv::new(&kernel, width, self.maybe_vector(&format!("{name}.bias"))?))
    }

    /// `name.weight`, and `name.bias` for LayerNorm.
    pub fn norm(&self, name: &str, norm: Norm) -> Result<NormWeights> {
        let weight = self.vector(&format!("{name}.weight"))?;
        let bias = match norm.kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(self.vector(&format!("{name}.bias"))?),
        };
        Ok(NormWeights { norm, weight, bias })
    }
}
