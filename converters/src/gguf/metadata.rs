//! Keys and values, and asking for them by type.

use super::value::{Array, Value};
use crate::{Error, Result};
use indexmap::IndexMap;
use std::path::{Path, PathBuf};

/// The keys of a file, in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    entries: IndexMap<String, Value>,
    /// Named in errors.
    path: PathBuf,
}

impl Metadata {
    /// No keys yet; errors will name `path`.
    pub fn new(path: &Path) -> Metadata {
        Metadata { entries: IndexMap::new(), path: path.to_owned() }
    }

    /// The file that these keys are of, or are for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`, whatever it is.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// All keys, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets a key: a new one goes to the end, a present one keeps its place and gives its old value back.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.entries.insert(key.into(), value.into())
    }

    /// Removes a key; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key)
    }

    /// The value of `key` as a `T`, `None` if there is no such key.
    ///
    /// # Errors
    /// [`Error::Damaged`] naming the key, if it has a value that is no `T`.
    pub fn optional<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(key, T::EXPECTED, value.describe())),
        }
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// [`Error::Damaged`] naming the key, if there is none or its value is no `T`.
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| self.wrong(key, T::EXPECTED, "no such key"))
    }

    /// The error that `key` has the wrong value.
    pub fn wrong(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::damaged(&self.path, format!("key {key}"), expected, found)
    }
}

/// What a value can be asked for as. Integers of any width and sign convert where the number fits.
pub trait FromValue<'a>: Sized {
    /// The type in words, for errors.
    const EXPECTED: &'static str;
    /// The value as this type, if it is one.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ident),*) => { $(
        impl FromValue<'_> for $type {
            const EXPECTED: &'static str = concat!("an integer in the range of ", stringify!($type));
            fn from_value(value: &Value) -> Option<$type> {
                value.integer()?.try_into().ok()
            }
        }
        impl FromValue<'_> for Vec<$type> {
            const EXPECTED: &'static str = concat!("an array of integers in the range of ", stringify!($type));
            fn from_value(value: &Value) -> Option<Vec<$type>> {
                let Value::Array(list) = value else { return None };
                list.integers()?.into_iter().map(|x| x.try_into().ok()).collect()
            }
        }
    )* };
}

integers!(u8, u16, u32, u64, usize, i32, i64);

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a float";
    fn from_value(value: &Value) -> Option<f32> {
        match *value {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a bool";
    fn from_value(value: &Value) -> Option<bool> {
        if let Value::Bool(x) = *value { Some(x) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Option<&'a str> {
        if let Value::String(x) = value { Some(x) } else { None }
    }
}

/// Arrays that can be borrowed as they are.
macro_rules! slices {
    ($($variant:ident $type:ty, $expected:literal;)*) => { $(
        impl<'a> FromValue<'a> for &'a [$type] {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &'a Value) -> Option<&'a [$type]> {
                if let Value::Array(Array::$variant(list)) = value { Some(list) } else { None }
            }
        }
    )* };
}

slices! {
    F32 f32, "an array of f32";
    Bool bool, "an array of bool";
    String String, "an array of strings";
}
