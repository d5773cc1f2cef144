//! The pictures, as SVG for inlining into the page. Every number in them stands in a table beside them too.

mod candidates;
mod frame;
mod kld;
mod layers;
mod perplexity;
mod tensors;

pub use candidates::{pareto_front, size_against_kld};
pub use frame::Chart;
pub use kld::{by_domain, by_position, distribution};
pub use layers::by_layer;
pub use perplexity::by_context;
pub use tensors::{by_tensor, error_of};
