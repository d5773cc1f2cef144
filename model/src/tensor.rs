//! Canonical tensors: one name, shape and role each, and how checkpoints store them.

use crate::Plan;

/// What a tensor does in the model. Quantization recipes and reports group by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Token embedding, and the head where they are tied.
    Embedding,
    /// Output projection to the vocabulary, where it is a tensor of its own.
    Head,
    /// Weight or bias of a norm.
    Norm,
    /// Mamba: d_model to `[x, z]`.
    SsmIn,
    /// Mamba: depthwise causal convolution, and its bias.
    SsmConv,
    /// Mamba: x to `[dt, B, C]`.
    SsmX,
    /// Mamba: dt_rank to d_inner.
    SsmDt,
    /// Mamba: bias of dt, before softplus.
    SsmDtBias,
    /// Mamba: A, negative.
    SsmA,
    /// Mamba: skip connection D.
    SsmD,
    /// Mamba: d_inner to d_model.
    SsmOut,
    /// Queries.
    AttnQ,
    /// Keys.
    AttnK,
    /// Values.
    AttnV,
    /// Queries, keys and values in one matrix.
    AttnQkv,
    /// Output gate of linear attention.
    AttnGate,
    /// Decay of gated linear attention (low rank, two matrices).
    AttnDecay,
    /// Output of attention of any kind.
    AttnOutput,
    /// Short depthwise convolution on q, k or v.
    AttnConv,
    /// Vectors that weigh the two halves of differential attention.
    AttnLambda,
    /// Gated memory: d_model to the gate of what a Mamba below handed out.
    MemoryIn,
    /// Gated memory: back to d_model.
    MemoryOut,
    /// Mega-S6: features to `[u, z, r, h]`.
    MegaMix,
    /// Mega-S6: scales, offsets and position bias of its attention.
    MegaVector,
    /// SwiGLU: the branch that goes through SiLU.
    FfnGate,
    /// SwiGLU: the other branch.
    FfnUp,
    /// SwiGLU: both branches in one matrix, the one through SiLU first.
    FfnGateUp,
    /// SwiGLU: back to d_model.
    FfnDown,
    /// Bias of a linear map.
    Bias,
}

impl Role {
    /// Whether the tensor is a matrix that multiplies activations: these can be stored in fewer bits, all others stay
    /// float32.
    pub fn is_linear(self) -> bool {
        use Role::*;
        match self {
            Embedding | Head | SsmIn | SsmX | SsmDt | SsmOut | AttnQ | AttnK | AttnV | AttnQkv | AttnGate
            | AttnDecay | AttnOutput | MemoryIn | MemoryOut | MegaMix | FfnGate | FfnUp | FfnGateUp | FfnDown => true,
            Norm | SsmConv | SsmDtBias | SsmA | SsmD | AttnConv | AttnLambda | MegaVector | Bias => false,
        }
    }

    /// The role in words, for tables.
    pub fn words(self) -> &'static str {
        use Role::*;
        match self {
            Embedding => "token embedding",
            Head => "output head",
            Norm => "norms",
            SsmIn => "mamba in",
            SsmConv => "mamba conv",
            SsmX => "mamba x to dt, B, C",
            SsmDt => "mamba dt",
            SsmDtBias => "mamba dt bias",
            SsmA => "mamba A",
            SsmD => "mamba D",
            SsmOut => "mamba out",
            AttnQ => "attention q",
            AttnK => "attention k",
            AttnV => "attention v",
            AttnQkv => "attention q, k, v",
            AttnGate => "attention gate",
            AttnDecay => "attention decay",
            AttnOutput => "attention out",
            AttnConv => "attention conv",
            AttnLambda => "attention lambda",
            MemoryIn => "memory gate",
            MemoryOut => "memory out",
            MegaMix => "mega mix",
            MegaVector => "mega vectors",
            FfnGate => "mlp gate",
            FfnUp => "mlp up",
            FfnGateUp => "mlp gate, up",
            FfnDown => "mlp down",
            Bias => "biases",
        }
    }
}

/// How a stored tensor becomes the canonical one.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// As it is.
    Whole,
    /// `-exp(x)`: checkpoints hold `A_log`, runtimes want A. Computed in float64, rounded to float32.
    NegExp,
    /// `x + offset`: checkpoints hold how far a norm's weight is from a constant. Computed in float64, rounded to float32.
    Plus(f64),
    /// A dimension of extent 1 in the middle is dropped: `(channels, 1, width)` to `(channels, width)`.
    Squeeze,
    /// Rows of one fused projection, ordered group by group as `[queries of the group.., key, value]`, `head` rows each.
    /// Takes `count` heads of every group, from the `first`.
    HeadsOfGroups {
        /// Groups.
        groups: usize,
        /// Heads of a group, key and value included.
        per_group: usize,
        /// First head taken.
        first: usize,
        /// Heads taken.
        count: usize,
        /// Rows of a head.
        head: usize,
    },
}

/// Where a checkpoint keeps a canonical tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The name there.
    pub key: String,
    /// How to take it from there.
    pub view: View,
}

/// Families of tensor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Naming {
    /// The training code's (`transformer.h.0.attn.in_proj.weight`).
    Lit,
    /// Hugging Face's, of flash-linear-attention's Samba and transformers' Mamba
    /// (`backbone.layers.0.mixer.in_proj.weight`).
    HuggingFace,
    /// Phi-4-mini-flash-reasoning's (`model.layers.0.attn.in_proj.weight`).
    Phi4Flash,
    /// PLaMo-2's (`model.layers.layers.0.mixer.in_proj.weight`).
    Plamo2,
}

impl Naming {
    const ALL: [Naming; 4] = [Naming::Lit, Naming::HuggingFace, Naming::Phi4Flash, Naming::Plamo2];

    /// The first naming that has a place for every tensor of `plan`.
    pub fn of(plan: &Plan) -> Naming {
        let tensors = plan.tensors();
        let names_all = |n: &Naming| tensors.iter().all(|t| t.stored(*n).is_some());
        Naming::ALL.into_iter().find(names_all).unwrap_or(Naming::Lit)
    }
}

/// A canonical tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Canonical name, which is GGUF's (`blk.0.ssm_in.weight`).
    pub name: String,
    /// Extents, slowest first: a linear map is (outputs, inputs).
    pub shape: Vec<usize>,
    /// What it does.
    pub role: Role,
    /// The block it belongs to.
    pub block: Option<usize>,
    /// In the namings that have it.
    pub(crate) stored: Vec<(Naming, Stored)>,
}

impl TensorSpec {
    /// Where checkpoints of a naming keep this tensor; `None` where that naming cannot express the model.
    pub fn stored(&self, naming: Naming) -> Option<&Stored> {
        self.stored.iter().find(|(n, _)| *n == naming).map(|(_, stored)| stored)
    }

    /// The shape that [`TensorSpec::stored`] says to expect there.
    pub fn stored_shape(&self, stored: &Stored) -> Vec<usize> {
        let mut shape = self.shape.clone();
        match &stored.view {
            View::Whole | View::NegExp | View::Plus(_) => {}
            View::Squeeze => shape.insert(1, 1),
            View::HeadsOfGroups { groups, per_group, head, .. } => shape[0] = groups * per_group * head,
        }
        shape
    }

    /// Numbers in the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
