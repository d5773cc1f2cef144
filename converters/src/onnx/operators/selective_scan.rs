use super::super::node::node;
use super::super::proto::NodeProto;
use super::{Operator, Port, constant, scan, transpose};

const SEQUENCE: &[&str] = &["batch", "length", "d_inner"];
const DRIVE: &[&str] = &["batch", "length", "d_state"];
const STATE: &[&str] = &["batch", "d_inner", "d_state"];

pub const SELECTIVE_SCAN: Operator = Operator {
    name: "SelectiveScan",
    summary: "The selective scan of Mamba (S6, arXiv 2312.00752, algorithm 2): a linear recurrence with a state of d_state \
              numbers for each channel, whose decay and input depend on the token.",
    formula: "\
dt[b,t,d]    = softplus(delta[b,t,d] + delta_bias[d])
h[b,t,d,n]   = exp(dt[b,t,d] * A[d,n]) * h[b,t-1,d,n] + dt[b,t,d] * B[b,t,n] * u[b,t,d]
s[b,t,d]     = sum over n of C[b,t,n] * h[b,t,d,n]
y[b,t,d]     = (s[b,t,d] + D[d] * u[b,t,d]) * silu(z[b,t,d])
h[b,-1,:,:]  = past_state[b]
present_state[b] = h[b,length-1,:,:]",
    inputs: &[
        Port::new("u", SEQUENCE, "the sequence"),
        Port::new("delta", SEQUENCE, "step sizes, before bias and softplus"),
        Port::new("A", &["d_inner", "d_state"], "decay rates, negative (-exp of a checkpoint's A_log)"),
        Port::new("B", DRIVE, "how the input enters the state"),
        Port::new("C", DRIVE, "how the state is read"),
        Port::optional("D", &["d_inner"], "weight of the skip connection, 0 if absent"),
        Port::optional("z", SEQUENCE, "gate; y is not gated if absent"),
        Port::optional("delta_bias", &["d_inner"], "added to delta, 0 if absent"),
        Port::optional("past_state", STATE, "state after the tokens before, 0 if absent"),
    ],
    outputs: &[
        Port::new("y", SEQUENCE, "the result"),
        Port::optional("present_state", STATE, "state after the last token"),
    ],
    body,
};

/// Time-major, the state as (batch, d_state, d_inner) so that channels are side by side; what does not depend on the state
/// is computed for all tokens at once.
fn body(without: &[&str]) -> Vec<NodeProto> {
    let step = vec![
        node("Mul", &["dt_t", "A_rows"], &["exponent"], vec![]),
        node("Exp", &["exponent"], &["decay"], vec![]),
        node("Mul", &["state", "decay"], &["kept"], vec![]),
        node("Mul", &["B_t", "dt_u_t"], &["added"], vec![]),
        node("Add", &["kept", "added"], &["next"], vec![]),
        node("MatMul", &["C_t", "next"], &["result"], vec![]),
    ];
    let mut nodes = vec![
        node("Add", &["delta", "delta_bias"], &["delta_biased"], vec![]),
        node("Softplus", &["delta_biased"], &["dt"], vec![]),
        node("Mul", &["dt", "u"], &["dt_u"], vec![]),
        transpose("A", "A_rows", &[1, 0]),
        transpose("past_state", "start", &[0, 2, 1]),
        constant("row", &[2]),
        constant("column", &[3]),
    ];
    // (batch, length, n) to (length, batch, 1, n) or (length, batch, n, 1)
    for (input, axis) in [("dt", "row"), ("dt_u", "row"), ("B", "column"), ("C", "row")] {
        let (turned, steps) = (format!("{input}_turned"), format!("{input}_steps"));
        nodes.push(transpose(input, &turned, &[1, 0, 2]));
        nodes.push(node("Unsqueeze", &[&turned, axis], &[&steps], vec![]));
    }
    let steps = [("dt_steps", "dt_t"), ("dt_u_steps", "dt_u_t"), ("B_steps", "B_t"), ("C_steps", "C_t")];
    nodes.extend([
        scan("start", &steps, ["end", "read_steps"], step),
        transpose("end", "present_state", &[0, 2, 1]),
        node("Squeeze", &["read_steps", "row"], &["read_turned"], vec![]),
        transpose("read_turned", "read", &[1, 0, 2]),
        node("Mul", &["D", "u"], &["skip"], vec![]),
    ]);
    if without.contains(&"z") {
        nodes.push(node("Add", &["read", "skip"], &["y"], vec![]));
    } else {
        nodes.extend([
            node("Add", &["read", "skip"], &["ungated"], vec![]),
            node("Sigmoid", &["z"], &["z_sigmoid"], vec![]),
            node("Mul", &["z", "z_sigmoid"], &["gate"], vec![]),
            node("Mul", &["ungated", "gate"], &["y"], vec![]),
        ]);
    }
    nodes
}
