//! What joins readers, quantizer, runtime and writers.

pub mod parity;
pub mod report;
pub mod write;
