//! Reading a header's fields in order, each checked against the bytes that are left.

use super::value::{Array, Value, id};
use crate::error::quoted;
use crate::{Error, Result};
use std::path::Path;

/// The reference reader's limit on a string's length.
const MAX_STRING: u64 = 1 << 30;

/// The reference reader's limit on an array's length.
const MAX_ARRAY: u64 = 1 << 30;

/// A position in a header. Errors name the file, the byte and what was being read.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], path: &'a Path) -> Cursor<'a> {
        Cursor { bytes, at: 0, path }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The error that `what`, which ends or stands here, is not as it should be.
    pub(super) fn wrong(&self, what: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::damaged(self.path, format!("{what} at byte {}", self.at), expected, found)
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(self.wrong(what, format!("{n} bytes"), format!("end of file after {}", self.remaining()))),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.take(N, what)?;
        Ok(*bytes.first_chunk().unwrap_or(&[0; N]))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// How many things follow, of at least `least` bytes each: never more than the file has room for, so that what is
    /// allocated for them is in proportion to the file.
    pub(super) fn count(&mut self, least: usize, what: &str) -> Result<usize> {
        let n = self.u64(what)?;
        let room = self.remaining() / least;
        match usize::try_from(n) {
            Ok(n) if n <= room => Ok(n),
            _ => Err(self.wrong(what, format!("at most {room}, for which the file has room"), n.to_string())),
        }
    }

    pub(super) fn string(&mut self, what: &str) -> Result<&'a str> {
        let n = self.u64(what)?;
        if n > MAX_STRING {
            return Err(self.wrong(what, "a string of at most 1 GiB", format!("{n} bytes")));
        }
        let bytes = self.take(n as usize, what)?;
        std::str::from_utf8(bytes)
            .map_err(|e| self.wrong(what, "UTF-8", format!("another byte sequence {} bytes in", e.valid_up_to())))
    }

    fn bool(&mut self, what: &str) -> Result<bool> {
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [x] => Err(self.wrong(what, "a bool, 0 or 1", x.to_string())),
        }
    }

    /// The value of `key`, with its type number.
    pub(super) fn value(&mut self, key: &str) -> Result<Value> {
        let what = format!("key {}", quoted(key));
        let kind = self.u32(&what)?;
        Ok(match kind {
            id::U8 => Value::U8(u8::from_le_bytes(self.array(&what)?)),
            id::I8 => Value::I8(i8::from_le_bytes(self.array(&what)?)),
            id::U16 => Value::U16(u16::from_le_bytes(self.array(&what)?)),
            id::I16 => Value::I16(i16::from_le_bytes(self.array(&what)?)),
            id::U32 => Value::U32(u32::from_le_bytes(self.array(&what)?)),
            id::I32 => Value::I32(i32::from_le_bytes(self.array(&what)?)),
            id::F32 => Value::F32(f32::from_le_bytes(self.array(&what)?)),
            id::BOOL => Value::Bool(self.bool(&what)?),
            id::STRING => Value::String(self.string(&what)?.to_owned()),
            id::ARRAY => Value::Array(self.values(&what)?),
            id::U64 => Value::U64(u64::from_le_bytes(self.array(&what)?)),
            id::I64 => Value::I64(i64::from_le_bytes(self.array(&what)?)),
            id::F64 => Value::F64(f64::from_le_bytes(self.array(&what)?)),
            other => return Err(self.wrong(&what, "a value type from 0 to 12", other.to_string())),
        })
    }

    fn values(&mut self, what: &str) -> Result<Array> {
        let kind = self.u32(what)?;
        let least = match kind {
            id::U8 | id::I8 | id::BOOL => 1,
            id::U16 | id::I16 => 2,
            id::U32 | id::I32 | id::F32 => 4,
            id::STRING | id::U64 | id::I64 | id::F64 => 8,
            id::ARRAY => return Err(self.wrong(what, "an array of plain values", "an array of arrays")),
            other => return Err(self.wrong(what, "an element type from 0 to 12", other.to_string())),
        };
        let n = self.count(least, what)?;
        if n as u64 > MAX_ARRAY {
            return Err(self.wrong(what, "an array of at most 2^30 elements", n.to_string()));
        }
        Ok(match kind {
            id::U8 => Array::U8(self.take(n, what)?.to_vec()),
            id::I8 => Array::I8(self.list(n, what, i8::from_le_bytes)?),
            id::U16 => Array::U16(self.list(n, what, u16::from_le_bytes)?),
            id::I16 => Array::I16(self.list(n, what, i16::from_le_bytes)?),
            id::U32 => Array::U32(self.list(n, what, u32::from_le_bytes)?),
            id::I32 => Array::I32(self.list(n, what, i32::from_le_bytes)?),
            id::F32 => Array::F32(self.list(n, what, f32::from_le_bytes)?),
            id::BOOL => Array::Bool((0..n).map(|_| self.bool(what)).collect::<Result<_>>()?),
            id::U64 => Array::U64(self.list(n, what, u64::from_le_bytes)?),
            id::I64 => Array::I64(self.list(n, what, i64::from_le_bytes)?),
            id::F64 => Array::F64(self.list(n, what, f64::from_le_bytes)?),
            _ => Array::String((0..n).map(|_| self.string(what).map(str::to_owned)).collect::<Result<_>>()?),
        })
    }

    fn list<T, const N: usize>(&mut self, n: usize, what: &str, read: fn([u8; N]) -> T) -> Result<Vec<T>> {
        // `count` has bounded n * N by the file's length.
        Ok(self.take(n * N, what)?.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect())
    }
}
