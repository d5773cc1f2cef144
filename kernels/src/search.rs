//! Where libraries may be that the dynamic linker does not find: in toolkits and Python environments.

use std::path::{Path, PathBuf};

/// The paths in an environment variable.
pub fn environment_paths(name: &str) -> Vec<PathBuf> {
    std::env::var_os(name).map(|v| std::env::split_paths(&v).collect()).unwrap_or_default()
}

/// What a folder holds whose name begins with `prefix`, in order of name, newest version first.
pub fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

/// Folders of installed Python packages: of the environment in use, then of every `python3` on the path.
pub fn site_packages() -> Vec<PathBuf> {
    let on_path = environment_paths("PATH").into_iter().filter(|bin| bin.join("python3").exists());
    let environments = on_path.filter_map(|bin| bin.parent().map(Path::to_owned));
    let in_use = environment_paths("VIRTUAL_ENV").into_iter().chain(environment_paths("CONDA_PREFIX"));
    let pythons = in_use.chain(environments).flat_map(|environment| children(&environment.join("lib"), "python3"));
    pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages))).collect()
}
