//! Tensors and storages, read from the calls that a pickle wrote down.

use super::{
    Mismatch,
    globals::{Dtype, Meaning, UNTYPED},
    value::{Arena, Id, Value},
};

/// A storage as BINPERSID names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub dtype: &'static Dtype,
    /// Elements of the whole storage.
    pub elements: usize,
    /// First element and count of a window on it, in the legacy format.
    pub window: Option<(usize, usize)>,
}

/// A dense tensor as the pickle describes it; nothing of it is checked against the storage.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub storage: Storage<'a>,
    pub dtype: &'static Dtype,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// More dimensions than torch computes with. A shape may be long and serve many tensors, each of which keeps a copy.
pub(super) const MAX_RANK: usize = 64;

/// The longest key of a storage; keys are numbers, and each tensor keeps its own.
const LONGEST_KEY: usize = 64;

/// More layers than any writer wraps around a tensor (a parameter with attributes has two).
const MAX_WRAPPERS: usize = 4;

/// The tensor at `id`, freed of `Parameter` and the like.
pub(super) fn tensor<'a>(arena: &Arena<'a>, mut id: Id) -> Result<Tensor<'a>, Mismatch> {
    let not_a_tensor = |id| Mismatch::new("a dense tensor", arena.describe(id));
    for _ in 0..MAX_WRAPPERS {
        let call = arena.call(id).ok_or_else(|| not_a_tensor(id))?;
        let arguments = arena.tuple(call.arguments).unwrap_or_default();
        match (call.function.meaning, arguments) {
            (Meaning::Parameter, [data, ..]) => id = *data,
            (Meaning::TensorFromType, [function, _class, inner, ..]) => {
                return match arena.get(*function) {
                    Value::Global(known) => rebuilt(arena, known.meaning, arena.tuple(*inner).unwrap_or_default()),
                    _ => None,
                }
                .unwrap_or_else(|| Err(not_a_tensor(*function)));
            }
            (meaning, arguments) => {
                return rebuilt(arena, meaning, arguments).unwrap_or_else(|| Err(not_a_tensor(id)));
            }
        }
    }
    Err(Mismatch::new("a dense tensor", "wrappers in wrappers"))
}

/// What `_rebuild_tensor*(*arguments)` would return; `None` where it is not called or lacks arguments.
fn rebuilt<'a>(arena: &Arena<'a>, meaning: Meaning, arguments: &[Id]) -> Option<Result<Tensor<'a>, Mismatch>> {
    let [storage_id, offset, shape, strides, rest @ ..] = arguments else { return None };
    let declared = match (meaning, rest) {
        (Meaning::Tensor, _) => None,
        (Meaning::TensorOfDtype, [_requires_grad, _hooks, dtype, ..]) => match arena.get(*dtype) {
            Value::Global(known) => match known.meaning {
                Meaning::Dtype(dtype) => Some(dtype),
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    };
    let integers = |what: &str, id: Id| -> Result<Vec<i64>, Mismatch> {
        let list = arena.sequence(id).filter(|ids| ids.len() <= MAX_RANK);
        let list = list.and_then(|ids| ids.iter().map(|&id| arena.int(id)).collect());
        list.ok_or_else(|| Mismatch::new(format!("a {what} of at most {MAX_RANK} integers"), arena.describe(id)))
    };
    Some((|| {
        let mut storage = storage(arena, *storage_id)?;
        let dtype = declared.unwrap_or(storage.dtype);
        if let (Some(dtype), true) = (declared, *storage.dtype == UNTYPED) {
            // An untyped storage counts bytes; the tensor counts elements.
            storage.elements /= dtype.size;
            storage.dtype = dtype;
        }
        if *dtype != *storage.dtype {
            return Err(Mismatch::new(
                format!("a storage of {}", dtype.name),
                format!("one of {}", storage.dtype.name),
            ));
        }
        Ok(Tensor {
            storage,
            dtype,
            offset: arena.int(*offset).ok_or_else(|| Mismatch::new("a storage offset", arena.describe(*offset)))?,
            shape: integers("shape", *shape)?,
            strides: integers("stride", *strides)?,
        })
    })())
}

/// The storage at `id`: `("storage", class, key, location, elements[, window])`, torch/serialization.py.
pub(super) fn storage<'a>(arena: &Arena<'a>, id: Id) -> Result<Storage<'a>, Mismatch> {
    let unreadable = || Mismatch::new("a storage", arena.describe(id));
    let Value::Persistent(description) = arena.get(id) else { return Err(unreadable()) };
    let Some([tag, class, key, _location, elements, rest @ ..]) = arena.tuple(description) else {
        return Err(unreadable());
    };
    let dtype = match arena.get(*class) {
        Value::Global(known) => match known.meaning {
            Meaning::Storage(dtype) => dtype,
            _ => return Err(Mismatch::new("a storage class", arena.describe(*class))),
        },
        _ => return Err(Mismatch::new("a storage class", arena.describe(*class))),
    };
    let count = |id: Id| {
        let count = arena.int(id).and_then(|n| usize::try_from(n).ok());
        count.ok_or_else(|| Mismatch::new("a count of elements", arena.describe(id)))
    };
    let (Some("storage"), Some(key)) = (arena.str(*tag), arena.str(*key)) else { return Err(unreadable()) };
    if key.len() > LONGEST_KEY {
        return Err(Mismatch::new("a storage key", format!("one of {} bytes", key.len())));
    }
    let elements = count(*elements)?;
    let window = match rest.first().map(|&window| (window, arena.tuple(window))) {
        None => None,
        Some((_, Some([_key, offset, length]))) => {
            let (offset, length) = (count(*offset)?, count(*length)?);
            if offset.checked_add(length).is_none_or(|end| end > elements) {
                let found = format!("{length} from {offset}");
                return Err(Mismatch::new(format!("a window within its storage of {elements}"), found));
            }
            Some((offset, length))
        }
        Some((window, _)) if matches!(arena.get(window), Value::None) => None,
        Some((window, _)) => return Err(Mismatch::new("a window on a storage", arena.describe(window))),
    };
    Ok(Storage { key, dtype, elements, window })
}
