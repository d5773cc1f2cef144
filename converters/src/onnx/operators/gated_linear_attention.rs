use super::super::node::node;
use super::super::proto::NodeProto;
use super::retention::{KEYS, STATE, VALUES, recurrence};
use super::{Operator, Port};

pub const GATED_LINEAR_ATTENTION: Operator = Operator {
    name: "GatedLinearAttention",
    summary: "Gated linear attention (arXiv 2312.06635): a matrix-valued recurrence for each head, which forgets by a factor \
              for each token and key channel.",
    formula: "\
S[b,t,h,k,v] = exp(log_decay[b,t,h,k]) * S[b,t-1,h,k,v] + key[b,t,h,k] * value[b,t,h,v]
y[b,t,h,v]   = sum over k of query[b,t,h,k] * S[b,t,h,k,v] / sqrt(key_dim)
S[b,-1]      = past_state[b]
present_state[b] = S[b,length-1]",
    inputs: &[
        Port::new("query", KEYS, "queries"),
        Port::new("key", KEYS, "keys"),
        Port::new("value", VALUES, "values"),
        Port::new("log_decay", KEYS, "natural logarithm of the decay, at most 0"),
        Port::optional("past_state", STATE, "state after the tokens before, 0 if absent"),
    ],
    outputs: &[
        Port::new("y", VALUES, "the result"),
        Port::optional("present_state", STATE, "state after the last token"),
    ],
    body,
};

fn body(_: &[&str]) -> Vec<NodeProto> {
    let mut nodes = vec![node("Exp", &["log_decay"], &["decay"], vec![])];
    nodes.extend(recurrence(true));
    nodes
}
