//! How far apart two models are: at one position, and over many.

mod blocks;
mod distance;
mod relative;
mod resample;
mod statistics;

pub use blocks::Blocks;
pub use distance::{Distance, Likely, distance, distances, likeliest};
pub use relative::RelativeError;
pub use resample::{CONFIDENCE, RESAMPLES, Uncertainty};
pub use statistics::{Bin, Spread, Summary, log_histogram, perplexities, summarize};
