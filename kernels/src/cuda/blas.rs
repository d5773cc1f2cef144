//! bfloat16 matrix products by NVIDIA's cuBLAS, where it is installed.

use super::device::Device;
use super::memory::Block;
use super::rows::{Kind, Rows};
use super::{DeviceError, libraries};
use cudarc::cublas::{result, sys};
use cudarc::driver::sys::CUdeviceptr;

/// Bytes that cuBLAS may work in; NVIDIA's recommendation for compute capability 9.0.
const WORKSPACE: usize = 32 << 20;

/// A handle of the library.
pub struct Blas {
    handle: sys::cublasHandle_t,
    _workspace: Block,
}

fn check<T>(answer: Result<T, result::CublasError>) -> Result<T, DeviceError> {
    answer.map_err(|e| DeviceError::Blas { message: format!("{e:?}") })
}

impl Blas {
    /// Opens the library; `None` where it is not installed.
    pub fn open(device: &Device) -> Result<Option<Blas>, DeviceError> {
        if !libraries::cublas() {
            return Ok(None);
        }
        let workspace = device.take(WORKSPACE)?;
        let handle = check(result::create_handle())?;
        // SAFETY: stream and workspace outlive the handle, which `Drop` destroys.
        unsafe {
            check(result::set_stream(handle, device.stream.cast()))?;
            check(sys::cublasSetWorkspace_v2(handle, workspace.ptr as *mut _, WORKSPACE).result())?;
        }
        Ok(Some(Blas { handle, _workspace: workspace }))
    }

    /// `y = x W^T`, or `y += x W^T`, for bfloat16 x (tokens, k) and W (y's columns, k) at `w`, rows `stride` apart;
    /// float32 sums.
    pub fn product(
        &self,
        x: &Rows,
        w: CUdeviceptr,
        stride: usize,
        y: &Rows,
        accumulate: bool,
    ) -> Result<(), DeviceError> {
        let (alpha, beta) = (1.0f32, f32::from(u8::from(accumulate)));
        let kind = |k| match k {
            Kind::F32 => sys::cudaDataType::CUDA_R_32F,
            Kind::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        use sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        // cuBLAS thinks in columns: y^T (columns, tokens) = W (columns, k) x^T (k, tokens).
        // SAFETY: x, W and y have these extents; alpha and beta are read before the call returns.
        check(unsafe {
            result::gemm_ex(
                self.handle,
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                y.cols as i32,
                x.rows as i32,
                x.cols as i32,
                (&raw const alpha).cast(),
                w as *const _,
                kind(Kind::Bf16),
                stride as i32,
                x.ptr() as *const _,
                kind(x.kind),
                x.stride as i32,
                (&raw const beta).cast(),
                y.ptr() as *mut _,
                kind(y.kind),
                y.stride as i32,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by `open`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
