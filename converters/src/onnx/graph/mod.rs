//! The layer plan as a graph: what the runtime computes (`kernels/src/mixers`), in operators of ONNX.

mod attention;
mod builder;
mod differential;
mod gated_memory;
mod headed_mamba;
mod linear_attention;
mod mamba;
mod mega;
mod place;
mod swiglu;
mod weights;

pub(super) use differential::paired;
pub use weights::{Part, Storage, Stored};

use super::node::Dim;
use super::operators::Operator;
use super::proto::{DataType, FunctionProto, GraphProto};
use builder::{Builder, Value, dims};
use place::Place;
use std::collections::HashMap;
use tamborim_model::{Mixer, Norm, NormKind, Plan, TensorSpec};

const BATCH: &str = "batch_size";
const LENGTH: &str = "sequence_length";
const PAST: &str = "past_sequence_length";
const TOTAL: &str = "total_sequence_length";

/// How to express a model where there is a choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Only operators of ONNX itself, none of ONNX Runtime's own.
    pub pure: bool,
}

/// A graph and what belongs to it.
pub struct Export {
    pub(super) graph: GraphProto,
    pub(super) functions: Vec<FunctionProto>,
    /// Tensors of the model that the graph uses, in the order in which they are to be written.
    pub stored: Vec<Stored>,
    /// What was asked for and could not be had, a line each.
    pub notes: Vec<String>,
}

/// The graph of `plan`. `storage` says how each linear map is stored; all other tensors are float32.
pub fn export(plan: &Plan, options: Options, storage: &dyn Fn(&TensorSpec) -> Storage) -> Export {
    let specs = plan.tensors().into_iter().map(|t| (t.name.clone(), t)).collect();
    let mut mixers = plan.blocks.iter().flat_map(|b| &b.branches).map(|b| &b.mixer);
    let mut builder = Builder::default();
    let input_ids = builder.input("input_ids", DataType::Int64, dims![BATCH, LENGTH]);
    let attention_mask = builder.input("attention_mask", DataType::Int64, dims![BATCH, TOTAL]);
    let mut g = Graph {
        builder,
        options,
        place: Place::new(input_ids.clone(), attention_mask),
        specs,
        storage,
        stored: Vec::new(),
        functions: Vec::new(),
        notes: Vec::new(),
        states: Vec::new(),
        block: 0,
        post_norm: None,
        scans_are_gated: !mixers.any(|m| matches!(m, Mixer::Mamba(m) if m.shares_memory)),
        memory: None,
        shared: None,
    };
    let mut r = g.embed(&input_ids);
    for (i, block) in plan.blocks.iter().enumerate() {
        g.block = i;
        for branch in &block.branches {
            g.builder.enter(format!("/blk.{i}/{}", branch.norm_name()));
            g.post_norm = branch.post_norm.map(|norm| (norm, branch.post_norm_name()));
            let x = g.norm(branch.norm, &format!("blk.{i}.{}", branch.norm_name()), &r);
            let in_mlp = branch.place == tamborim_model::Place::Mlp;
            g.builder.enter(format!("/blk.{i}/{}", if in_mlp { "ffn" } else { branch.mixer.word() }));
            r = match &branch.mixer {
                Mixer::Mamba(m) => g.mamba(m, &x, &r),
                Mixer::Attention(a) => g.attention(a, &x, &r),
                Mixer::SwiGlu(s) => g.swiglu(s, if in_mlp { "ffn" } else { "mix" }, &x, &r),
                Mixer::Retention(m) => g.retention(m, &x, &r),
                Mixer::Gla(m) => g.gla(m, &x, &r),
                Mixer::Mega(m) => g.mega(m, &x, &r),
                Mixer::DifferentialAttention(a) => g.differential_attention(a, &x, &r),
                Mixer::CrossAttention(a) => g.cross_attention(a, &x, &r),
                Mixer::GatedMemory(_) => g.gated_memory(&x, &r),
                Mixer::HeadedMamba(m) => g.headed_mamba(m, &x, &r),
            };
        }
    }
    g.builder.enter("/output_norm".to_owned());
    let x = g.norm(plan.final_norm, "output_norm", &r);
    g.builder.enter("/output".to_owned());
    let mut logits = g.head(&x, plan.tied);
    if plan.head_bias {
        let bias = g.vector("output.bias");
        logits = g.builder.binary("Add", &logits, &bias);
    }
    g.builder.output(&logits, "logits");
    for (name, state) in std::mem::take(&mut g.states) {
        g.builder.output(&state, &name);
    }
    Export { graph: g.builder.finish(), functions: g.functions, stored: g.stored, notes: g.notes }
}

/// The graph under construction, with what all mixers need.
struct Graph<'s> {
    builder: Builder,
    options: Options,
    place: Place,
    specs: HashMap<String, TensorSpec>,
    storage: &'s dyn Fn(&TensorSpec) -> Storage,
    stored: Vec<Stored>,
    functions: Vec<FunctionProto>,
    notes: Vec<String>,
    /// States to come out, by name.
    states: Vec<(String, Value)>,
    /// The block being built.
    block: usize,
    /// The norm behind the branch being built, and the name of its weights.
    post_norm: Option<(Norm, &'static str)>,
    /// All scans of a model are nodes of one function, which has a gate or has none.
    scans_are_gated: bool,
    /// What the Mamba below that shares it gave before its gate.
    memory: Option<Value>,
    /// Keys and values of the differential attention below.
    shared: Option<[Value; 2]>,
}

impl Graph<'_> {
    /// A state of the block as an input. `rest`: its shape after the batch.
    fn past(&mut self, kind: &str, rest: Vec<Dim>) -> Value {
        let shape = dims![BATCH].into_iter().chain(rest).collect();
        self.builder.input(&format!("past_key_values.{}.{kind}", self.block), DataType::Float, shape)
    }

    /// The same state as an output.
    fn present(&mut self, kind: &str, state: Value) {
        self.states.push((format!("present.{}.{kind}", self.block), state));
    }

    /// A note, once.
    fn note(&mut self, line: String) {
        if !self.notes.contains(&line) {
            self.notes.push(line);
        }
    }

    /// A node of `ai.samba`, whose function the model will carry; `without` names the inputs that `inputs` leaves out.
    fn samba(
        &mut self,
        operator: &Operator,
        inputs: &[Option<&Value>],
        without: &[&str],
        outputs: [(&str, Vec<Dim>); 2],
    ) -> [Value; 2] {
        if !self.functions.iter().any(|f| f.name.as_deref() == Some(operator.name)) {
            self.functions.push(operator.function(without));
        }
        let name = format!("{}::{}", super::SAMBA_DOMAIN, operator.name);
        let values = self.builder.nodes(&name, inputs, outputs.into(), vec![]);
        let [y, state] = values.try_into().unwrap_or_else(|_| unreachable!("two outputs give two values"));
        [y, state]
    }

    /// The residual stream `r` with what a mixer adds, which goes through a norm where the branch has one behind.
    fn add(&mut self, r: &Value, y: &Value) -> Value {
        let y = match self.post_norm {
            None => y.clone(),
            Some((norm, name)) => {
                let weight = self.block_vector(name);
                self.rms(norm.eps, &weight, y)
            }
        };
        self.builder.binary("Add", r, &y)
    }

    /// A norm over the last dimension, with the weights `name`.
    fn norm(&mut self, norm: Norm, name: &str, x: &Value) -> Value {
        let weight = self.vector(&format!("{name}.weight"));
        match norm.kind {
            NormKind::Rms => self.rms(norm.eps, &weight, x),
            NormKind::Layer => {
                let bias = self.vector(&format!("{name}.bias"));
                let attributes = vec![("axis", (-1i64).into()), ("epsilon", norm.eps.into())];
                let shape = x.shape.clone();
                self.builder.node("LayerNormalization", &[x, &weight, &bias], attributes, DataType::Float, shape)
            }
        }
    }

    /// RMSNorm in the operators that ONNX Runtime recognises as one.
    fn rms(&mut self, eps: f32, weight: &Value, x: &Value) -> Value {
        let g = &mut self.builder;
        let (two, eps) = (g.float(2.0), g.float(eps));
        let square = g.binary("Pow", x, &two);
        let axes = g.ints(&[-1]);
        let keep = vec![("keepdims", 1i64.into())];
        let mean = g.node("ReduceMean", &[&square, &axes], keep, DataType::Float, x.with_channels(1));
        let mean = g.binary("Add", &mean, &eps);
        let root = g.unary("Sqrt", &mean);
        let scaled = g.binary("Div", x, &root);
        g.binary("Mul", &scaled, weight)
    }

    /// A depthwise causal convolution of `x` (batch, length, channels) with SiLU after it, and its state. `names`: whose
    /// weights make up the channels.
    fn conv(&mut self, names: &[&str], width: usize, kind: &str, x: &Value) -> Value {
        let channels = x.channels();
        let (mut kernels, mut biases) = (Vec::new(), Vec::new());
        for name in names {
            let [weight, bias] = ["weight", "bias"].map(|part| format!("blk.{}.{name}.{part}", self.block));
            kernels.push(self.kernel(&weight));
            if self.specs.contains_key(&bias) {
                biases.push(self.vector(&bias));
            }
        }
        let past = self.past(kind, dims![channels, width - 1]);
        let g = &mut self.builder;
        let join = |g: &mut Builder, parts: &[Value]| match parts {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(g.concat(&many.iter().collect::<Vec<_>>(), 0, channels)),
        };
        let kernel = join(g, &kernels);
        let bias = join(g, &biases);
        let turned = g.transpose(x, &[0, 2, 1]);
        let all = g.concat(&[&past, &turned], 2, format!("{LENGTH} + {}", width - 1).as_str());
        let inputs: Vec<&Value> = [Some(&all), kernel.as_ref(), bias.as_ref()].into_iter().flatten().collect();
        let attributes = vec![("group", channels.into()), ("kernel_shape", [width as i64].into())];
        let y = g.node("Conv", &inputs, attributes, DataType::Float, turned.shape.clone());
        let y = g.transpose(&y, &[0, 2, 1]);
        let y = g.silu(&y);
        let (start, end, axis) = (g.ints(&[1 - width as i64]), g.ints(&[i64::MAX]), g.ints(&[2]));
        let present = g.node("Slice", &[&all, &start, &end, &axis], vec![], DataType::Float, past.shape.clone());
        self.present(kind, present);
        y
    }
}
