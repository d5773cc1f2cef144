//! Where to compute, and how exactly.

use crate::Result;
use clap::Args;
use std::str::FromStr;
use tamborim_kernels::Cpu;
pub use tamborim_kernels::Mode;

/// Where to compute.
#[derive(Args, Clone)]
pub struct DeviceArgs {
    /// cpu, cuda, cuda:N, or auto: the GPU where there is one
    #[arg(long, default_value = "auto")]
    device: Choice,
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
}

impl DeviceArgs {
    /// Gets the device ready. A GPU computes in `mode`; the CPU is always exact.
    pub fn open(&self, _: Mode) -> Result<Device> {
        match self.device {
            Choice::Cpu | Choice::Auto => Ok(Device::Cpu(Cpu)),
            Choice::Cuda(_) => Err("--device cuda: this version has no CUDA runtime".into()),
        }
    }
}

/// Runs the same code on whichever device it is.
macro_rules! on_device {
    ($device:expr, |$backend:ident| $job:expr) => {
        match $device {
            crate::device::Device::Cpu($backend) => $job,
        }
    };
}
pub(crate) use on_device;
