//! The compiled kernels inside this binary.

use std::io::Read;

/// A kernel file in both forms it is embedded in, compressed.
pub struct Module {
    /// `cuda/NAME.cu`.
    pub name: &'static str,
    /// PTX for any chip from compute capability 8.0; the driver compiles it when it is loaded.
    ptx: &'static [u8],
    /// Machine code for compute capability 9.0.
    cubin: &'static [u8],
}

/// Lines `file kernel bytes,bytes,...`: what parameters each kernel declares. Written by `cuda/build.py`.
const KERNELS: &str = include_str!("../../cuda/KERNELS");

macro_rules! modules {
    ($($name:literal)*) => {
        /// Every file of `cuda/`.
        pub const MODULES: &[Module] = &[$(Module {
            name: $name,
            ptx: include_bytes!(concat!("../../cuda/ptx/", $name, ".ptx.gz")),
            cubin: include_bytes!(concat!("../../cuda/cubin/", $name, ".sm_90a.cubin.gz")),
        },)*];
    };
}

modules! {
    "attention_decode" "attention_exact" "attention_prefill" "conv1d" "dequantize" "differential" "distance"
    "elementwise" "gemm_bf16" "gemm_f32" "gemv" "gemv_quantized" "gram" "head_norm" "headed_scan" "mega" "norm"
    "recurrence" "repack" "rope" "scan" "ssm_step"
}

impl Module {
    /// Sizes in bytes of the parameters that kernel `name` declares; `None` if there is no such kernel here.
    pub fn parameters(&self, name: &str) -> Option<Vec<usize>> {
        // Kernels for Hopper alone are not in the PTX, but have the parameters of those they replace.
        let name = name.trim_end_matches("_sm90a");
        KERNELS.lines().find_map(|line| {
            let mut words = line.split(' ');
            let here = words.next() == Some(self.name) && words.next() == Some(name);
            here.then(|| words.next()?.split(',').map(|n| n.parse().ok()).collect()).flatten()
        })
    }

    /// What the driver loads: machine code, or PTX text that ends with a NUL.
    pub fn image(&self, for_hopper: bool) -> Vec<u8> {
        let mut image = Vec::new();
        // Embedded by the build: it cannot be damaged unless the whole binary is.
        let _ = flate2::read::GzDecoder::new(if for_hopper { self.cubin } else { self.ptx }).read_to_end(&mut image);
        image.push(0);
        image
    }
}
