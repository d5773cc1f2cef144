//! What retention and gated linear attention share: projections, the recurrence, a norm per head, a gate, the output.

use super::Output;
use crate::Result;
use crate::backend::{Backend, Decay, Heads, NormWeights};
use crate::loader::Loader;
use tamborim_model::{INNER_NORM_EPS, Norm, NormKind};

/// `output(rms(o per head) * weight * silu(gate x))`, o from the recurrence over `q x`, `k x`, `v x`.
pub struct LinearAttention<'a, B: Backend> {
    pub heads: Heads,
    /// q, k, v, gate and whatever else depends on x.
    input: B::Linear<'a>,
    inputs: usize,
    norm: NormWeights<B::Vector>,
    output: Output<'a, B>,
}

/// The columns of the stacked projection.
pub struct Projected<B: Backend> {
    pub q: B::Rows,
    pub k: B::Rows,
    v: B::Rows,
    gate: B::Rows,
    /// Of the maps given beyond those four.
    pub rest: B::Rows,
}

impl<'a, B: Backend> LinearAttention<'a, B> {
    pub fn load(heads: Heads, rest: &[&str], loader: &Loader<'a, '_, B>) -> Result<Self> {
        let names = [&["attn_q", "attn_k", "attn_v", "attn_gate"], rest].concat();
        let maps = names.iter().map(|name| loader.map(name)).collect::<Result<Vec<_>>>()?;
        let norm = Norm { kind: NormKind::Rms, eps: INNER_NORM_EPS };
        Ok(LinearAttention {
            heads,
            inputs: maps.iter().map(|m| m.weight.rows()).sum(),
            input: loader.backend.stack(maps)?,
            norm: loader.norm("attn_sub_norm", norm)?,
            output: loader.output("attn_output")?,
        })
    }

    pub fn start(&self, ops: &B) -> Result<B::Vector> {
        ops.zeros(self.heads.count * self.heads.keys * self.heads.values)
    }

    pub fn project(&self, ops: &B, norm: &NormWeights<B::Vector>, r: &B::Rows) -> Result<Projected<B>> {
        let x = ops.project(norm, &self.input, r)?;
        let (keys, values) = (self.heads.count * self.heads.keys, self.heads.count * self.heads.values);
        let gate = 2 * keys + values;
        Ok(Projected {
            q: ops.columns(&x, 0..keys),
            k: ops.columns(&x, keys..2 * keys),
            v: ops.columns(&x, 2 * keys..gate),
            gate: ops.columns(&x, gate..gate + values),
            rest: ops.columns(&x, gate + values..self.inputs),
        })
    }

    pub fn mix(
        &self,
        ops: &B,
        x: &Projected<B>,
        decay: Decay<'_, B>,
        r: &mut B::Rows,
        state: &mut B::Vector,
    ) -> Result<()> {
        let o = ops.outer_scan(self.heads, [&x.q, &x.k, &x.v], decay, state)?;
        let gated = ops.gated_norm(&self.norm, &o, &x.gate)?;
        self.output.add(ops, &gated, r)
    }
}
