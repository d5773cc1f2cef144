use crate::{Format, Tensor};
use tamborim_model::{Plan, TensorSpec};

/// Why a tensor could not be had; its message names file and tensor.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A model's tensors by their canonical specification, read when asked for. What converters open and everything else
/// consumes.
pub trait TensorSource: Send + Sync {
    /// The model.
    fn plan(&self) -> &Plan;

    /// The format that [`TensorSource::read`] will give a tensor in, told without reading it.
    ///
    /// # Errors
    /// As [`TensorSource::read`].
    fn format(&self, spec: &TensorSpec) -> Result<Format, SourceError>;

    /// The numbers of one of the plan's tensors, in canonical shape, in the format they are stored in; borrowed from the
    /// file where it has them so.
    ///
    /// # Errors
    /// Whatever the file has wrong, in one line.
    fn read(&self, spec: &TensorSpec) -> Result<Tensor<'_>, SourceError>;

    /// Lets go of the memory that reading has taken so far: for one walk over a model that does not fit in memory.
    /// Tensors can be read, and borrowed ones used, as before.
    fn release(&self);
}
