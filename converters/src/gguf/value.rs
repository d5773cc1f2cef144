//! The values of keys.

use std::fmt;

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the type it holds")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A list of values of one type. Lists of lists do not occur (the format's reference reader refuses them).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the type it holds")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Type numbers in a file (`enum gguf_type`).
pub(super) mod id {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// For each element type: what arrays of it are, wherever that does not depend on the type.
macro_rules! each_array {
    ($array:expr, $list:ident => $result:expr) => {
        match $array {
            Array::U8($list) => $result,
            Array::I8($list) => $result,
            Array::U16($list) => $result,
            Array::I16($list) => $result,
            Array::U32($list) => $result,
            Array::I32($list) => $result,
            Array::F32($list) => $result,
            Array::Bool($list) => $result,
            Array::String($list) => $result,
            Array::U64($list) => $result,
            Array::I64($list) => $result,
            Array::F64($list) => $result,
        }
    };
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each_array!(self, list => list.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as integers, if they are integers.
    pub fn integers(&self) -> Option<Vec<i128>> {
        Some(match self {
            Array::U8(list) => list.iter().map(|&x| x.into()).collect(),
            Array::I8(list) => list.iter().map(|&x| x.into()).collect(),
            Array::U16(list) => list.iter().map(|&x| x.into()).collect(),
            Array::I16(list) => list.iter().map(|&x| x.into()).collect(),
            Array::U32(list) => list.iter().map(|&x| x.into()).collect(),
            Array::I32(list) => list.iter().map(|&x| x.into()).collect(),
            Array::U64(list) => list.iter().map(|&x| x.into()).collect(),
            Array::I64(list) => list.iter().map(|&x| x.into()).collect(),
            Array::F32(_) | Array::F64(_) | Array::Bool(_) | Array::String(_) => return None,
        })
    }

    /// The element type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "u8",
            Array::I8(_) => "i8",
            Array::U16(_) => "u16",
            Array::I16(_) => "i16",
            Array::U32(_) => "u32",
            Array::I32(_) => "i32",
            Array::F32(_) => "f32",
            Array::Bool(_) => "bool",
            Array::String(_) => "string",
            Array::U64(_) => "u64",
            Array::I64(_) => "i64",
            Array::F64(_) => "f64",
        }
    }

    pub(super) fn type_id(&self) -> u32 {
        match self {
            Array::U8(_) => id::U8,
            Array::I8(_) => id::I8,
            Array::U16(_) => id::U16,
            Array::I16(_) => id::I16,
            Array::U32(_) => id::U32,
            Array::I32(_) => id::I32,
            Array::F32(_) => id::F32,
            Array::Bool(_) => id::BOOL,
            Array::String(_) => id::STRING,
            Array::U64(_) => id::U64,
            Array::I64(_) => id::I64,
            Array::F64(_) => id::F64,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Array::U8(list) => out.extend_from_slice(list),
            Array::I8(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::U16(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::I16(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::U32(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::I32(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::F32(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::Bool(list) => out.extend(list.iter().map(|&x| u8::from(x))),
            Array::String(list) => list.iter().for_each(|x| write_string(x, out)),
            Array::U64(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::I64(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Array::F64(list) => list.iter().for_each(|x| out.extend(x.to_le_bytes())),
        }
    }
}

impl Value {
    /// The numbers of an array of integers of any width.
    pub fn integers(&self) -> Option<Vec<i128>> {
        if let Value::Array(list) = self { list.integers() } else { None }
    }

    /// The value as an integer, if it is one.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(x) => x.into(),
            Value::I8(x) => x.into(),
            Value::U16(x) => x.into(),
            Value::I16(x) => x.into(),
            Value::U32(x) => x.into(),
            Value::I32(x) => x.into(),
            Value::U64(x) => x.into(),
            Value::I64(x) => x.into(),
            _ => return None,
        })
    }

    pub(super) fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => id::U8,
            Value::I8(_) => id::I8,
            Value::U16(_) => id::U16,
            Value::I16(_) => id::I16,
            Value::U32(_) => id::U32,
            Value::I32(_) => id::I32,
            Value::F32(_) => id::F32,
            Value::Bool(_) => id::BOOL,
            Value::String(_) => id::STRING,
            Value::Array(_) => id::ARRAY,
            Value::U64(_) => id::U64,
            Value::I64(_) => id::I64,
            Value::F64(_) => id::F64,
        }
    }

    /// Type and size in words, with the number if it is a short one: "u32 7", "string", "array of 12 i32".
    pub(super) fn describe(&self) -> String {
        match self {
            Value::U8(x) => format!("u8 {x}"),
            Value::I8(x) => format!("i8 {x}"),
            Value::U16(x) => format!("u16 {x}"),
            Value::I16(x) => format!("i16 {x}"),
            Value::U32(x) => format!("u32 {x}"),
            Value::I32(x) => format!("i32 {x}"),
            Value::F32(x) => format!("f32 {x}"),
            Value::Bool(x) => format!("bool {x}"),
            Value::String(_) => "a string".into(),
            Value::Array(list) => format!("an array of {} {}", list.len(), list.type_name()),
            Value::U64(x) => format!("u64 {x}"),
            Value::I64(x) => format!("i64 {x}"),
            Value::F64(x) => format!("f64 {x}"),
        }
    }

    /// Appends the value as a file has it, after its type number.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(x) => out.push(*x),
            Value::I8(x) => out.extend(x.to_le_bytes()),
            Value::U16(x) => out.extend(x.to_le_bytes()),
            Value::I16(x) => out.extend(x.to_le_bytes()),
            Value::U32(x) => out.extend(x.to_le_bytes()),
            Value::I32(x) => out.extend(x.to_le_bytes()),
            Value::F32(x) => out.extend(x.to_le_bytes()),
            Value::Bool(x) => out.push(u8::from(*x)),
            Value::String(x) => write_string(x, out),
            Value::Array(list) => {
                out.extend(list.type_id().to_le_bytes());
                out.extend((list.len() as u64).to_le_bytes());
                list.write(out);
            }
            Value::U64(x) => out.extend(x.to_le_bytes()),
            Value::I64(x) => out.extend(x.to_le_bytes()),
            Value::F64(x) => out.extend(x.to_le_bytes()),
        }
    }
}

/// Appends a string as a file has it.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The whole value on one line; strings quoted, long arrays cut after three elements.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(x) => x.fmt(f),
            Value::I8(x) => x.fmt(f),
            Value::U16(x) => x.fmt(f),
            Value::I16(x) => x.fmt(f),
            Value::U32(x) => x.fmt(f),
            Value::I32(x) => x.fmt(f),
            Value::F32(x) => x.fmt(f),
            Value::Bool(x) => x.fmt(f),
            Value::String(x) => write!(f, "{x:?}"),
            Value::Array(list) if list.len() > 24 => {
                each_array!(list, list => write!(f, "[{:?}, {:?}, {:?}, ... {} in all]", list[0], list[1], list[2], list.len()))
            }
            Value::Array(list) => each_array!(list, list => write!(f, "{list:?}")),
            Value::U64(x) => x.fmt(f),
            Value::I64(x) => x.fmt(f),
            Value::F64(x) => x.fmt(f),
        }
    }
}

macro_rules! from_types {
    ($($variant:ident $type:ty),*) => { $(
        impl From<$type> for Value {
            fn from(x: $type) -> Value {
                Value::$variant(x)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(list: Vec<$type>) -> Value {
                Value::Array(Array::$variant(list))
            }
        }
    )* };
}

from_types!(U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool, String String, U64 u64, I64 i64, F64 f64);

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Value {
        Value::Array(array)
    }
}
