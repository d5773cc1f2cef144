//! Finds NVIDIA's libraries, wherever a driver, a toolkit or a Python environment has put them.
//!
//! Each is opened once by its full path with its symbols shared, so that a later `dlopen` by name, cudarc's own, meets the
//! library that is already there. Only the driver's is needed; cuBLAS makes fast prefill faster.

use crate::search::{children, environment_paths, site_packages};
use std::path::{Path, PathBuf};

/// Opens the driver's library. Whether there is one.
pub fn driver() -> bool {
    open("cuda", &["1"]);
    // SAFETY: only looks whether a library of that name can be opened.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// Opens cuBLAS and what it needs. Whether it is there.
pub fn cublas() -> bool {
    open("cublasLt", &["13", "12"]);
    open("cublas", &["13", "12"]);
    // SAFETY: only looks whether a library of that name can be opened.
    unsafe { cudarc::cublas::sys::is_culib_present() }
}

/// Opens the first `lib{name}.so.{version}` found, newest version first, for the rest of the program's life.
fn open(name: &str, versions: &[&str]) {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    for version in versions {
        let file = format!("lib{name}.so.{version}");
        let inside = |folders: Vec<PathBuf>| folders.into_iter().map(|f| f.join(&file)).filter(|path| path.is_file());
        // What the user names, then the dynamic linker's own search, then the usual places.
        let named = inside(environment_paths("TAMBORIM_CUDA_PATH"));
        for path in named.chain([PathBuf::from(&file)]).chain(inside(folders())) {
            // SAFETY: NVIDIA's libraries have no initializers that depend on this program's state.
            if let Ok(library) = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
                std::mem::forget(library);
                return;
            }
        }
    }
}

/// Where else to look, in order: toolkits named by the environment, Python environments, usual places.
fn folders() -> Vec<PathBuf> {
    let paths = environment_paths;
    let mut folders = Vec::new();
    for toolkit in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().flat_map(paths) {
        folders.extend(["lib64", "lib", "targets/x86_64-linux/lib"].map(|lib| toolkit.join(lib)));
    }
    for packages in site_packages() {
        folders.extend(children(&packages.join("nvidia"), "").into_iter().map(|wheel| wheel.join("lib")));
    }
    for toolkit in children(Path::new("/usr/local"), "cuda") {
        folders.extend(["lib64", "targets/x86_64-linux/lib"].map(|lib| toolkit.join(lib)));
    }
    let usual = ["/usr/lib/x86_64-linux-gnu", "/usr/local/nvidia/lib", "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib"];
    folders.extend(usual.map(PathBuf::from));
    folders
}
