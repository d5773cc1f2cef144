//! What a pickle describes, as inert data.
//!
//! Values live in one arena and refer to each other by index, so a value referred to a million times is one value, a
//! list may contain itself, and neither walking nor dropping recurses.

use super::globals::{Known, Meaning};

/// More fields than the classes of a distributed checkpoint have.
const MAX_FIELDS: usize = 64;

/// Index of a value in its [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub(super) u32);

/// One value. Strings and bytes are borrowed from the pickle.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian two's complement.
    Long(&'a [u8]),
    Float(f64),
    Str(&'a str),
    /// Bytes mean nothing in a checkpoint; their content is not kept.
    Bytes,
    /// A range of [`Arena::pool`].
    Tuple {
        start: u32,
        len: u32,
    },
    /// An index into [`Arena::lists`]; sets are kept so too.
    List(u32),
    /// An index into [`Arena::dicts`].
    Dict(u32),
    Global(&'static Known),
    /// A reference to something outside the pickle, by its description.
    Persistent(Id),
    /// An index into [`Arena::calls`].
    Call(u32),
}

/// A call that was written down, never made: `function(*arguments)`, then BUILD with `state`, then SETITEMS.
#[derive(Debug)]
pub(super) struct Call {
    pub function: &'static Known,
    pub arguments: Id,
    pub state: Option<Id>,
    pub items: Vec<(Id, Id)>,
}

/// All values of one pickle.
#[derive(Debug, Default)]
pub(super) struct Arena<'a> {
    pub values: Vec<Value<'a>>,
    pub pool: Vec<Id>,
    pub lists: Vec<Vec<Id>>,
    pub dicts: Vec<Vec<(Id, Id)>>,
    pub calls: Vec<Call>,
}

impl<'a> Arena<'a> {
    /// The value at `id`. Ids come only from this arena.
    pub(super) fn get(&self, id: Id) -> Value<'a> {
        self.values[id.0 as usize]
    }

    /// The string at `id`.
    pub(super) fn str(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The integer at `id`.
    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(i) => Some(i),
            _ => None,
        }
    }

    /// The elements of a tuple.
    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple { start, len } => Some(&self.pool[start as usize..start as usize + len as usize]),
            _ => None,
        }
    }

    /// The elements of a tuple, a list or a `torch.Size`.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(list) => Some(&self.lists[list as usize]),
            Value::Call(call) => {
                let call = &self.calls[call as usize];
                match (call.function.meaning, self.tuple(call.arguments)?) {
                    (Meaning::Size, [extents]) => self.tuple(*extents),
                    _ => None,
                }
            }
            _ => self.tuple(id),
        }
    }

    /// The items of a dict or an `OrderedDict`.
    pub(super) fn items(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(dict) => Some(&self.dicts[dict as usize]),
            Value::Call(call) => {
                let call = &self.calls[call as usize];
                let empty = self.tuple(call.arguments)?.is_empty();
                (matches!(call.function.meaning, Meaning::Mapping) && empty).then_some(&call.items)
            }
            _ => None,
        }
    }

    /// The call at `id`.
    pub(super) fn call(&self, id: Id) -> Option<&Call> {
        match self.get(id) {
            Value::Call(call) => Some(&self.calls[call as usize]),
            _ => None,
        }
    }

    /// The value under a string key; of equal keys the last, as in Python.
    pub(super) fn lookup(&self, dict: Id, key: &str) -> Option<Id> {
        self.items(dict)?.iter().rev().find(|(k, _)| self.str(*k) == Some(key)).map(|(_, value)| *value)
    }

    /// A field of an instance of the class `class`, whose state is its `__dict__`.
    pub(super) fn field(&self, object: Id, class: &str, field: &str) -> Option<Id> {
        let call = self.call(object)?;
        if call.function.name != class {
            return None;
        }
        // One state may serve any number of instances: with more items than any class has fields, it is none.
        let state = call.state.filter(|&state| self.items(state).is_some_and(|items| items.len() <= MAX_FIELDS))?;
        self.lookup(state, field)
    }

    /// What stands at `id`, in a few words for a message.
    pub(super) fn describe(&self, id: Id) -> String {
        match self.get(id) {
            Value::None => "None".into(),
            Value::Bool(_) => "a bool".into(),
            Value::Int(i) => format!("the integer {i}"),
            Value::Long(_) => "a long integer".into(),
            Value::Float(f) => format!("the float {f}"),
            Value::Str(_) => "a string".into(),
            Value::Bytes => "bytes".into(),
            Value::Tuple { len, .. } => format!("a tuple of {len}"),
            Value::List(list) => format!("a list of {}", self.lists[list as usize].len()),
            Value::Dict(dict) => format!("a dict of {}", self.dicts[dict as usize].len()),
            Value::Global(known) => format!("`{}.{}`", known.module, known.name),
            Value::Persistent(_) => "a storage".into(),
            Value::Call(call) => {
                let known = self.calls[call as usize].function;
                match known.meaning {
                    Meaning::OtherTensor(words) => words.into(),
                    Meaning::Tensor | Meaning::TensorOfDtype | Meaning::Parameter => "a tensor".into(),
                    _ => format!("an object of `{}.{}`", known.module, known.name),
                }
            }
        }
    }
}
