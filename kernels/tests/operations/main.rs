//! Every operation of every backend against float64, on sizes that are awkward: one table of cases for all.
//!
//! The CUDA backend runs on a GPU, or on a CPU through the stand-in for the driver (`TAMBORIM_CUDA_PATH`, see
//! `cuda/README.md`); where there is neither, its tests say so and pass.

mod cases;
mod reference;

use cases::{CASES, Case};
use tamborim_kernels::{Backend, Cpu};

/// Relative errors `|out - ref| / |ref|` that a backend may make.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Of one operation on float32, or on activations of fast mode.
    operation: f64,
    /// Where quantized weights meet activations.
    quantized: f64,
}

const EXACT: Limits = Limits { operation: 2e-6, quantized: 2e-6 };

fn run<B: Backend>(backend: &B, limits: Limits) {
    let mut failures = Vec::new();
    for Case { name, check } in CASES::<B>::all() {
        for (size, found) in check(backend) {
            let limit = if found.quantized { limits.quantized } else { limits.operation };
            // Not `error > limit`: NaN fails too.
            if !(found.error <= limit) {
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
