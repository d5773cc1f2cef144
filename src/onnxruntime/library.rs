//! Finds libonnxruntime. It is no part of this program: PyPI's wheel has it, distributions have it, users build their own.

use crate::Result;
use ort::environment::Environment;
use ort::operator::OperatorDomain;
use ort::sys::OrtApiBase;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tamborim_kernels::search::{children, site_packages};

/// Minor version of ONNX Runtime from which custom operators may lack an input: before, loading a model with one that does, as
/// scans without a gate do, ends the process.
const OPTIONAL_INPUTS: u32 = 24;

/// Names the library, before any other place is looked at.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// ONNX Runtime, ready for sessions.
pub struct Runtime {
    /// Its environment, of which a process has one.
    pub environment: Environment,
    /// Of the library.
    pub version: String,
}

/// Opens the library, the first time.
pub fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::result::Result<Runtime, String>> = OnceLock::new();
    Ok(RUNTIME.get_or_init(open).as_ref().map_err(Clone::clone)?)
}

impl Runtime {
    /// Our operators, for a session; none where the functions that models carry must do.
    pub fn operators(&self) -> Result<Option<OperatorDomain>> {
        let mut numbers = self.version.split('.').map_while(|part| part.parse::<u32>().ok());
        let old = matches!((numbers.next(), numbers.next()), (Some(1), Some(minor)) if minor < OPTIONAL_INPUTS);
        Ok(if old { None } else { Some(tamborim_ops::domain()?) })
    }
}

fn open() -> std::result::Result<Runtime, String> {
    let (path, base) = match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => (PathBuf::from(&path), load(Path::new(&path)).map_err(|e| format!("{VARIABLE}: {e}"))?),
        None => find()?,
    };
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    // SAFETY: what the library's OrtGetApiBase returned; the library is never closed.
    unsafe { tamborim_ops::use_runtime(base) }.map_err(|e| at(&e))?;
    // SAFETY: as above; the version is a C string that lives as long as the library.
    let version = unsafe { CStr::from_ptr(((*base).GetVersionString)()) }.to_string_lossy().into_owned();
    // What it logs is either no error, or an error that is returned as well.
    let silent = std::sync::Arc::new(|_: ort::logging::LogLevel, _: &str, _: &str, _: &str, _: &str| {});
    let environment = ort::init().with_name("tamborim").with_telemetry(false).with_logger(silent).build();
    Ok(Runtime { environment: environment.map_err(|e| at(&e))?, version })
}

/// The first library that can be opened: by the dynamic linker's own search, then among Python's packages.
fn find() -> std::result::Result<(PathBuf, *const OrtApiBase), String> {
    let named = ["libonnxruntime.so", "libonnxruntime.so.1", "libonnxruntime.dylib"].map(PathBuf::from);
    let installed = site_packages().into_iter().flat_map(|p| children(&p.join("onnxruntime/capi"), "libonnxruntime."));
    named.into_iter().chain(installed).find_map(|path| load(&path).ok().map(|base| (path, base))).ok_or_else(|| {
        format!("expected ONNX Runtime to run an .onnx, found none: pip install onnxruntime, or set {VARIABLE} to a libonnxruntime.so")
    })
}

/// Opens a library for the rest of the program's life.
fn load(path: &Path) -> std::result::Result<*const OrtApiBase, String> {
    let at = |found: &dyn std::fmt::Display| format!("{}: expected libonnxruntime, found {found}", path.display());
    // SAFETY: ONNX Runtime's initializers do not depend on this program's state.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| match std::error::Error::source(&e) {
        Some(why) => at(why),
        None => at(&e),
    })?;
    // SAFETY: the type that ONNX Runtime's C interface gives the function.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase") };
    // SAFETY: it may be called at any time.
    let base = unsafe { base.map_err(|_| at(&"no OrtGetApiBase in it"))?() };
    std::mem::forget(library);
    if base.is_null() { Err(at(&"none that works")) } else { Ok(base) }
}
