//! Tensors of a source, as the operations want them.

use crate::backend::{Backend, Conv, Map, NormWeights};
use crate::mixers::Output;
use crate::{Error, Result};
use std::collections::HashMap;
use tamborim_model::{Branch, Norm, NormKind, Place, Plan, TensorSpec};
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
    /// Being loaded.
    pub branch: Option<&'l Branch>,
}

impl<'a, B: Backend> Loader<'a, '_, B> {
    /// Whether the mixer being loaded is the MLP half of its block.
    pub fn is_mlp(&self) -> bool {
        self.branch.is_some_and(|b| b.place == Place::Mlp)
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

    /// The output head, where it is not just the embedding.
    pub fn head(&self, plan: &Plan) -> Result<Option<B::Linear<'a>>> {
        match (plan.tied, plan.head_bias) {
            (true, false) => Ok(None),
            (false, _) => self.linear("output").map(Some),
            (true, true) => {
                let bias = self.maybe_numbers("output.bias")?;
                self.backend.stack(vec![Map { bias, ..self.map("token_embd")? }]).map(Some)
            }
        }
    }

    /// The map that a mixer ends in, with the norm behind the branch.
    pub fn output(&self, name: &str) -> Result<Output<'a, B>> {
        let post_norm = self.branch.and_then(|b| b.post_norm.map(|norm| (norm, b.post_norm_name())));
        let load = |(norm, name)| NormWeights::new(self.backend, norm, self.numbers(name)?, Vec::new());
        Ok(Output { map: self.linear(name)?, post_norm: post_norm.map(load).transpose()? })
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
