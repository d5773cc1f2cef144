//! The operators by name, as `docs/onnx/operators.md` specifies them.

use crate::linear_attention::{GATED_LINEAR_ATTENTION, RETENTION};
use crate::operator::Operator;
use crate::selective_scan::SELECTIVE_SCAN;

/// All of them.
pub const OPERATORS: [&Operator; 3] = [&SELECTIVE_SCAN, &GATED_LINEAR_ATTENTION, &RETENTION];
