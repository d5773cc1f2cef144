//! ONNX Runtime, for models that come as a graph: its library, found where the user has it, and sessions of our models.

mod library;
mod session;

pub use session::{Session, SessionState};
