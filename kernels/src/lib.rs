//! The reference runtime: forward pass and states, on the CPU.
