use super::builder::{Value, dims};
use super::{BATCH, Graph, LENGTH, PAST, TOTAL};
use crate::onnx::MICROSOFT_DOMAIN;
use crate::onnx::node::Attribute;
use crate::onnx::proto::DataType;
use tamborim_model::mixers::{Attention, QK_NORM_EPS, Rope};

/// ONNX Runtime's GroupQueryAttention takes heads of a multiple of so many channels.
const GQA_HEAD_MULTIPLE: usize = 8;

const GQA: &str = "com.microsoft::GroupQueryAttention";

fn numbers(list: &[(&'static str, usize)]) -> Vec<(&'static str, Attribute)> {
    list.iter().map(|(name, n)| (*name, (*n).into())).collect()
}

impl Graph<'_> {
    /// Softmax attention with grouped keys and values.
    pub fn attention(&mut self, a: &Attention, x: &Value, r: &Value) -> Value {
        let Attention { heads, groups, head_dim, .. } = *a;
        let parts = [("q", heads * head_dim), ("k", groups * head_dim), ("v", groups * head_dim)];
        let mut qkv = match a.fused {
            true => {
                let fused = self.linear("attn_qkv", x);
                let split = self.builder.split(&fused, &parts);
                split.try_into().unwrap_or_else(|_| unreachable!("three parts give three values"))
            }
            false => ["attn_q", "attn_k", "attn_v"].map(|name| self.linear(name, x)),
        };
        if let Some(width) = a.short_conv {
            let joined = self.builder.concat(&[&qkv[0], &qkv[1], &qkv[2]], 2, parts.iter().map(|p| p.1).sum::<usize>());
            let mixed =
                self.conv(&["attn_q_conv1d", "attn_k_conv1d", "attn_v_conv1d"], width, self.attention_conv(), &joined);
            let split = self.builder.split(&mixed, &parts);
            qkv = split.try_into().unwrap_or_else(|_| unreachable!("three parts give three values"));
        }
        let [mut q, mut k, v] = qkv;
        if a.qk_norm {
            q = self.norm_heads("attn_q_norm.weight", &q, head_dim);
            k = self.norm_heads("attn_k_norm.weight", &k, head_dim);
        }
        if let Some(rope) = &a.rope {
            q = self.rotate(rope, &q, head_dim);
            k = self.rotate(rope, &k, head_dim);
        }
        let [y, ..] = self.attend(a, [&q, &k, &v]);
        let y = self.linear("attn_output", &y);
        self.add(r, &y)
    }

    /// RMSNorm of every head, with weights of its own for each.
    fn norm_heads(&mut self, name: &str, x: &Value, head_dim: usize) -> Value {
        let weight = self.block_vector(name);
        let heads = x.channels() / head_dim;
        let shape = dims![BATCH, LENGTH, heads, head_dim];
        let split = self.builder.reshape(x, &[0, 0, heads as i64, head_dim as i64], shape);
        let normed = self.rms(QK_NORM_EPS, &weight, &split);
        self.builder.reshape(&normed, &[0, 0, x.channels() as i64], x.shape.clone())
    }

    /// Attention over the block's keys and values so far, which become its state: the result, keys, values.
    pub fn attend(&mut self, a: &Attention, [q, k, v]: [&Value; 3]) -> [Value; 3] {
        let Attention { groups, head_dim, .. } = *a;
        // A window of the token alone has no smaller one, which older versions would need.
        let fused = !self.options.pure && head_dim.is_multiple_of(GQA_HEAD_MULTIPLE) && a.window != Some(1);
        if !fused && !self.options.pure {
            self.note(format!(
                "heads of {head_dim} channels do not fit GroupQueryAttention, which takes multiples of {GQA_HEAD_MULTIPLE} \
                 and windows from 2: attention in standard operators"
            ));
        }
        let [past_k, past_v] = ["key", "value"].map(|kind| self.past(kind, dims![groups, PAST, head_dim]));
        let [y, key, value] = match fused {
            true => self.group_query_attention(a, [q, k, v], [&past_k, &past_v]),
            false => self.standard_attention(a, [q, k, v], [&past_k, &past_v]),
        };
        self.present("key", key.clone());
        self.present("value", value.clone());
        [y, key, value]
    }

    /// The name of the short convolutions' state: another one where Mamba in the same block has taken the usual.
    fn attention_conv(&self) -> &'static str {
        let taken = format!("present.{}.conv_state", self.block);
        if self.states.iter().any(|(name, _)| *name == taken) { "attention_conv_state" } else { "conv_state" }
    }

    /// Attention, new keys, new values.
    fn group_query_attention(&mut self, a: &Attention, [q, k, v]: [&Value; 3], past: [&Value; 2]) -> [Value; 3] {
        let last = self.place.last_positions(&mut self.builder);
        let total = self.place.total_length(&mut self.builder);
        let all = dims![BATCH, a.groups, TOTAL, a.head_dim];
        let outputs = vec![("y", q.shape.clone()), ("key", all.clone()), ("value", all)];
        let inputs = [q, k, v, past[0], past[1], &last, &total];
        let heads = [("num_heads", a.heads), ("kv_num_heads", a.groups)];
        let windowed = |window: usize| [&heads[..], &[("local_window_size", window)]].concat();
        let values = match a.window {
            None => self.builder.nodes(GQA, &inputs.map(Some), outputs, numbers(&heads)),
            Some(window) => {
                let beside = self.counts_window_beside_itself();
                let attributes = [windowed(window - 1), windowed(window)].map(|list| numbers(&list));
                self.builder.either(&beside, GQA, &inputs, outputs, attributes)
            }
        };
        values.try_into().unwrap_or_else(|_| unreachable!("three outputs give three values"))
    }

    /// Whether the ONNX Runtime that runs the model counts the window without the token itself: up to 1.23 a window of W
    /// lets a token see W others, later W - 1. A model must mean the same in all of them, so it asks: of two tokens with
    /// values 1 and 0, the second sees both or, with a window of 1, itself alone. The past has room for both, as a buffer that
    /// grows no more: versions infer other shapes for one that grows, and warn of what they computed.
    fn counts_window_beside_itself(&mut self) -> Value {
        self.place.once(&mut self.builder, "window_beside_itself", |_, g| {
            const HEAD: usize = GQA_HEAD_MULTIPLE;
            let new = g.filled("window_probe_new", 0.0, &[1, 1, HEAD]);
            let [keys, values] = [("keys", 0.0), ("values", 1.0)]
                .map(|(name, x)| g.filled(&format!("window_probe_past_{name}"), x, &[1, 1, 2, HEAD]));
            let last = g.ints(&[1]);
            let last = g.cast(&last, DataType::Int32);
            let total = g.int(2);
            let total = g.cast(&total, DataType::Int32);
            let inputs = [&new, &new, &new, &keys, &values, &last, &total].map(Some);
            let all = dims![1, 1, 2, HEAD];
            let outputs = vec![("y", new.shape.clone()), ("key", all.clone()), ("value", all)];
            let attributes = numbers(&[("num_heads", 1), ("kv_num_heads", 1), ("local_window_size", 1)]);
            let y = g.nodes(GQA, &inputs, outputs, attributes).swap_remove(0);
            let keep = vec![("keepdims", 0i64.into())];
            let most = g.node("ReduceMax", &[&y], keep, DataType::Float, vec![]);
            let zero = g.float(0.0);
            g.compare("Greater", &most, &zero)
        })
    }

    /// The same in standard operators.
    fn standard_attention(&mut self, a: &Attention, [q, k, v]: [&Value; 3], past: [&Value; 2]) -> [Value; 3] {
        let Attention { groups, head_dim, .. } = *a;
        let head = head_dim as i64;
        let g = &mut self.builder;
        let [keys, values] = [(k, past[0]), (v, past[1])].map(|(new, past)| {
            let split = g.reshape(new, &[0, 0, groups as i64, head], dims![BATCH, LENGTH, groups, head_dim]);
            let turned = g.transpose(&split, &[0, 2, 1, 3]);
            g.concat(&[past, &turned], 2, TOTAL)
        });
        let y = self.softmax_attention(a, q, &keys, &values);
        [y, keys, values]
    }

    /// Softmax attention of q (batch, length, heads * head_dim) over keys and values (batch, groups, all tokens, head_dim).
    pub fn softmax_attention(&mut self, a: &Attention, q: &Value, keys: &Value, values: &Value) -> Value {
        let Attention { heads, groups, head_dim, window, .. } = *a;
        let (shared, head) = (heads / groups, head_dim as i64);
        let bias = self.place.bias(&mut self.builder, window);
        let g = &mut self.builder;
        // Queries as (batch, group, head of the group, token, channel): a group's keys are broadcast over its heads.
        let split =
            g.reshape(q, &[0, 0, groups as i64, shared as i64, head], dims![BATCH, LENGTH, groups, shared, head_dim]);
        let queries = g.transpose(&split, &[0, 2, 3, 1, 4]);
        let scale = g.float(1.0 / (head_dim as f32).sqrt());
        let queries = g.binary("Mul", &queries, &scale);
        let turned = g.transpose(keys, &[0, 1, 3, 2]);
        let turned = g.unsqueeze(&turned, 2);
        let scores = g.matmul(&queries, &turned);
        let scores = g.binary("Add", &scores, &bias);
        let weights =
            g.node("Softmax", &[&scores], vec![("axis", (-1i64).into())], DataType::Float, scores.shape.clone());
        let spread = g.unsqueeze(values, 2);
        let mixed = g.matmul(&weights, &spread);
        let mixed = g.transpose(&mixed, &[0, 3, 1, 2, 4]);
        g.reshape(&mixed, &[0, 0, (heads * head_dim) as i64], q.shape.clone())
    }

    /// RoPE, rotate-half, on the first channels of every head of `x` (batch, length, heads * head_dim).
    pub fn rotate(&mut self, rope: &Rope, x: &Value, head_dim: usize) -> Value {
        let [cos, sin] = self.place.rope(&mut self.builder, rope);
        let heads = x.channels() / head_dim;
        let g = &mut self.builder;
        if !self.options.pure {
            // The table begins with the first new token.
            let start = g.ints(&[0]);
            let mut attributes = vec![("num_heads", heads.into())];
            if rope.dims < head_dim {
                attributes.push(("rotary_embedding_dim", rope.dims.into()));
            }
            let inputs = [x, &start, &cos, &sin];
            let operator = format!("{MICROSOFT_DOMAIN}::RotaryEmbedding");
            return g.node(&operator, &inputs, attributes, DataType::Float, x.shape.clone());
        }
        let half = rope.dims / 2;
        let split = g.reshape(x, &[0, 0, heads as i64, head_dim as i64], dims![BATCH, LENGTH, heads, head_dim]);
        let parts = [("low", half), ("high", half), ("rest", head_dim - rope.dims)];
        let parts = g.split(&split, if rope.dims < head_dim { &parts } else { &parts[..2] });
        let [cos, sin] = [cos, sin].map(|table| g.unsqueeze(&table, 1));
        let [low_cos, low_sin] = [&cos, &sin].map(|t| g.binary("Mul", &parts[0], t));
        let [high_cos, high_sin] = [&cos, &sin].map(|t| g.binary("Mul", &parts[1], t));
        let low = g.binary("Sub", &low_cos, &high_sin);
        let high = g.binary("Add", &high_cos, &low_sin);
        let turned: Vec<&Value> = [&low, &high].into_iter().chain(parts.get(2)).collect();
        let joined = g.concat(&turned, 3, head_dim);
        g.reshape(&joined, &[0, 0, x.channels() as i64], x.shape.clone())
    }
}
