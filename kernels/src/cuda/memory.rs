//! Device memory: what is let go is kept for whoever asks next, so that a step allocates nothing after the first.

use super::DeviceError;
use super::device::check;
use cudarc::driver::{result, sys};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Granularity of sizes, and alignment of what the driver gives.
const ALIGNMENT: usize = 256;

/// Blocks that nobody uses, by size. Everything runs on one stream, so a block may be handed on while kernels that use it
/// are still queued.
#[derive(Default)]
struct Idle {
    blocks: BTreeMap<usize, Vec<sys::CUdeviceptr>>,
}

impl Idle {
    /// The smallest block that holds `bytes`, if it is not far too large.
    fn take(&mut self, bytes: usize) -> Option<(sys::CUdeviceptr, usize)> {
        let (&size, blocks) = self.blocks.range_mut(bytes..=bytes.saturating_mul(2)).find(|(_, b)| !b.is_empty())?;
        blocks.pop().map(|ptr| (ptr, size))
    }

    fn release(&mut self) {
        for ptr in std::mem::take(&mut self.blocks).into_values().flatten() {
            // SAFETY: came from `malloc_sync`, is freed once, and nobody holds it; the driver waits for queued work. An error
            // here can only repeat one that a launch has reported.
            let _ = unsafe { result::free_sync(ptr) };
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.release();
    }
}

/// A set of blocks that are reused among themselves.
#[derive(Clone, Default)]
pub struct Pool {
    idle: Rc<RefCell<Idle>>,
}

/// A piece of device memory; goes back to its pool when dropped.
pub struct Block {
    /// Address on the device.
    pub ptr: sys::CUdeviceptr,
    bytes: usize,
    home: Pool,
}

impl Pool {
    /// `bytes` of uninitialized memory.
    pub fn take(&self, bytes: usize) -> Result<Block, DeviceError> {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        if let Some((ptr, bytes)) = self.idle.borrow_mut().take(bytes) {
            return Ok(Block { ptr, bytes, home: self.clone() });
        }
        let allocate = || {
            // SAFETY: a plain allocation; the context is current.
            unsafe { result::malloc_sync(bytes) }
        };
        let ptr = allocate().or_else(|_| {
            self.idle.borrow_mut().release();
            allocate()
        });
        match ptr {
            Ok(ptr) => Ok(Block { ptr, bytes, home: self.clone() }),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let free = check("memory information", result::mem_get_info())?.0;
                Err(DeviceError::OutOfMemory { bytes, free })
            }
            Err(e) => check("allocation", Err(e)),
        }
    }
}

impl Block {
    /// Whether there is room for as many bytes.
    pub fn holds(&self, bytes: usize) -> bool {
        bytes <= self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.home.idle.borrow_mut().blocks.entry(self.bytes).or_default().push(self.ptr);
    }
}
