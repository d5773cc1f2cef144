//! The weights and the facts beside them, found in the object that a checkpoint's pickle describes.

use super::{
    globals::Meaning,
    value::{Arena, Id, Value},
};
use crate::{Error, Result, checkpoint::Extras, error::quoted};
use std::path::Path;

/// Keys of the root under which writers keep the weights.
pub(super) const ROOTS: [&str; 2] = ["model", "state_dict"];

/// The longest text that is a fact; one string may be the value of any number of keys.
const LONGEST_TEXT: usize = 256;

/// The items of the state dict below `root`, and where it was found.
///
/// A root is descended into while it has one of [`ROOTS`] (`{"model": {"state_dict": ...}}` occurs); a root that has
/// neither is the state dict itself.
pub(super) fn weights<'r>(path: &Path, arena: &'r Arena<'_>, root: Id) -> Result<(&'r [(Id, Id)], String)> {
    let mut place = String::from("root object");
    let mut id = root;
    for _ in 0..=ROOTS.len() {
        let Some(items) = arena.items(id) else {
            return Err(Error::damaged(path, place, "a dict of tensors", arena.describe(id)));
        };
        let below = ROOTS.into_iter().find_map(|key| Some((key, arena.lookup(id, key)?)));
        match below {
            Some((key, value)) => {
                place = format!("`{key}`");
                id = value;
            }
            None if items.is_empty() => return Err(Error::damaged(path, place, "tensors", "none")),
            None => {
                if id == root && !items.iter().any(|&(_, value)| is_tensor(arena, value)) {
                    let keys: Vec<String> = items.iter().take(6).map(|&(key, _)| name_or_kind(arena, key)).collect();
                    let expected = "`model`, `state_dict` or tensors by name";
                    return Err(Error::damaged(path, place, expected, format!("only {}", keys.join(", "))));
                }
                return Ok((items, place));
            }
        }
    }
    Err(Error::damaged(path, place, "tensors by name", "dicts in dicts"))
}

/// Whether something at `id` claims to be a tensor, sound or not.
fn is_tensor(arena: &Arena<'_>, id: Id) -> bool {
    use Meaning::{OtherTensor, Parameter, Tensor, TensorFromType, TensorOfDtype};
    arena.call(id).is_some_and(|call| {
        matches!(call.function.meaning, Tensor | TensorOfDtype | Parameter | TensorFromType | OtherTensor(_))
    })
}

fn name_or_kind(arena: &Arena<'_>, id: Id) -> String {
    arena.str(id).map_or_else(|| arena.describe(id), |name| format!("`{}`", quoted(name)))
}

/// The facts beside the weights: plain scalars of the root and of its `hparams`.
pub(super) fn extras(arena: &Arena<'_>, root: Id, container: String) -> Extras {
    let mut extras = Extras { container, ..Extras::default() };
    let mut note = |path: String, value: Id| {
        let text = match arena.get(value) {
            Value::Bool(b) => b.to_string(),
            Value::Int(i) => i.to_string(),
            Value::Float(f) => f.to_string(),
            Value::Str(s) if s.len() <= LONGEST_TEXT => s.to_owned(),
            _ => return,
        };
        extras.scalars.insert(path, text);
    };
    for &(key, value) in arena.items(root).unwrap_or_default() {
        let Some(name) = arena.str(key).filter(|name| name.len() <= LONGEST_TEXT) else { continue };
        if name != "hparams" {
            note(name.to_owned(), value);
            continue;
        }
        // argparse.Namespace keeps its values as state.
        let values = match arena.call(value) {
            Some(call) if matches!(call.function.meaning, Meaning::Namespace) => call.state,
            _ => Some(value),
        };
        for &(key, value) in values.and_then(|id| arena.items(id)).unwrap_or_default() {
            if let Some(key) = arena.str(key).filter(|key| key.len() <= LONGEST_TEXT) {
                note(format!("hparams.{key}"), value);
            }
        }
    }
    extras.model_name = extras.scalars.get("hparams.model_name").cloned();
    extras
}
