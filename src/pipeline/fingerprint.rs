//! What makes two files the same model: equal numbers under equal names.

use crate::Result;
use sha2::{Digest, Sha256};
use tamborim_quant::TensorSource;

/// Bytes that are decoded at a time: what stays in a core's own cache.
const AT_ONCE: usize = 128 << 10;

/// SHA-256, in hexadecimal, over name, shape and float32 numbers of every tensor of the plan: the same for every container
/// and type that stores a model without loss.
pub fn fingerprint(source: &dyn TensorSource) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut numbers = Vec::new();
    for spec in source.plan().tensors() {
        hasher.update(format!("{} {:?}\n", spec.name, spec.shape));
        let tensor = source.read(&spec)?;
        let row_bytes = tensor.row_bytes().max(1);
        for rows in tensor.bytes.chunks((AT_ONCE / row_bytes).max(1) * row_bytes) {
            numbers.resize(rows.len() / row_bytes * tensor.cols(), 0.0);
            tensor.format.decode(rows, &mut numbers);
            hasher.update(bytemuck::cast_slice::<f32, u8>(&numbers));
        }
        source.release();
    }
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
