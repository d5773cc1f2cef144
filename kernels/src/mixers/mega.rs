//! Mega-S6: features of a selective scan give queries, keys and gates of a single-head attention inside fixed chunks.

use super::Pass;
use super::mamba::{ScanMixer, ScanMixerState};
use crate::Result;
use crate::backend::{Backend, MegaMemory, MegaWeights, NormWeights};
use crate::loader::Loader;
use rayon::prelude::*;
use tamborim_model::mixers;

/// The mixer.
pub struct Mega<'a, B: Backend> {
    value: B::Linear<'a>,
    scan: ScanMixer<'a, B>,
    mix: B::Linear<'a>,
    attention: MegaWeights<B::Vector>,
    output: B::Linear<'a>,
}

/// What scan and attention carry.
pub struct MegaState<B: Backend> {
    scan: ScanMixerState<B>,
    memory: MegaMemory<B::Vector>,
}

impl<'a, B: Backend> Mega<'a, B> {
    pub fn load(dims: &mixers::Mega, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let positions = |name| loader.backend.vector(turned(&loader.numbers(name)?, dims.chunk));
        let output = loader.linear("mega_output")?;
        Ok(Mega {
            value: loader.linear("mega_v")?,
            scan: ScanMixer::load(&dims.scan, loader)?,
            mix: loader.linear("mega_mix")?,
            attention: MegaWeights {
                gamma: loader.vector("mega_gamma")?,
                beta: loader.vector("mega_beta")?,
                positions: [positions("mega_position_alpha")?, positions("mega_position_beta")?],
                z_dim: dims.z_dim,
                d_model: dims.scan.d_inner,
                chunk: dims.chunk,
            },
            output,
        })
    }

    pub fn start(&self, ops: &B) -> Result<MegaState<B>> {
        let MegaWeights { z_dim, d_model, chunk, .. } = self.attention;
        let memory = MegaMemory { keys: ops.zeros(chunk * z_dim)?, values: ops.zeros(chunk * d_model)? };
        Ok(MegaState { scan: self.scan.start(ops)?, memory })
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        pass: &mut Pass<'_, B>,
        state: &mut MegaState<B>,
    ) -> Result<()> {
        let n = ops.norm(norm, r)?;
        let v = ops.linear(&self.value, &n)?;
        let mut features = self.scan.forward(ops, &n, None, &mut state.scan)?;
        ops.silu(&mut features)?;
        let mixed = ops.linear(&self.mix, &features)?;
        let attended = ops.mega_attend(&self.attention, &mixed, &v, pass.place, &mut state.memory)?;
        let y = ops.linear(&self.output, &attended)?;
        ops.mega_update(&self.attention, &mixed, &y, r)
    }
}

/// R(p) v for every place p of a chunk: rotate-half with frequencies `10000^(-i / half)`. Frequencies and angles are
/// float32 as trained, so a bias depends on both places, if only in its last bits.
fn turned(v: &[f32], chunk: usize) -> Vec<f32> {
    let half = v.len() / 2;
    let step = -(10000f64.ln() / half as f64) as f32;
    let freq: Vec<f32> = (0..half).map(|i| (i as f32 * step).exp()).collect();
    let mut rows = vec![0.0; chunk * v.len()];
    rows.par_chunks_mut(v.len()).enumerate().for_each(|(place, row)| {
        let (low, high) = row.split_at_mut(half);
        for i in 0..half {
            let (sin, cos) = f64::from(place as f32 * freq[i]).sin_cos();
            let (sin, cos) = (sin as f32, cos as f32);
            low[i] = v[i] * cos - v[half + i] * sin;
            high[i] = v[half + i] * cos + v[i] * sin;
        }
    });
    rows
}
