//! Where to compute, and how exactly.

use crate::Result;
use crate::output::note;
use clap::Args;
use std::str::FromStr;
pub use tamborim_kernels::Mode;
use tamborim_kernels::{Cpu, Cuda};

/// Where to compute.
#[derive(Args, Clone)]
pub struct DeviceArgs {
    /// cpu, cuda, cuda:N, or auto: the GPU where there is one
    #[arg(long, default_value = "auto")]
    device: Choice,
    /// What a GPU does: exact float32, or fast bfloat16. verify and logits are exact unless told otherwise, generate and
    /// bench fast
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeChoice>,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum ModeChoice {
    Exact,
    Fast,
}

impl From<ModeChoice> for Mode {
    fn from(choice: ModeChoice) -> Mode {
        match choice {
            ModeChoice::Exact => Mode::Exact,
            ModeChoice::Fast => Mode::Fast,
        }
    }
}

#[derive(Clone, Copy)]
enum Choice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Choice, String> {
        match s {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "cuda" => Ok(Choice::Cuda(0)),
            _ => s
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Choice::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

/// A device that is ready to compute.
pub enum Device {
    Cpu(Cpu),
    Cuda(Cuda),
}

impl DeviceArgs {
    /// Gets the device ready. A GPU computes in `mode`, unless the user says otherwise; the CPU is always exact.
    pub fn open(&self, mode: Mode) -> Result<Device> {
        let mode = self.mode.map_or(mode, Mode::from);
        let cuda = match self.device {
            Choice::Cpu => return Ok(Device::Cpu(Cpu)),
            Choice::Cuda(ordinal) => Cuda::open(ordinal, mode).map_err(|e| format!("--device cuda:{ordinal}: {e}"))?,
            Choice::Auto => match Cuda::open(0, mode) {
                Ok(cuda) => cuda,
                Err(why) => {
                    note(format!("computed on the CPU: {why}"));
                    return Ok(Device::Cpu(Cpu));
                }
            },
        };
        if mode == Mode::Fast && !cuda.has_cublas() {
            note(
                "cuBLAS was not found: this program's own matrix products, which are slower, took its place".to_owned(),
            );
        }
        Ok(Device::Cuda(cuda))
    }
}

/// Runs the same code on whichever device it is.
macro_rules! on_device {
    ($device:expr, |$backend:ident| $job:expr) => {
        match $device {
            crate::device::Device::Cpu($backend) => $job,
            crate::device::Device::Cuda($backend) => $job,
        }
    };
}
pub(crate) use on_device;
