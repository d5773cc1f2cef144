//! Mamba: `out(scan(silu(conv(x))) * silu(z))`, `[x, z] = in(u)`.

use super::{Output, Pass};
use crate::Result;
use crate::backend::{Backend, Conv, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers::{self, SelectiveScan};

/// Convolution and selective scan, with the projections that drive the scan.
pub struct ScanMixer<'a, B: Backend> {
    d_inner: usize,
    conv: Conv<B::Vector>,
    x: B::Linear<'a>,
    scan: B::Scan<'a>,
}

/// What both carry.
pub struct ScanMixerState<B: Backend> {
    conv: B::Vector,
    scan: B::Vector,
}

impl<'a, B: Backend> ScanMixer<'a, B> {
    pub fn load(dims: &SelectiveScan, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let (a, d) = (loader.numbers("ssm_a")?, loader.numbers("ssm_d")?);
        Ok(ScanMixer {
            d_inner: dims.d_inner,
            conv: loader.conv(&["ssm_conv1d"], dims.d_conv)?,
            x: loader.linear("ssm_x")?,
            scan: loader.backend.load_scan(loader.map("ssm_dt")?, a, d)?,
        })
    }

    pub fn start(&self, ops: &B) -> Result<ScanMixerState<B>> {
        Ok(ScanMixerState { conv: ops.zeros(self.conv.past_len(self.d_inner))?, scan: ops.scan_state(&self.scan)? })
    }

    /// x (tokens, d_inner) to y (tokens, d_inner), times `silu(gate)` where there is one.
    pub fn forward(
        &self,
        ops: &B,
        x: &B::Rows,
        gate: Option<&B::Rows>,
        state: &mut ScanMixerState<B>,
    ) -> Result<B::Rows> {
        let u = ops.conv(&self.conv, x, &mut state.conv)?;
        self.scan(ops, &u, gate, &mut state.scan)
    }

    /// [`ScanMixer::forward`] behind the convolution.
    fn scan(&self, ops: &B, u: &B::Rows, gate: Option<&B::Rows>, state: &mut B::Vector) -> Result<B::Rows> {
        let driven = ops.linear(&self.x, u)?;
        ops.scan(&self.scan, u, &driven, gate, state)
    }
}

/// The mixer.
pub struct Mamba<'a, B: Backend> {
    input: B::Linear<'a>,
    mixer: ScanMixer<'a, B>,
    shares_memory: bool,
    output: Output<'a, B>,
}

impl<'a, B: Backend> Mamba<'a, B> {
    pub fn load(dims: &mixers::Mamba, loader: &Loader<'a, '_, B>) -> Result<Self> {
        Ok(Mamba {
            input: loader.linear("ssm_in")?,
            mixer: ScanMixer::load(&dims.scan, loader)?,
            shares_memory: dims.shares_memory,
            output: loader.output("ssm_out")?,
        })
    }

    pub fn start(&self, ops: &B) -> Result<ScanMixerState<B>> {
        self.mixer.start(ops)
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        pass: &mut Pass<'_, B>,
        state: &mut ScanMixerState<B>,
    ) -> Result<()> {
        let parts = [self.mixer.d_inner; 2];
        let (u, z) = ops.project_conv(norm, &self.input, r, &self.mixer.conv, &mut state.conv, parts)?;
        let y = match self.shares_memory {
            false => self.mixer.scan(ops, &u, Some(&z), &mut state.scan)?,
            true => {
                let memory = self.mixer.scan(ops, &u, None, &mut state.scan)?;
                let y = ops.gate(&z, &memory)?;
                *pass.memory = Some(memory);
                y
            }
        };
        self.output.add(ops, &y, r)
    }
}
