//! Differential attention over the keys and values of a block below.

use super::differential_attention::Differential;
use super::{MixerState, Pass};
use crate::Result;
use crate::backend::{Backend, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers;

/// The mixer. It has queries only, and no state.
pub struct CrossAttention<'a, B: Backend> {
    q: B::Linear<'a>,
    differential: Differential<'a, B>,
}

impl<'a, B: Backend> CrossAttention<'a, B> {
    pub fn load(dims: &mixers::CrossAttention, loader: &Loader<'a, '_, B>) -> Result<Self> {
        Ok(CrossAttention {
            q: loader.linear("attn_q")?,
            differential: Differential::load(&dims.differential, None, loader)?,
        })
    }

    pub fn start(&self, _: &B) -> Result<()> {
        Ok(())
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        pass: &mut Pass<'_, B>,
        (): &mut (),
    ) -> Result<()> {
        let nearest = pass.below.iter().rev().find_map(|state| match state {
            MixerState::DifferentialAttention(kv) => Some(kv),
            _ => None,
        });
        let kv = nearest.unwrap_or_else(|| unreachable!("a plan has keys and values below cross attention"));
        let q = self.differential.spread(ops, &ops.project(norm, &self.q, r)?)?;
        let attended = ops.attend_over(&self.differential.shape, &q, pass.place, kv)?;
        self.differential.add(ops, &attended, r)
    }
}
