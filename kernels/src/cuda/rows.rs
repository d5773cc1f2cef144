//! Activations on the device.

use super::DeviceError;
use super::device::Device;
use super::memory::Block;
use cudarc::driver::sys::CUdeviceptr;
use std::ops::Range;
use std::rc::Rc;

/// How an activation is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// float32: all of exact mode, and the residual stream and the logits of fast mode.
    F32,
    /// bfloat16: the rest of fast mode.
    Bf16,
}

impl Kind {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::Bf16 => 2,
        }
    }

    /// What the names of kernels for it end in.
    pub fn suffix(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::Bf16 => "bf16",
        }
    }
}

/// (tokens, columns), or a view of some columns or rows of such a matrix.
#[derive(Clone)]
pub struct Rows {
    block: Rc<Block>,
    /// Of the first number, in numbers.
    offset: usize,
    /// Tokens.
    pub rows: usize,
    /// Numbers in a row.
    pub cols: usize,
    /// From one row to the next, in numbers.
    pub stride: usize,
    /// Of every number.
    pub kind: Kind,
}

impl Rows {
    /// Uninitialized rows.
    pub fn new(device: &Device, rows: usize, cols: usize, kind: Kind) -> Result<Rows, DeviceError> {
        let block = Rc::new(device.take(rows * cols * kind.bytes())?);
        Ok(Rows { block, offset: 0, rows, cols, stride: cols, kind })
    }

    /// Fills dense rows.
    pub fn upload<T: bytemuck::Pod>(&self, device: &Device, numbers: &[T]) -> Result<(), DeviceError> {
        device.upload(&self.block, numbers)
    }

    /// Address of the first number.
    pub fn ptr(&self) -> CUdeviceptr {
        self.block.ptr + (self.offset * self.kind.bytes()) as CUdeviceptr
    }

    /// Columns `range` of every row.
    pub fn columns(&self, range: Range<usize>) -> Rows {
        Rows { offset: self.offset + range.start, cols: range.len(), ..self.clone() }
    }

    /// Rows `range`.
    pub fn rows(&self, range: Range<usize>) -> Rows {
        Rows { offset: self.offset + range.start * self.stride, rows: range.len(), ..self.clone() }
    }

    /// Whether no number lies between its rows.
    pub fn is_dense(&self) -> bool {
        self.stride == self.cols || self.rows == 1
    }
}

/// float32 numbers that stay: small weights and states.
pub struct Vector {
    pub block: Block,
    pub len: usize,
}

impl Vector {
    /// Takes numbers along.
    pub fn new(device: &Device, numbers: &[f32]) -> Result<Vector, DeviceError> {
        let block = device.take(size_of_val(numbers))?;
        device.upload(&block, numbers)?;
        Ok(Vector { block, len: numbers.len() })
    }

    /// Address of the first number.
    pub fn ptr(&self) -> CUdeviceptr {
        self.block.ptr
    }

    /// `len` zeros.
    pub fn zeros(device: &Device, len: usize) -> Result<Vector, DeviceError> {
        let block = device.take(4 * len)?;
        device.clear(&block, 4 * len)?;
        Ok(Vector { block, len })
    }
}
