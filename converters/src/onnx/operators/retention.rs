use super::super::node::{Attribute, node};
use super::super::proto::{DataType, NodeProto};
use super::{Operator, Port, constant, scan, transpose};

pub(super) const KEYS: &[&str] = &["batch", "length", "heads", "key_dim"];
pub(super) const VALUES: &[&str] = &["batch", "length", "heads", "value_dim"];
pub(super) const STATE: &[&str] = &["batch", "heads", "key_dim", "value_dim"];

pub const RETENTION: Operator = Operator {
    name: "Retention",
    summary: "Multi-scale retention (arXiv 2307.08621) in its recurrent form: a matrix-valued recurrence for each head, which \
              forgets by a constant factor. Queries and keys come with their position embedding applied.",
    formula: "\
S[b,t,h,k,v] = decay[h] * S[b,t-1,h,k,v] + key[b,t,h,k] * value[b,t,h,v]
y[b,t,h,v]   = sum over k of query[b,t,h,k] * S[b,t,h,k,v] / sqrt(key_dim)
S[b,-1]      = past_state[b]
present_state[b] = S[b,length-1]",
    inputs: &[
        Port::new("query", KEYS, "queries"),
        Port::new("key", KEYS, "keys"),
        Port::new("value", VALUES, "values"),
        Port::new("decay", &["heads"], "decay of each head, 0 to 1"),
        Port::optional("past_state", STATE, "state after the tokens before, 0 if absent"),
    ],
    outputs: &[
        Port::new("y", VALUES, "the result"),
        Port::optional("present_state", STATE, "state after the last token"),
    ],
    body: |_| recurrence(false),
};

/// `y` and `present_state` from query, key, value, past_state and `decay`: (heads), or by token (batch, length, heads,
/// key_dim). Time-major; what does not depend on the state is computed for all tokens at once.
pub(super) fn recurrence(decay_by_token: bool) -> Vec<NodeProto> {
    let decay = if decay_by_token { "decay_t" } else { "decay_column" };
    let step = vec![
        node("Mul", &["state", decay], &["kept"], vec![]),
        node("Mul", &["key_t", "value_t"], &["added"], vec![]),
        node("Add", &["kept", "added"], &["next"], vec![]),
        node("MatMul", &["query_t", "next"], &["result"], vec![]),
    ];
    let to_float = vec![("to", Attribute::Int(DataType::Float as i64))];
    let mut nodes = vec![
        node("Shape", &["query"], &["key_dim"], vec![("start", 3i64.into()), ("end", 4i64.into())]),
        node("Cast", &["key_dim"], &["key_dim_float"], to_float),
        node("Sqrt", &["key_dim_float"], &["key_dim_root"], vec![]),
        node("Div", &["query", "key_dim_root"], &["query_scaled"], vec![]),
        constant("row", &[3]),
        constant("column", &[4]),
    ];
    let mut sequences =
        vec![("query_scaled", "row", "query_t"), ("key", "column", "key_t"), ("value", "row", "value_t")];
    if decay_by_token {
        sequences.push(("decay", "column", "decay_t"));
    } else {
        nodes.push(constant("column_of_head", &[1, 2]));
        nodes.push(node("Unsqueeze", &["decay", "column_of_head"], &["decay_column"], vec![]));
    }
    // (batch, length, heads, n) to (length, batch, heads, 1, n) or (length, batch, heads, n, 1)
    let mut steps = Vec::new();
    for (input, axis, at_t) in sequences {
        let (turned, by_step) = (format!("{input}_turned"), format!("{input}_steps"));
        nodes.push(transpose(input, &turned, &[1, 0, 2, 3]));
        nodes.push(node("Unsqueeze", &[&turned, axis], &[&by_step], vec![]));
        steps.push((by_step, at_t));
    }
    let steps: Vec<(&str, &str)> = steps.iter().map(|(s, t)| (s.as_str(), *t)).collect();
    nodes.extend([
        scan("past_state", &steps, ["present_state", "read_steps"], step),
        node("Squeeze", &["read_steps", "row"], &["read_turned"], vec![]),
        transpose("read_turned", "y", &[1, 0, 2, 3]),
    ]);
    nodes
}
