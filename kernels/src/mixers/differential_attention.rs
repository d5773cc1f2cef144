//! Differential attention: softmax attention of pairs of heads, the second result subtracted, the difference normalized.

use super::{Output, Pass};
use crate::Result;
use crate::backend::{AttentionShape, Backend, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers::{self, SUB_NORM_EPS};
use tamborim_model::{Norm, NormKind};

/// What comes around the attention, wherever keys and values are from.
///
/// A pair of key heads is one head of twice the width to the operations, and so is a pair of value heads, which both query
/// heads of a pair attend to; [`Backend::spread_pairs`] makes queries that see only their own key.
pub struct Differential<'a, B: Backend> {
    heads: usize,
    head_dim: usize,
    /// Of the attention as the operations see it.
    pub shape: AttentionShape,
    lambda: f32,
    norm: NormWeights<B::Vector>,
    output: Output<'a, B>,
}

impl<'a, B: Backend> Differential<'a, B> {
    pub fn load(dims: &mixers::Differential, window: Option<usize>, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let mixers::Differential { heads, groups, head_dim, .. } = *dims;
        let wide = |name| -> Result<Vec<f64>> { Ok(loader.numbers(name)?.into_iter().map(f64::from).collect()) };
        let exp_dot = |a, b| -> Result<f64> {
            let (a, b) = (wide(a)?, wide(b)?);
            Ok(a.iter().zip(&b).map(|(a, b)| a * b).sum::<f64>().exp())
        };
        let lambda = exp_dot("attn_lambda_q1.weight", "attn_lambda_k1.weight")?
            - exp_dot("attn_lambda_q2.weight", "attn_lambda_k2.weight")?
            + dims.lambda_init();
        let left = 1.0 - dims.lambda_init();
        let weight = wide("attn_subln.weight")?.into_iter().map(|w| (w * left) as f32).collect();
        let norm = Norm { kind: NormKind::Rms, eps: SUB_NORM_EPS };
        Ok(Differential {
            heads,
            head_dim,
            shape: AttentionShape { heads, groups: groups / 2, head_dim: 2 * head_dim, window },
            lambda: lambda as f32,
            norm: NormWeights::new(loader.backend, norm, weight, Vec::new())?,
            output: loader.output("attn_output")?,
        })
    }

    /// Of a projection `[q, ..]`: what the attention takes.
    pub fn spread(&self, ops: &B, projected: &B::Rows) -> Result<B::Rows> {
        ops.spread_pairs(self.heads, self.head_dim, projected)
    }

    /// From the results of all heads to the residual stream.
    pub fn add(&self, ops: &B, attended: &B::Rows, r: &mut B::Rows) -> Result<()> {
        let difference = ops.differential_norm(&self.norm, self.lambda, attended)?;
        self.output.add(ops, &difference, r)
    }
}

/// The mixer with keys and values of its own.
pub struct DifferentialAttention<'a, B: Backend> {
    qkv: B::Linear<'a>,
    differential: Differential<'a, B>,
}

impl<'a, B: Backend> DifferentialAttention<'a, B> {
    pub fn load(dims: &mixers::DifferentialAttention, loader: &Loader<'a, '_, B>) -> Result<Self> {
        Ok(DifferentialAttention {
            qkv: loader.linear("attn_qkv")?,
            differential: Differential::load(&dims.differential, dims.window, loader)?,
        })
    }

    pub fn start(&self, ops: &B) -> Result<B::KeyValues> {
        ops.key_values(&self.differential.shape)
    }

    pub fn reserve(&self, ops: &B, state: &mut B::KeyValues, end: u64) -> Result<bool> {
        ops.reserve(state, &self.differential.shape, end)
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        pass: &mut Pass<'_, B>,
        state: &mut B::KeyValues,
    ) -> Result<()> {
        let qkv = self.differential.spread(ops, &ops.project(norm, &self.qkv, r)?)?;
        let attended = ops.attend(&self.differential.shape, None, &qkv, pass.place, state)?;
        self.differential.add(ops, &attended, r)
    }
}
