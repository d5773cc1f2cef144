//! What makes two files the same model: equal numbers under equal names.

use crate::Result;
use sha2::{Digest, Sha256};
use tamborim_quant::TensorSource;

/// SHA-256, in hexadecimal, over name, shape and float32 numbers of every tensor of the plan: the same for every container
/// and type that stores a model without loss.
pub fn fingerprint(source: &dyn TensorSource) -> Result<String> {
    let mut hasher = Sha256::new();
    for spec in source.plan().tensors() {
        hasher.update(format!("{} {:?}\n", spec.name, spec.shape));
        hasher.update(bytemuck::cast_slice::<f32, u8>(&source.read(&spec)?.to_f32()));
        source.release();
    }
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
