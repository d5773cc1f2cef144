//! Mamba: `out(scan(silu(conv(x))) * silu(z))`, `[x, z] = in(u)`.

use super::Chunk;
use crate::Result;
use crate::cpu::conv::{CausalConv, ConvState};
use crate::cpu::scan::{ScanInputs, ScanState, ScanWeights, softplus};
use crate::cpu::{Rows, elementwise, linear::Linear};
use crate::loader::Loader;
use tamborim_model::mixers::{self, SelectiveScan};

/// Convolution and selective scan, with the projections that drive the scan.
pub struct ScanMixer<'a> {
    dims: SelectiveScan,
    conv: CausalConv,
    x: Linear<'a>,
    dt: Linear<'a>,
    scan: ScanWeights,
}

/// What both carry.
#[derive(Clone, Debug)]
pub struct ScanMixerState {
    conv: ConvState,
    scan: ScanState,
}

impl<'a> ScanMixer<'a> {
    pub fn load(dims: &SelectiveScan, loader: &Loader<'a, '_>) -> Result<Self> {
        let a = loader.vector("ssm_a")?;
        Ok(ScanMixer {
            conv: loader.conv("ssm_conv1d", dims.d_conv)?,
            x: loader.linear("ssm_x")?,
            dt: loader.linear("ssm_dt")?,
            scan: ScanWeights::new(&a, loader.vector("ssm_d")?, dims.d_state),
            dims: dims.clone(),
        })
    }

    pub fn start(&self) -> ScanMixerState {
        ScanMixerState { conv: ConvState::default(), scan: self.scan.start() }
    }

    /// x (tokens, d_inner) to y (tokens, d_inner).
    pub fn forward(&self, x: &Rows, state: &mut ScanMixerState) -> Rows {
        let u = self.conv.apply(x, &mut state.conv);
        let driven = self.x.apply(&u);
        let (rank, n) = (self.dims.dt_rank, self.dims.d_state);
        let (b, c) = (driven.columns(rank..rank + n), driven.columns(rank + n..rank + 2 * n));
        let mut dt = self.dt.apply(&driven.columns(0..rank));
        softplus(&mut dt);
        self.scan.apply(&ScanInputs { u, dt, b, c }, &mut state.scan)
    }
}

/// The mixer.
pub struct Mamba<'a> {
    input: Linear<'a>,
    mixer: ScanMixer<'a>,
    output: Linear<'a>,
}

impl<'a> Mamba<'a> {
    pub fn load(dims: &mixers::Mamba, loader: &Loader<'a, '_>) -> Result<Self> {
        Ok(Mamba {
            input: loader.linear("ssm_in")?,
            mixer: ScanMixer::load(&dims.scan, loader)?,
            output: loader.linear("ssm_out")?,
        })
    }

    pub fn start(&self) -> ScanMixerState {
        self.mixer.start()
    }

    pub fn forward(&self, u: &Rows, _: Chunk<'_>, state: &mut ScanMixerState) -> Rows {
        let d_inner = self.mixer.dims.d_inner;
        let xz = self.input.apply(u);
        let mut gated = xz.columns(d_inner..2 * d_inner);
        let y = self.mixer.forward(&xz.columns(0..d_inner), state);
        elementwise::silu_times(&mut gated, &y);
        self.output.apply(&gated)
    }
}
