//! One GPU: its stream, its memory, its kernels.

use super::memory::{Block, Pool};
use super::modules::{MODULES, Module};
use super::{DeviceError, libraries};
use cudarc::driver::{result, sys};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::rc::Rc;

/// Turns the driver's answer into an error that says what was being done.
pub fn check<T>(during: &str, answer: Result<T, result::DriverError>) -> Result<T, DeviceError> {
    answer.map_err(|e| DeviceError::Driver { during: during.to_owned(), message: format!("{e:?}") })
}

/// Bytes of pinned memory: a row of logits of any vocabulary.
const PINNED: usize = 2 << 20;

/// How many threads run a kernel, and with how much dynamic shared memory.
#[derive(Clone, Copy)]
pub struct Launch {
    /// Blocks.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub block: usize,
    /// Bytes.
    pub shared: usize,
    /// May begin before the kernel queued before it has ended: it calls `previous_kernel_wait` before it reads what others
    /// have written, or writes at all.
    pub overlap: bool,
}

impl Launch {
    /// A grid of blocks.
    pub fn grid(grid: [usize; 3], block: usize) -> Launch {
        Launch { grid, block, shared: 0, overlap: false }
    }

    /// `blocks` blocks in a row.
    pub fn blocks(blocks: usize, block: usize) -> Launch {
        Launch::grid([blocks, 1, 1], block)
    }

    /// A thread for each of `items`.
    pub fn threads(items: usize, block: usize) -> Launch {
        Launch::blocks(items.div_ceil(block), block)
    }

    /// See [`Launch::overlap`].
    pub fn overlapping(self) -> Launch {
        Launch { overlap: true, ..self }
    }

    /// With that much dynamic shared memory.
    pub fn shared(self, bytes: usize) -> Launch {
        Launch { shared: bytes, ..self }
    }
}

/// A value that a kernel takes.
pub trait Argument {
    /// Where it lies, and how long it is.
    fn place(&self) -> (*mut c_void, usize) {
        (std::ptr::from_ref(self).cast_mut().cast(), size_of_val(self))
    }
}

impl Argument for i32 {}
impl Argument for i64 {}
impl Argument for f32 {}
/// A device address.
impl Argument for u64 {}

struct Function {
    handle: sys::CUfunction,
    parameters: Vec<usize>,
    /// Dynamic shared memory that it has been allowed.
    shared: usize,
}

/// A GPU that is ready. Everything happens on one stream, in order.
pub struct Device {
    name: String,
    context: sys::CUcontext,
    handle: sys::CUdevice,
    pub stream: sys::CUstream,
    /// Machine code for this very chip is embedded.
    has_cubin: bool,
    modules: RefCell<HashMap<&'static str, sys::CUmodule>>,
    functions: RefCell<HashMap<String, Function>>,
    /// The file of the kernel that was queued last.
    last: Cell<&'static str>,
    /// Where memory comes from at present.
    pool: RefCell<Pool>,
    /// [`PINNED`] bytes of host memory that copies need not stage: a token's logits come sooner.
    pinned: *mut c_void,
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block may have.
    pub max_shared: usize,
}

impl Device {
    /// Gets device `ordinal` ready.
    pub fn open(ordinal: usize) -> Result<Rc<Device>, DeviceError> {
        if !libraries::driver() {
            return Err(DeviceError::NoDriver);
        }
        check("cuInit", result::init())?;
        let mut version = 0;
        // SAFETY: writes one int.
        check("driver version", unsafe { sys::cuDriverGetVersion(&mut version) }.result())?;
        if version < 12000 {
            return Err(DeviceError::OldDriver { version });
        }
        let count = check("device count", result::device::get_count())?.max(0) as usize;
        if ordinal >= count {
            return Err(DeviceError::NoDevice { ordinal, count });
        }
        let handle = check("device", result::device::get(ordinal as i32))?;
        let name = check("device name", result::device::get_name(handle))?;
        let attribute = |which| {
            // SAFETY: the device exists.
            check("device attribute", unsafe { result::device::get_attribute(handle, which) })
        };
        use sys::CUdevice_attribute_enum as Which;
        let major = attribute(Which::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Which::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            return Err(DeviceError::OldDevice { name, major, minor });
        }
        let multiprocessors = attribute(Which::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize;
        let max_shared =
            attribute(Which::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.max(48 << 10) as usize;
        // SAFETY: the device exists; the context is released when this is dropped.
        let context = check("context", unsafe { result::primary_ctx::retain(handle) })?;
        // SAFETY: the context was just retained.
        check("context", unsafe { result::ctx::set_current(context) })?;
        let stream = check("stream", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        // SAFETY: freed when this is dropped.
        let pinned = check("pinned memory", unsafe { result::malloc_host(PINNED, 0) })?;
        // SAFETY: as many bytes were just allocated.
        unsafe { pinned.cast::<u8>().write_bytes(0, PINNED) };
        Ok(Rc::new(Device {
            name,
            context,
            handle,
            stream,
            has_cubin: (major, minor) == (9, 0),
            modules: RefCell::default(),
            functions: RefCell::default(),
            last: Cell::default(),
            pool: RefCell::default(),
            pinned,
            multiprocessors,
            max_shared,
        }))
    }

    /// What the maker calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `bytes` of uninitialized memory.
    pub fn take(&self, bytes: usize) -> Result<Block, DeviceError> {
        self.pool.borrow().take(bytes)
    }

    /// Takes memory from `pool` from now on; returns the pool used so far.
    pub fn swap_pool(&self, pool: Pool) -> Pool {
        self.pool.replace(pool)
    }

    /// Copies numbers to the device. They may change as soon as this returns.
    pub fn upload<T: bytemuck::Pod>(&self, block: &Block, numbers: &[T]) -> Result<(), DeviceError> {
        if numbers.is_empty() {
            return Ok(());
        }
        // SAFETY: callers take blocks for the numbers they upload; pageable memory is staged before the call returns.
        check("copy to the device", unsafe { result::memcpy_htod_async(block.ptr, numbers, self.stream) })
    }

    /// Copies numbers from the device once all that is queued has run.
    pub fn download<T: bytemuck::Pod>(&self, from: sys::CUdeviceptr, numbers: &mut [T]) -> Result<(), DeviceError> {
        let bytes = size_of_val(numbers);
        if bytes == 0 {
            return Ok(());
        }
        if bytes > PINNED {
            // SAFETY: callers read what they have written; the borrow ends after the synchronization.
            check("copy from the device", unsafe { result::memcpy_dtoh_async(numbers, from, self.stream) })?;
            return self.synchronize();
        }
        // SAFETY: `pinned` has room for as many bytes, nobody else has them, and they are written before they are read.
        let pinned = unsafe { std::slice::from_raw_parts_mut(self.pinned.cast::<u8>(), bytes) };
        // SAFETY: the borrow ends after the synchronization.
        check("copy from the device", unsafe { result::memcpy_dtoh_async(pinned, from, self.stream) })?;
        self.synchronize()?;
        bytemuck::cast_slice_mut(numbers).copy_from_slice(pinned);
        Ok(())
    }

    /// Fills the first `bytes` with zeros.
    pub fn clear(&self, block: &Block, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the block holds as many bytes by the caller's word.
        check("clearing memory", unsafe { result::memset_d8_async(block.ptr, 0, bytes, self.stream) })
    }

    /// Copies `bytes` on the device.
    pub fn copy(&self, to: sys::CUdeviceptr, from: sys::CUdeviceptr, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: callers copy between live blocks of that length.
        check("copy on the device", unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) })
    }

    /// Waits for all that is queued.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as this.
        check("running kernels", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Queues kernel `name` of `cuda/{file}.cu`. Number and sizes of the arguments are checked against what the kernel
    /// declares; that addresses and extents are right is the caller's word, and what `tests/operations/` tests.
    pub fn launch(
        &self,
        file: &'static str,
        name: &str,
        how: Launch,
        arguments: &[&dyn Argument],
    ) -> Result<(), DeviceError> {
        if how.grid.contains(&0) {
            return Ok(());
        }
        self.last.set(file);
        let mut functions = self.functions.borrow_mut();
        if !functions.contains_key(name) {
            functions.insert(name.to_owned(), self.function(file, name)?);
        }
        let Some(function) = functions.get_mut(name) else { unreachable!("it was just put there") };
        let (mut pointers, sizes): (Vec<_>, Vec<_>) = arguments.iter().map(|a| a.place()).unzip();
        if sizes != function.parameters {
            let expected = function.parameters.clone();
            return Err(DeviceError::Arguments { name: name.to_owned(), expected, found: sizes });
        }
        if how.shared > function.shared {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            let allowed =
                unsafe { result::function::set_function_attribute(function.handle, attribute, how.shared as i32) };
            check(name, allowed)?;
            function.shared = how.shared;
        }
        let [x, y, z] = how.grid.map(|n| n as u32);
        // Programmatic dependent launch, where the machine code has the instructions that make it safe.
        let overlap = how.overlap && self.has_cubin;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: how.block as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: how.shared as u32,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(overlap),
        };
        // SAFETY: the arguments have the sizes that the kernel declares; they and the attribute outlive the call, which
        // copies them.
        let answer = unsafe {
            sys::cuLaunchKernelEx(&raw const config, function.handle, pointers.as_mut_ptr(), std::ptr::null_mut())
        };
        check(name, answer.result())
    }

    /// Whether the kernel queued last is of one of these files of `cuda/`.
    pub fn ended_with(&self, files: &[&str]) -> bool {
        files.contains(&self.last.get())
    }

    /// Whether there is such a kernel for this chip.
    pub fn has(&self, file: &'static str, name: &str) -> bool {
        self.functions.borrow().contains_key(name) || self.function(file, name).is_ok()
    }

    fn function(&self, file: &'static str, name: &str) -> Result<Function, DeviceError> {
        let missing = || DeviceError::Driver { during: format!("kernel {name}"), message: format!("not in {file}") };
        let module = MODULES.iter().find(|m| m.name == file).ok_or_else(missing)?;
        let parameters = module.parameters(name).ok_or_else(missing)?;
        let loaded = self.module(module)?;
        let c_name = CString::new(name).map_err(|_| missing())?;
        // SAFETY: the module is loaded and stays so.
        let handle = check(name, unsafe { result::module::get_function(loaded, c_name) })?;
        // 48 KiB are everybody's without asking.
        Ok(Function { handle, parameters, shared: 48 << 10 })
    }

    fn module(&self, module: &'static Module) -> Result<sys::CUmodule, DeviceError> {
        if let Some(loaded) = self.modules.borrow().get(module.name) {
            return Ok(*loaded);
        }
        let during = format!("loading kernels of {}", module.name);
        let image = module.image(self.has_cubin);
        // SAFETY: a whole cubin, which says how long it is, or text that ends with a NUL.
        let loaded = check(&during, unsafe { result::module::load_data(image.as_ptr().cast()) })?;
        self.modules.borrow_mut().insert(module.name, loaded);
        Ok(loaded)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Idle memory goes first, while the context is still there.
        self.pool.take();
        // SAFETY: made by `open`, and nothing that uses them is left: blocks hold no work, recordings hold this device.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for module in self.modules.take().into_values() {
                let _ = result::module::unload(module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::free_host(self.pinned);
            let _ = result::ctx::set_current(self.context);
            let _ = result::primary_ctx::release(self.handle);
        }
    }
}
