/// Why a GPU cannot be used, or stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no NVIDIA driver.
    #[error(
        "no NVIDIA driver: libcuda.so.1 was not found (install the driver, 525 or newer; nothing else of CUDA is needed)"
    )]
    NoDriver,
    /// The driver knows no such device.
    #[error("no CUDA device {ordinal}: the driver lists {count}")]
    NoDevice {
        /// Asked for.
        ordinal: usize,
        /// Devices that exist.
        count: usize,
    },
    /// The driver lacks a function that this program calls.
    #[error("the NVIDIA driver is too old: expected 525 (CUDA 12.0) or newer, found one of CUDA {}.{}", version / 1000, version % 1000 / 10)]
    OldDriver {
        /// As the driver gives it: 12020 is CUDA 12.2.
        version: i32,
    },
    /// The kernels need newer hardware.
    #[error("{name}: expected compute capability 8.0 (A100, RTX 30) or newer, found {major}.{minor}")]
    OldDevice {
        /// The device.
        name: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
    },
    /// There is no room.
    #[error("out of GPU memory: expected room for {bytes} bytes more, found {free} free")]
    OutOfMemory {
        /// Asked for.
        bytes: usize,
        /// Free when it failed.
        free: usize,
    },
    /// A model is larger in some way than the kernels are made for.
    #[error("the CUDA kernels take at most {limit} {what}, found {found}: use --device cpu")]
    Unsupported {
        /// What there are too many of.
        what: &'static str,
        /// At most.
        limit: usize,
        /// In this model.
        found: usize,
    },
    /// A call of the driver failed.
    #[error("CUDA: {during}: {message}")]
    Driver {
        /// What was being done.
        during: String,
        /// What the driver says.
        message: String,
    },
    /// A call of cuBLAS failed.
    #[error("cuBLAS: {message}")]
    Blas {
        /// Its status.
        message: String,
    },
    /// A kernel was launched with arguments that it does not declare.
    #[error("kernel {name}: expected parameters of {expected:?} bytes, found {found:?}")]
    Arguments {
        /// The kernel.
        name: String,
        /// Sizes that it declares.
        expected: Vec<usize>,
        /// Sizes that it was given.
        found: Vec<usize>,
    },
}
