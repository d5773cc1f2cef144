//! How far apart two models are: at one position, and over many.

mod distance;
mod statistics;

pub use distance::{Distance, distance, distances};
pub use statistics::{Spread, Summary, mean_and_stderr, spread, summarize};
