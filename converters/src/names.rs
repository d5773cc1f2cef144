//! Tensor names as files have them.

use crate::{Error, Result, error::quoted};
use indexmap::IndexMap;
use std::path::Path;

/// What wrappers put before every name: DistributedDataParallel, torch.compile, Lightning Fabric, a module attribute.
const WRAPPERS: [&str; 4] = ["module.", "_orig_mod.", "_forward_module.", "model."];

/// The longest name that is believed.
const LONGEST: usize = 512;

/// Refuses names that no writer gives and no message should repeat.
pub(crate) fn check(path: &Path, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > LONGEST || name.contains(char::is_control) {
        let expected = format!("a printable name of at most {LONGEST} bytes");
        return Err(Error::tensor(path, quoted(name), expected, format!("{} bytes", name.len())));
    }
    Ok(())
}

/// Refuses, at `place` of the file at `path`, a file name that is more than the name of a file in the same folder.
pub(crate) fn check_file(path: &Path, place: &str, file: &str) -> Result<()> {
    let plain = !file.is_empty()
        && file.len() <= LONGEST
        && !["..", "."].contains(&file)
        && !file.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control());
    if plain { Ok(()) } else { Err(Error::damaged(path, place, "the name of a file beside it", quoted(file))) }
}

/// The same values by names without wrappers, in any nesting. A prefix goes only where all names have it, so it never
/// makes two names equal, and a name that merely contains one keeps it.
pub(crate) fn without_wrappers<T>(map: IndexMap<String, T>) -> IndexMap<String, T> {
    let Some(first) = map.keys().next().cloned() else { return map };
    let mut cut = 0;
    while let Some(wrapper) = WRAPPERS.into_iter().find(|wrapper| first[cut..].starts_with(wrapper)) {
        let longer = cut + wrapper.len();
        if !map.keys().all(|name| name.starts_with(&first[..longer]) && name.len() > longer) {
            break;
        }
        cut = longer;
    }
    if cut == 0 { map } else { map.into_iter().map(|(name, value)| (name[cut..].to_owned(), value)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(names: &[&str]) -> Vec<String> {
        without_wrappers(names.iter().map(|n| (n.to_string(), ())).collect()).into_keys().collect()
    }

    #[test]
    fn wrappers_go_only_where_all_names_have_them() {
        assert_eq!(cut(&["module._orig_mod.a", "module._orig_mod.b.module.c"]), ["a", "b.module.c"]);
        assert_eq!(cut(&["model.layers.0.w", "lm_head.weight"]), ["model.layers.0.w", "lm_head.weight"]);
        assert_eq!(cut(&["model.model.w", "model.lm_head.weight"]), ["model.w", "lm_head.weight"]);
        assert_eq!(cut(&["model."]), ["model."]);
        assert_eq!(cut(&["modules.a", "modules.b"]), ["modules.a", "modules.b"]);
    }
}
