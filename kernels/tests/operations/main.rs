//! Every operation of every backend against float64, on sizes that are awkward: one table of cases for all.
//!
//! The CUDA backend runs on a GPU, or on a CPU through the stand-in for the driver (`TAMBORIM_CUDA_PATH`, see
//! `cuda/README.md`); where there is neither, its tests say so and pass.

mod cases;
mod headed;
mod pairs;
mod reference;

use cases::{Case, Cases, Kind};
use tamborim_kernels::{Backend, Cpu, Cuda, DeviceError, Mode};

/// Relative errors `|out - ref| / |ref|` that a backend may make.
#[derive(Clone, Copy)]
pub struct Limits {
    plain: f64,
    chained: f64,
    quantized: f64,
}

const EXACT: Limits = Limits { plain: 2e-6, chained: 2e-6, quantized: 2e-6 };
/// bfloat16 activations, and quantized weights meeting 8-bit ones.
const FAST: Limits = Limits { plain: 5e-3, chained: 1e-2, quantized: 1.5e-2 };

fn run<B: Backend>(backend: &B, limits: Limits) {
    let mut failures = Vec::new();
    for Case { name, check } in Cases::<B>::all() {
        for (size, found) in check(backend) {
            let limit = match found.kind {
                Kind::Plain => limits.plain,
                Kind::Chained => limits.chained,
                Kind::Quantized => limits.quantized,
            };
            if found.error > limit || found.error.is_nan() {
                failures.push(format!("{name} {size}: {:.2e} above {limit:.1e}", found.error));
            }
        }
    }
    assert!(failures.is_empty(), "{} on {}:\n{}", failures.len(), backend.describe(), failures.join("\n"));
}

#[test]
fn cpu_operations_equal_float64() {
    run(&Cpu, EXACT);
}

/// A GPU, or the stand-in; `None` where there is neither.
fn cuda(mode: Mode) -> Option<Cuda> {
    match Cuda::open(0, mode) {
        Ok(cuda) => Some(cuda),
        Err(DeviceError::NoDriver) => {
            eprintln!("no driver and no stand-in for it: nothing tested");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn cuda_exact_operations_equal_float64() {
    if let Some(cuda) = cuda(Mode::Exact) {
        run(&cuda, EXACT);
    }
}

#[test]
fn cuda_fast_operations_are_near_float64() {
    if let Some(cuda) = cuda(Mode::Fast) {
        run(&cuda, FAST);
    }
}
