//! Mamba with heads: one step size, A and D a head, and norms on B, C and dt.

use super::{Output, Pass};
use crate::Result;
use crate::backend::{Backend, Conv, HeadedScan, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers;
use tamborim_model::{Norm, NormKind};

/// The mixer.
pub struct HeadedMamba<'a, B: Backend> {
    /// To the gates of all heads, then x of all heads.
    input: B::Linear<'a>,
    conv: Conv<B::Vector>,
    /// x to B, C and dt.
    x: B::Linear<'a>,
    norms: [NormWeights<B::Vector>; 3],
    dt_rank: usize,
    dt: B::Linear<'a>,
    scan: HeadedScan<B::Vector>,
    output: Output<'a, B>,
}

/// What convolution and scan carry.
pub struct HeadedMambaState<B: Backend> {
    conv: B::Vector,
    scan: B::Vector,
}

impl<'a, B: Backend> HeadedMamba<'a, B> {
    pub fn load(dims: &mixers::HeadedMamba, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let mixers::HeadedMamba { heads, head_dim, d_state, dt_rank, d_conv, eps } = *dims;
        // Stored head by head: gate, x.
        let fused = loader.map("ssm_in")?;
        let halves = (0..2).flat_map(|half| (0..heads).map(move |head| (2 * head + half) * head_dim));
        let maps = halves.map(|first| fused.outputs(first..first + head_dim)).collect();
        let norm = |name| {
            NormWeights::new(loader.backend, Norm { kind: NormKind::Rms, eps }, loader.numbers(name)?, Vec::new())
        };
        // The bias comes before softplus, with the scan.
        let mut dt = loader.map("ssm_dt")?;
        let dt_bias = dt.bias.take().unwrap_or_default();
        Ok(HeadedMamba {
            input: loader.backend.stack(maps)?,
            conv: loader.conv(&["ssm_conv1d"], d_conv)?,
            x: loader.linear("ssm_x")?,
            norms: [norm("ssm_b_norm")?, norm("ssm_c_norm")?, norm("ssm_dt_norm")?],
            dt_rank,
            dt: loader.backend.stack(vec![dt])?,
            scan: HeadedScan {
                heads,
                head_dim,
                d_state,
                dt_bias: loader.backend.vector(dt_bias)?,
                a: loader.vector("ssm_a")?,
                d: loader.vector("ssm_d")?,
            },
            output: loader.output("ssm_out")?,
        })
    }

    pub fn start(&self, ops: &B) -> Result<HeadedMambaState<B>> {
        let HeadedScan { heads, head_dim, d_state, .. } = self.scan;
        let d_inner = heads * head_dim;
        Ok(HeadedMambaState { conv: ops.zeros(self.conv.past_len(d_inner))?, scan: ops.zeros(d_inner * d_state)? })
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        _: &mut Pass<'_, B>,
        state: &mut HeadedMambaState<B>,
    ) -> Result<()> {
        let HeadedScan { heads, head_dim, d_state: n, .. } = self.scan;
        let d_inner = heads * head_dim;
        let projected = ops.project(norm, &self.input, r)?;
        let (gate, x) = (ops.columns(&projected, 0..d_inner), ops.columns(&projected, d_inner..2 * d_inner));
        let u = ops.conv(&self.conv, &x, &mut state.conv)?;
        let driven = ops.linear(&self.x, &u)?;
        let [b, c, dt] = &self.norms;
        let b = ops.norm_heads(b, n, &ops.columns(&driven, 0..n))?;
        let c = ops.norm_heads(c, n, &ops.columns(&driven, n..2 * n))?;
        let dt = ops.norm_heads(dt, self.dt_rank, &ops.columns(&driven, 2 * n..2 * n + self.dt_rank))?;
        let dt = ops.linear(&self.dt, &dt)?;
        let y = ops.headed_scan(&self.scan, &u, [&dt, &b, &c], &gate, &mut state.scan)?;
        self.output.add(ops, &y, r)
    }
}
