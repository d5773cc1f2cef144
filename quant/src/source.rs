use crate::{Format, NBits, Tensor};
use tamborim_model::{Plan, TensorSpec};

/// Why a tensor could not be had; its message names file and tensor.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// What a tensor is stored as, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAs {
    /// In a word: `q4_k`, `int4/32`.
    pub name: String,
    /// Bits of an element, scales included.
    pub bits_per_weight: f64,
}

impl From<Format> for StoredAs {
    fn from(format: Format) -> StoredAs {
        StoredAs { name: format.name().to_owned(), bits_per_weight: format.bits_per_weight() }
    }
}

/// A matrix of (rows, columns) in a grid of MatMulNBits.
impl From<(NBits, [usize; 2])> for StoredAs {
    fn from((grid, [rows, cols]): (NBits, [usize; 2])) -> StoredAs {
        let bits = 8.0 * grid.matrix_bytes(rows, cols) as f64 / (rows * cols).max(1) as f64;
        let symmetric = if grid.has_zero_points() { "" } else { " symmetric" };
        StoredAs { name: format!("int{}/{}{symmetric}", grid.bits(), grid.block_len()), bits_per_weight: bits }
    }
}

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

    /// What the file stores a tensor as; in some files that is no [`Format`], and reading decodes it.
    ///
    /// # Errors
    /// As [`TensorSource::read`].
    fn stored_as(&self, spec: &TensorSpec) -> Result<StoredAs, SourceError> {
        Ok(self.format(spec)?.into())
    }

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
