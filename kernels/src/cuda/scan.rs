//! The selective scan.

use super::device::Launch;
use super::linear::{self, Linear};
use super::memory::Block;
use super::rows::{Rows, Vector};
use super::{Cuda, DeviceError};
use crate::Result;
use crate::backend::{Backend, Map, Mode};
use tamborim_quant::Format;

/// States of a channel that the kernels take.
const MAX_STATES: usize = 64;
/// Channels of a job, see `cuda/scan.cu`.
const CHANNELS_OF_JOB: usize = 8;
/// Blocks among which more jobs than that are divided evenly, for each multiprocessor. All of these are there together, and
/// keep it as busy as 5 would.
const WORKERS_PER_MULTIPROCESSOR: usize = 4;
/// Tokens from which on that gains more than it costs to begin each part of a job that is cut.
const CUT_FROM: usize = 256;

/// `dt` projection, A and D of a selective scan.
pub struct Scan {
    dt: Linear,
    dt_bias: Vector,
    /// (channels, states)
    a: Vector,
    d: Vector,
    channels: usize,
    states: usize,
    /// How many blocks have come to where a job is cut, one cut for each worker; zeros between launches.
    tickets: Block,
}

impl Scan {
    /// Numbers carried from token to token: (states, channels).
    pub fn state_len(&self) -> usize {
        self.states * self.channels
    }
}

/// Takes the weights along. The bias of `dt` is added where softplus is.
pub fn load(cuda: &Cuda, mut dt: Map<'_>, a: Vec<f32>, d: Vec<f32>) -> Result<Scan> {
    let channels = d.len();
    let states = a.len().checked_div(channels).unwrap_or(0);
    if states > MAX_STATES {
        return Err(DeviceError::Unsupported { what: "states of a channel", limit: MAX_STATES, found: states }.into());
    }
    // A step reads plain numbers, and dt's matrix is a hundredth of a layer: what 8 bits hold, bfloat16 nearly does.
    if cuda.mode == Mode::Fast && dt.weight.format.is_quantized() {
        dt.weight = dt.weight.recode(Format::Bf16, None).map_err(|e| crate::Error::Source(e.into()))?;
    }
    let tickets = cuda.device.take(4 * most_workers(cuda))?;
    cuda.device.clear(&tickets, 4 * most_workers(cuda))?;
    let dt_bias = dt.bias.take().unwrap_or_else(|| vec![0.0; channels]);
    Ok(Scan {
        dt: linear::load(cuda, vec![dt])?,
        dt_bias: cuda.vector(dt_bias)?,
        a: cuda.vector(a)?,
        d: cuda.vector(d)?,
        channels,
        states,
        tickets,
    })
}

/// Blocks among which jobs are divided where there are more.
fn most_workers(cuda: &Cuda) -> usize {
    WORKERS_PER_MULTIPROCESSOR * cuda.device.multiprocessors
}

/// [`Backend::scan`].
pub fn apply(cuda: &Cuda, scan: &Scan, u: &Rows, driven: &Rows, gate: Option<&Rows>, state: &Vector) -> Result<Rows> {
    let out = cuda.new_rows(u.rows, scan.channels)?;
    match (u.rows, scan.plain_dt()) {
        (1, Some(weights)) => step(cuda, scan, weights, [u, driven, &out], gate, state)?,
        _ => {
            let dt = linear::apply(cuda, &scan.dt, None, &driven.columns(0..scan.dt.inputs))?;
            match u.rows {
                1 => step_from(cuda, scan, &dt, [u, driven, &out], gate, state)?,
                _ => many(cuda, scan, &dt, [u, driven, &out], gate, state)?,
            }
        }
    }
    Ok(out)
}

impl Scan {
    /// B and C.
    fn b_and_c(&self, driven: &Rows) -> [Rows; 2] {
        let (rank, states) = (self.dt.inputs, self.states);
        [driven.columns(rank..rank + states), driven.columns(rank + states..rank + 2 * states)]
    }

    /// The dt projection as a dense matrix of plain numbers, if it is one that a step can read, and its type's name.
    fn plain_dt(&self) -> Option<(u64, &'static str)> {
        let [run] = self.dt.runs.as_slice() else { return None };
        let name = match run.format {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            _ => return None,
        };
        (run.stride == run.cols).then_some((run.weights.ptr, name))
    }
}

/// Many tokens whose dt has been projected.
pub fn many(
    cuda: &Cuda,
    scan: &Scan,
    dt: &Rows,
    [u, driven, out]: [&Rows; 3],
    gate: Option<&Rows>,
    state: &Vector,
) -> Result<()> {
    let [b, c] = scan.b_and_c(driven);
    let kernel = if scan.states <= 16 { "scan" } else { "scan_wide" };
    let jobs = scan.channels.div_ceil(CHANNELS_OF_JOB);
    // A share has to be longer than a job by more than workers differ.
    let workers = most_workers(cuda);
    let blocks = if u.rows < CUT_FROM || 16 * jobs < 17 * workers { jobs } else { workers };
    Ok(cuda.device.launch(
        "scan",
        &format!("{kernel}_{}", out.kind.suffix()),
        Launch::blocks(blocks, 96),
        &[
            &u.ptr(),
            &dt.ptr(),
            &scan.dt_bias.ptr(),
            &scan.a.ptr(),
            &b.ptr(),
            &c.ptr(),
            &(driven.stride as i32),
            &scan.d.ptr(),
            &gate.map_or(0, Rows::ptr),
            &(gate.map_or(0, |z| z.stride) as i32),
            &state.ptr(),
            &out.ptr(),
            &scan.tickets.ptr,
            &(u.rows as i32),
            &(scan.channels as i32),
            &(scan.states as i32),
        ],
    )?)
}

/// Threads and blocks of the kernels for one token.
fn step_launch(cuda: &Cuda, scan: &Scan) -> Launch {
    // It reads the state before it waits, which these may just be writing.
    let overlap = !cuda.device.ended_with(&["scan", "ssm_step"]);
    Launch { overlap, ..Launch::blocks(scan.channels.div_ceil(16), 128) }
}

/// One token, its dt projection included.
fn step(
    cuda: &Cuda,
    scan: &Scan,
    (weights, kind): (u64, &str),
    [u, driven, out]: [&Rows; 3],
    gate: Option<&Rows>,
    state: &Vector,
) -> Result<()> {
    Ok(cuda.device.launch(
        "ssm_step",
        &format!("ssm_step_{}_w{kind}", out.kind.suffix()),
        step_launch(cuda, scan),
        &[
            &u.ptr(),
            &driven.ptr(),
            &weights,
            &scan.dt_bias.ptr(),
            &scan.a.ptr(),
            &scan.d.ptr(),
            &gate.map_or(0, Rows::ptr),
            &state.ptr(),
            &out.ptr(),
            &(scan.dt.inputs as i32),
            &(scan.channels as i32),
            &(scan.states as i32),
        ],
    )?)
}

/// One token whose dt has been projected.
fn step_from(
    cuda: &Cuda,
    scan: &Scan,
    dt: &Rows,
    [u, driven, out]: [&Rows; 3],
    gate: Option<&Rows>,
    state: &Vector,
) -> Result<()> {
    let [b, c] = scan.b_and_c(driven);
    Ok(cuda.device.launch(
        "ssm_step",
        &format!("ssm_step_{}", out.kind.suffix()),
        step_launch(cuda, scan),
        &[
            &u.ptr(),
            &dt.ptr(),
            &scan.dt_bias.ptr(),
            &scan.a.ptr(),
            &b.ptr(),
            &c.ptr(),
            &scan.d.ptr(),
            &gate.map_or(0, Rows::ptr),
            &state.ptr(),
            &out.ptr(),
            &(scan.channels as i32),
            &(scan.states as i32),
        ],
    )?)
}
