//! Where the new tokens stand in their sequence, and what follows from that: each thing is computed once, when first asked
//! for, whatever the number of layers.

use super::builder::{Builder, Value, dims};
use super::{BATCH, LENGTH, TOTAL};
use crate::onnx::proto::DataType;
use std::collections::HashMap;
use tamborim_model::mixers::{Rope, RopeTable};

/// Tokens as positions: of those that are new, or of all so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tokens {
    New,
    All,
}

pub struct Place {
    input_ids: Value,
    attention_mask: Value,
    known: HashMap<String, Value>,
}

impl Place {
    pub fn new(input_ids: Value, attention_mask: Value) -> Place {
        Place { input_ids, attention_mask, known: HashMap::new() }
    }

    /// The value of this name, computed by `make` if it is not known yet.
    pub fn once(&mut self, g: &mut Builder, name: &str, make: impl FnOnce(&mut Place, &mut Builder) -> Value) -> Value {
        if let Some(value) = self.known.get(name) {
            return value.clone();
        }
        let outer = g.enter_within(format!("/place/{name}"));
        let value = make(self, g);
        g.enter(outer);
        self.known.insert(name.to_owned(), value.clone());
        value
    }

    /// (batch size, sequence length).
    pub fn input_extents(&mut self, g: &mut Builder) -> Value {
        let ids = self.input_ids.clone();
        self.once(g, "input_extents", |_, g| g.node("Shape", &[&ids], vec![], DataType::Int64, dims![2]))
    }

    /// Number of new tokens, a tensor of one number.
    fn length(&mut self, g: &mut Builder) -> Value {
        let ids = self.input_ids.clone();
        self.once(g, "length", |_, g| g.extent(&ids, 1))
    }

    /// Number of tokens so far, a tensor of one number.
    fn total(&mut self, g: &mut Builder) -> Value {
        let mask = self.attention_mask.clone();
        self.once(g, "total", |_, g| g.extent(&mask, 1))
    }

    /// Positions of tokens, integers.
    pub fn positions(&mut self, g: &mut Builder, which: Tokens) -> Value {
        self.once(g, if which == Tokens::New { "positions" } else { "all_positions" }, |place, g| {
            let total = place.total(g);
            let end = g.squeeze(&total, 0);
            let (start, extent) = match which {
                Tokens::All => (g.int(0), TOTAL),
                Tokens::New => {
                    let length = place.length(g);
                    let past = g.binary("Sub", &total, &length);
                    (g.squeeze(&past, 0), LENGTH)
                }
            };
            let one = g.int(1);
            g.node("Range", &[&start, &end, &one], vec![], DataType::Int64, dims![extent])
        })
    }

    /// Of each row of the batch, the position of its last token: (batch), 32 bits.
    pub fn last_positions(&mut self, g: &mut Builder) -> Value {
        let mask = self.attention_mask.clone();
        self.once(g, "last_positions", |_, g| {
            let (axes, one) = (g.ints(&[1]), g.int(1));
            let keep = vec![("keepdims", 0i64.into())];
            let count = g.node("ReduceSum", &[&mask, &axes], keep, DataType::Int64, dims![BATCH]);
            let last = g.binary("Sub", &count, &one);
            g.cast(&last, DataType::Int32)
        })
    }

    /// Number of tokens so far, a number of 32 bits.
    pub fn total_length(&mut self, g: &mut Builder) -> Value {
        self.once(g, "total_length", |place, g| {
            let total = place.total(g);
            let total = g.squeeze(&total, 0);
            g.cast(&total, DataType::Int32)
        })
    }

    /// Whether key j may be seen by query i: (new tokens, all tokens). `window`: keys that a query sees, itself included.
    /// `chunk`: both must be in the same run of so many tokens.
    pub fn sees(&mut self, g: &mut Builder, window: Option<usize>, chunk: Option<usize>) -> Value {
        self.once(g, &format!("sees_{}_{}", window.unwrap_or(0), chunk.unwrap_or(0)), |place, g| {
            let (i, j) = (place.positions(g, Tokens::New), place.positions(g, Tokens::All));
            let i = g.unsqueeze(&i, 1);
            let mut sees = g.compare("LessOrEqual", &j, &i);
            if let Some(window) = window {
                let reach = g.int(window as i64);
                let oldest = g.binary("Sub", &i, &reach);
                let near = g.compare("Greater", &j, &oldest);
                sees = g.compare("And", &sees, &near);
            }
            if let Some(chunk) = chunk {
                let chunk = g.int(chunk as i64);
                let (i, j) = (g.binary("Div", &i, &chunk), g.binary("Div", &j, &chunk));
                let together = g.compare("Equal", &i, &j);
                sees = g.compare("And", &sees, &together);
            }
            Value { shape: dims![LENGTH, TOTAL], ..sees }
        })
    }

    /// 0 where [`Place::sees`], else minus infinity: to be added to scores.
    pub fn bias(&mut self, g: &mut Builder, window: Option<usize>) -> Value {
        self.once(g, &format!("bias_{}", window.unwrap_or(0)), |place, g| {
            let sees = place.sees(g, window, None);
            let (zero, never) = (g.float(0.0), g.float(f32::NEG_INFINITY));
            let shape = sees.shape.clone();
            g.node("Where", &[&sees, &zero, &never], vec![], DataType::Float, shape)
        })
    }

    /// cos and sin of the new tokens' angles: (new tokens, dims / 2) each. In the steps of the training code: angles are
    /// float32, their cosines those of float64 rounded once, then rounded to bfloat16 where the model was trained so.
    pub fn rope(&mut self, g: &mut Builder, rope: &Rope) -> [Value; 2] {
        let exponent = |i: usize| (2 * i) as f32 / rope.dims as f32;
        let theta: Vec<f32> =
            (0..rope.dims / 2).map(|i| 1.0 / f64::from(rope.base).powf(f64::from(exponent(i))) as f32).collect();
        let name = format!("rope_{}_{}_{}", rope.dims, rope.base, rope.condense);
        let angles = self.once(g, &format!("{name}_angles"), |place, g| {
            let positions = place.positions(g, Tokens::New);
            let mut positions = g.cast(&positions, DataType::Float);
            if rope.condense != 1.0 {
                let condense = g.float(rope.condense);
                positions = g.binary("Div", &positions, &condense);
            }
            let theta = g.floats(format!("{name}_theta"), &theta);
            angles(g, &positions, &theta)
        });
        [Circular::Cos, Circular::Sin].map(|function| {
            self.once(g, &format!("{name}_{:?}_{function:?}", rope.table), |_, g| {
                let exact = function.of(g, &angles);
                match rope.table {
                    RopeTable::F32 => exact,
                    RopeTable::Bf16 => {
                        let rounded = g.cast(&exact, DataType::Bfloat16);
                        g.cast(&rounded, DataType::Float)
                    }
                }
            })
        })
    }

    /// cos and sin of tokens' places in their chunk times `frequencies`: (tokens, frequencies) each.
    pub fn chunk_rope(&mut self, g: &mut Builder, which: Tokens, chunk: usize, frequencies: &[f32]) -> [Value; 2] {
        let name = format!("chunk_{chunk}_{}_{which:?}", frequencies.len());
        let angles = self.once(g, &format!("{name}_angles"), |place, g| {
            let positions = place.positions(g, which);
            let chunk = g.int(chunk as i64);
            let places = g.binary("Mod", &positions, &chunk);
            let places = g.cast(&places, DataType::Float);
            let frequencies = g.floats(format!("chunk_frequencies_{}", frequencies.len()), frequencies);
            angles(g, &places, &frequencies)
        });
        [Circular::Cos, Circular::Sin]
            .map(|function| self.once(g, &format!("{name}_{function:?}"), |_, g| function.of(g, &angles)))
    }
}

/// The outer product of positions and frequencies in float32, as float64.
fn angles(g: &mut Builder, positions: &Value, frequencies: &Value) -> Value {
    let column = g.unsqueeze(positions, 1);
    let angles = g.binary("Mul", &column, frequencies);
    g.cast(&angles, DataType::Double)
}

/// A function of angles in float64.
#[derive(Clone, Copy, Debug)]
enum Circular {
    Cos,
    Sin,
}

impl Circular {
    /// Its value, rounded to float32.
    fn of(self, g: &mut Builder, angles: &Value) -> Value {
        let exact = match self {
            Circular::Sin => g.unary("Sin", angles),
            // Older versions of ONNX Runtime (1.23) have no cosine of float64: a sine a quarter turn on.
            Circular::Cos => {
                let quarter = g.double(std::f64::consts::FRAC_PI_2);
                let turned = g.binary("Add", angles, &quarter);
                g.unary("Sin", &turned)
            }
        };
        g.cast(&exact, DataType::Float)
    }
}
