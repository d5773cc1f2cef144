//! `GatedLinearAttention` and `Retention`: heads side by side, each over all tokens of a sequence.

use crate::operator::{Inputs, Operator, Outputs, Port};
use crate::pool::{Pool, each};
use tamborim_kernels::Heads;
use tamborim_kernels::recurrences::{Columns, OuterDecay, OuterInputs, outer_head};

const KEYS: &[&str] = &["batch", "length", "heads", "key_dim"];
const VALUES: &[&str] = &["batch", "length", "heads", "value_dim"];
const STATE: &[&str] = &["batch", "heads", "key_dim", "value_dim"];
const OUTPUTS: &[Port] = &[Port::new("y", VALUES), Port::optional("present_state", STATE)];

pub(crate) const GATED_LINEAR_ATTENTION: Operator = Operator {
    name: "GatedLinearAttention",
    inputs: &[
        Port::new("query", KEYS),
        Port::new("key", KEYS),
        Port::new("value", VALUES),
        Port::new("log_decay", KEYS),
        Port::optional("past_state", STATE),
    ],
    outputs: OUTPUTS,
    compute: |inputs, outputs, pool| {
        let log_decay = inputs.required("log_decay");
        compute(inputs, outputs, pool, |rows| OuterDecay::Logarithm(&log_decay[rows]))
    },
};

pub(crate) const RETENTION: Operator = Operator {
    name: "Retention",
    inputs: &[
        Port::new("query", KEYS),
        Port::new("key", KEYS),
        Port::new("value", VALUES),
        Port::new("decay", &["heads"]),
        Port::optional("past_state", STATE),
    ],
    outputs: OUTPUTS,
    compute: |inputs, outputs, pool| {
        let keys = inputs.extent("key_dim");
        let decay: Vec<f32> = inputs.required("decay").iter().flat_map(|d| std::iter::repeat_n(*d, keys)).collect();
        compute(inputs, outputs, pool, |_| OuterDecay::Constant(&decay))
    },
};

/// `decay` gives that of a sequence, by where its queries are.
fn compute<'d>(
    inputs: &Inputs<'_>,
    outputs: Outputs<'_, '_>,
    pool: &dyn Pool,
    decay: impl Fn(std::ops::Range<usize>) -> OuterDecay<'d>,
) -> Result<(), String> {
    let [batch, tokens, count, keys, values] =
        ["batch", "length", "heads", "key_dim", "value_dim"].map(|name| inputs.extent(name));
    let heads = Heads { count, keys, values };
    let [Some(y), present] = outputs else { return Ok(()) };
    y.fill(0.0);
    let states = batch * count * keys * values;
    let mut unwanted = Vec::new();
    let state = present.as_deref_mut().unwrap_or_else(|| {
        unwanted.resize(states, 0.0);
        &mut unwanted
    });
    match inputs.optional("past_state") {
        Some(past) => state.copy_from_slice(past),
        None => state.fill(0.0),
    }
    if y.is_empty() || state.is_empty() {
        return Ok(());
    }
    let (key_rows, value_rows) = (tokens * count * keys, tokens * count * values);
    let sequences: Vec<OuterInputs<'_>> = (0..batch)
        .map(|i| {
            let (of_keys, of_values) = (i * key_rows..(i + 1) * key_rows, i * value_rows..(i + 1) * value_rows);
            OuterInputs {
                heads,
                q: &inputs.required("query")[of_keys.clone()],
                k: &inputs.required("key")[of_keys.clone()],
                v: &inputs.required("value")[of_values],
                decay: decay(of_keys),
            }
        })
        .collect();
    let outputs = y.chunks_exact_mut(value_rows).flat_map(|rows| Columns::split(rows, count * values, values));
    let heads: Vec<_> = outputs.zip(state.chunks_exact_mut(keys * values)).enumerate().collect();
    each(pool, heads.into_iter(), |(i, (mut o, s))| outer_head(&sequences[i / count], i % count, s, &mut o))
}
