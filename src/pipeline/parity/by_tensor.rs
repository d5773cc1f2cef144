//! How far each weight matrix is from the reference's.

use crate::Result;
use crate::report::TensorError;
use tamborim_converters::gguf::CalibrationFile;
use tamborim_kernels::parity::RelativeError;
use tamborim_quant::{Calibration, Hessian, TensorSource};

/// Relative error of every linear map that both models have.
pub fn by_tensor(
    reference: &dyn TensorSource,
    candidate: &dyn TensorSource,
    calibration: Option<&CalibrationFile>,
) -> Result<Vec<TensorError>> {
    let mut rows = Vec::new();
    let (specs, twins) = (candidate.plan().tensors(), reference.plan().tensors());
    for spec in specs.iter().filter(|s| s.role.is_linear()) {
        let Some(twin) = twins.iter().find(|t| t.name == spec.name && t.shape == spec.shape) else {
            continue;
        };
        let (b, stored) = (candidate.read(spec)?, candidate.stored_as(spec)?);
        let a = reference.read(twin)?.to_f32();
        let rounded = b.to_f32();
        let mut error = RelativeError::default();
        error.add(&a, &rounded);
        let moments = calibration.map(|c| c.moments(&spec.name)).transpose()?.flatten();
        let output_error = moments.map(|m| Hessian::damped(&m, 0.0).output_error(&a, &rounded).max(0.0).sqrt());
        rows.push(TensorError {
            name: spec.name.clone(),
            r#type: stored.name,
            bits_per_weight: stored.bits_per_weight,
            relative_error: error.value(),
            output_error,
        });
    }
    Ok(rows)
}
