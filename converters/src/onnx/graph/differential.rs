use super::builder::{Value, dims};
use super::{BATCH, Graph, LENGTH};
use tamborim_model::mixers::{Attention, CrossAttention, Differential, DifferentialAttention, SUB_NORM_EPS};

/// A pair of key heads, and a pair of value heads, as one head of twice the width.
pub(in crate::onnx) fn paired(d: &Differential, window: Option<usize>) -> Attention {
    Attention {
        heads: d.heads,
        groups: d.groups / 2,
        head_dim: 2 * d.head_dim,
        window,
        rope: None,
        qkv_bias: d.qkv_bias,
        output_bias: d.output_bias,
        short_conv: None,
        fused: true,
        qk_norm: false,
    }
}

impl Graph<'_> {
    /// Differential attention over keys and values of its own.
    pub fn differential_attention(&mut self, a: &DifferentialAttention, x: &Value, r: &Value) -> Value {
        let d = &a.differential;
        let qkv = self.linear("attn_qkv", x);
        let (queries, keys) = (d.heads * d.head_dim, d.groups * d.head_dim);
        let parts = self.builder.split(&qkv, &[("q", queries), ("k", keys), ("v", keys)]);
        let q = self.spread_pairs(d, &parts[0]);
        let [y, keys, values] = self.attend(&paired(d, a.window), [&q, &parts[1], &parts[2]]);
        self.shared = Some([keys, values]);
        self.difference(d, &y, r)
    }

    /// Differential attention over the keys and values of the one below.
    pub fn cross_attention(&mut self, a: &CrossAttention, x: &Value, r: &Value) -> Value {
        let d = &a.differential;
        let q = self.linear("attn_q", x);
        let q = self.spread_pairs(d, &q);
        let [keys, values] =
            self.shared.clone().unwrap_or_else(|| unreachable!("a plan has keys below cross attention"));
        let y = self.softmax_attention(&paired(d, None), &q, &keys, &values);
        self.difference(d, &y, r)
    }

    /// Every head twice as wide, zeros in the place of its twin, times the root of 2 that the wider head divides scores by.
    fn spread_pairs(&mut self, d: &Differential, q: &Value) -> Value {
        let (pairs, head) = (d.heads / 2, d.head_dim);
        let g = &mut self.builder;
        let split =
            g.reshape(q, &[0, 0, pairs as i64, 2, 1, head as i64], dims![BATCH, LENGTH, pairs, 2usize, 1usize, head]);
        let root = std::f32::consts::SQRT_2;
        let places = g.floats("root_2_identity_2".to_owned(), &[root, 0.0, 0.0, root]);
        let places = g.reshape(&places, &[2, 2, 1], dims![2usize, 2usize, 1usize]);
        let wide = g.binary("Mul", &split, &places);
        g.reshape(&wide, &[0, 0, (4 * pairs * head) as i64], q.with_channels(4 * pairs * head))
    }

    /// From both results of every pair to the residual stream.
    fn difference(&mut self, d: &Differential, y: &Value, r: &Value) -> Value {
        let (pairs, width) = (d.heads / 2, 2 * d.head_dim);
        let [q1, k1, q2, k2] = ["q1", "k1", "q2", "k2"].map(|n| self.block_vector(&format!("attn_lambda_{n}.weight")));
        let weight = self.block_vector("attn_subln.weight");
        let g = &mut self.builder;
        let exp_dot = |g: &mut super::builder::Builder, a: &Value, b: &Value| {
            let (axes, product) = (g.ints(&[0]), g.binary("Mul", a, b));
            let sum = g.node("ReduceSum", &[&product, &axes], vec![], product.data_type, dims![1usize]);
            g.unary("Exp", &sum)
        };
        let (first, second) = (exp_dot(g, &q1, &k1), exp_dot(g, &q2, &k2));
        let (init, left) = (g.float(d.lambda_init() as f32), g.float((1.0 - d.lambda_init()) as f32));
        let lambda = g.binary("Sub", &first, &second);
        let lambda = g.binary("Add", &lambda, &init);
        let shape = dims![BATCH, LENGTH, pairs, 2 * width];
        let split = g.reshape(y, &[0, 0, pairs as i64, 2 * width as i64], shape);
        let halves = g.split(&split, &[("even", width), ("odd", width)]);
        let odd = g.binary("Mul", &halves[1], &lambda);
        let difference = g.binary("Sub", &halves[0], &odd);
        let weight = g.binary("Mul", &weight, &left);
        let normed = self.rms(SUB_NORM_EPS, &weight, &difference);
        let joined = self.builder.reshape(&normed, &[0, 0, (pairs * width) as i64], y.with_channels(pairs * width));
        let y = self.linear("attn_output", &joined);
        self.add(r, &y)
    }
}
