//! The keys that describe a model, those of our GGUF files, as `metadata_props`: every value is JSON.

use crate::gguf::{Array, Metadata, Value};
use crate::{Error, Result, error::quoted, json::UniqueMembers, names};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::path::Path;

/// A value as JSON. Floats have a point or an exponent, integers have none; a float32 is written as the float64 that it is,
/// so that reading rounds nothing.
pub fn to_json(value: &Value) -> String {
    let float = |x: &f32| json!(f64::from(*x));
    let json = match value {
        Value::F32(x) => float(x),
        Value::F64(x) => json!(x),
        Value::Bool(x) => json!(x),
        Value::String(x) => json!(x),
        Value::Array(Array::F32(list)) => list.iter().map(float).collect(),
        Value::Array(Array::F64(list)) => json!(list),
        Value::Array(Array::Bool(list)) => json!(list),
        Value::Array(Array::String(list)) => json!(list),
        integers => match (integers.integer(), integers.integers()) {
            (Some(i), _) => json!(i as i64),
            (_, list) => list.unwrap_or_default().into_iter().map(|i| json!(i as i64)).collect(),
        },
    };
    json.to_string()
}

/// The inverse of [`to_json`], but for the widths of numbers: integers are 64 bits wide, lists of bytes excepted, floats 32.
fn from_json(text: &str) -> Option<Value> {
    let list = match serde_json::from_str(text).ok()? {
        Json::Bool(b) => return Some(Value::Bool(b)),
        Json::String(s) => return Some(Value::String(s)),
        Json::Number(n) => return n.as_i64().map(Value::I64).or_else(|| n.as_f64().map(|x| Value::F32(x as f32))),
        Json::Array(list) => list,
        Json::Null | Json::Object(_) => return None,
    };
    fn all<T>(list: &[Json], get: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
        list.iter().map(get).collect()
    }
    let array = if let Some(list) = all(&list, |v| v.as_u64().and_then(|n| u8::try_from(n).ok())) {
        Array::U8(list)
    } else if let Some(list) = all(&list, Json::as_i64) {
        Array::I64(list)
    } else if let Some(list) = all(&list, |v| v.as_f64().map(|x| x as f32)) {
        Array::F32(list)
    } else if let Some(list) = all(&list, Json::as_bool) {
        Array::Bool(list)
    } else {
        Array::String(all(&list, |v| v.as_str().map(str::to_owned))?)
    };
    Some(Value::Array(array))
}

/// Sets `key` to what the JSON `text` says.
///
/// # Errors
/// [`Error::Damaged`] for what is no value, and for a key that is there already.
pub fn insert_json(metadata: &mut Metadata, key: &str, text: &str) -> Result<()> {
    let wrong = |expected: &str, found: String| {
        let place = format!("metadata {}", quoted(key));
        Err(Error::damaged(metadata.path(), place, expected, found))
    };
    let Some(value) = from_json(text) else { return wrong("a number, string or list in JSON", quoted(text)) };
    if metadata.get(key).is_some() {
        return wrong("each key once", "a second one of this name".to_owned());
    }
    metadata.insert(key, value);
    Ok(())
}

/// The key that says how tensors are stored, as an object: `{"blk.0.ffn_up.weight": {"shape": [1536, 512], "layout":
/// "transposed"}, ..}`.
pub const TENSORS_KEY: &str = "tamborim.tensors";
/// More dimensions than any tensor has.
const MAX_DIMS: usize = 4;

/// What the initializers of a tensor's scales and zero points are called, after its name.
pub const SCALES: &str = ".scales";
/// See [`SCALES`].
pub const ZERO_POINTS: &str = ".zero_points";

/// How a tensor of the model is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorLayout {
    /// Canonical shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Its initializers.
    pub layout: Layout,
}

/// The initializers of a tensor, and the form of its numbers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One of its name, with the numbers in canonical order.
    Whole,
    /// One of its name: a matrix, columns first.
    Transposed,
    /// As MatMulNBits takes them: codes under its name, `.scales` and, where blocks have them, `.zero_points`.
    Blocks {
        /// Bits of a code.
        bits: u8,
        /// Elements that share a scale.
        block: usize,
        /// Whether blocks have zero points.
        zero_points: bool,
    },
    /// The same as DequantizeLinear takes them, inputs first.
    Columns {
        /// Bits of a code.
        bits: u8,
        /// Elements that share a scale.
        block: usize,
        /// Whether blocks have zero points.
        zero_points: bool,
    },
}

/// The value of [`TENSORS_KEY`].
///
/// # Errors
/// [`Error::Damaged`] for what is no such object, names a tensor twice, or gives one a shape that no tensor has.
pub fn parse_layouts(path: &Path, text: &str) -> Result<IndexMap<String, TensorLayout>> {
    let damaged =
        |found: String| Error::damaged(path, TENSORS_KEY, "an object of tensors with shape and layout", found);
    let layouts: UniqueMembers<TensorLayout> =
        serde_json::from_str(text).map_err(|e| damaged(quoted(&e.to_string())))?;
    for (name, TensorLayout { shape, .. }) in &layouts.0 {
        names::check(path, name)?;
        let elements = shape.iter().try_fold(4usize, |n, extent| n.checked_mul(*extent));
        if shape.len() > MAX_DIMS || shape.contains(&0) || elements.is_none() {
            return Err(damaged(format!("shape {:?} of {name}", &shape[..shape.len().min(MAX_DIMS)])));
        }
    }
    Ok(layouts.0.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive() {
        let floats = vec![0.1f32, -1e-5, 3.0, f32::MIN_POSITIVE, 16777216.0];
        for value in [
            Value::I64(-7),
            Value::F32(1e-5),
            Value::F32(2.0),
            Value::Bool(true),
            Value::String("a \"b\" \u{2581}".into()),
            Value::Array(Array::F32(floats)),
            Value::Array(Array::I64(vec![1, -2, 300])),
            Value::Array(Array::U8(vec![0, 255])),
            Value::Array(Array::Bool(vec![true, false])),
            Value::Array(Array::String(vec!["<s>".into(), "\n".into()])),
        ] {
            assert_eq!(from_json(&to_json(&value)), Some(value));
        }
        assert_eq!(from_json("{}"), None);
        assert_eq!(from_json("[1, true]"), None);
    }
}
