//! The mixers' math, one file each, over the operations of any backend; what they are made of is in
//! `tamborim_model::mixers`.

mod attention;
mod cross_attention;
mod differential_attention;
mod gated_memory;
mod gla;
mod headed_mamba;
mod linear_attention;
mod mamba;
mod mega;
mod output;
mod retention;
mod swiglu;

use crate::Result;
use crate::backend::{Backend, NormWeights};
use crate::loader::Loader;
use tamborim_model::Mixer;

pub use output::Output;

/// What a mixer finds beside the residual stream while a chunk goes through the layers.
pub struct Pass<'p, B: Backend> {
    /// The chunk's tokens and where they stand.
    pub place: &'p B::Place,
    /// What the nearest Mamba below that shares it made of the chunk, before its gate.
    pub memory: &'p mut Option<B::Rows>,
    /// What the mixers below have left behind, this chunk included.
    pub below: &'p [MixerState<B>],
}

macro_rules! mixers {
    ($($name:ident = $weights:ty, $state:ty;)*) => {
        /// A mixer with its weights.
        pub enum Weights<'a, B: Backend> {
            $(
                #[doc = concat!("[`", stringify!($name), "`](tamborim_model::Mixer)")]
                $name($weights),
            )*
        }

        /// What a mixer carries from token to token.
        pub enum MixerState<B: Backend> {
            $(
                #[doc = concat!("State of [`", stringify!($name), "`](tamborim_model::Mixer)")]
                $name($state),
            )*
        }

        impl<'a, B: Backend> Weights<'a, B> {
            /// Reads the tensors of `mixer`.
            pub fn load(mixer: &Mixer, loader: &Loader<'a, '_, B>) -> Result<Weights<'a, B>> {
                match mixer {
                    $(Mixer::$name(m) => Ok(Weights::$name(<$weights>::load(m, loader)?)),)*
                }
            }

            /// The state before the first token.
            pub fn start(&self, ops: &B) -> Result<MixerState<B>> {
                match self {
                    $(Weights::$name(w) => Ok(MixerState::$name(w.start(ops)?)),)*
                }
            }

            /// Adds to the residual stream what the mixer makes of `norm(r)`.
            pub fn forward(
                &self,
                ops: &B,
                norm: &NormWeights<B::Vector>,
                r: &mut B::Rows,
                pass: &mut Pass<'_, B>,
                state: &mut MixerState<B>,
            ) -> Result<()> {
                match (self, state) {
                    $((Weights::$name(w), MixerState::$name(s)) => w.forward(ops, norm, r, pass, s),)*
                    _ => unreachable!("a state of another model"),
                }
            }
        }
    };
}

// The table: a mixer is one line here and one file.
mixers! {
    Mamba = mamba::Mamba<'a, B>, mamba::ScanMixerState<B>;
    Attention = attention::Attention<'a, B>, attention::AttentionState<B>;
    SwiGlu = swiglu::SwiGlu<'a, B>, ();
    Retention = retention::Retention<'a, B>, B::Vector;
    Gla = gla::Gla<'a, B>, B::Vector;
    Mega = mega::Mega<'a, B>, mega::MegaState<B>;
    DifferentialAttention = differential_attention::DifferentialAttention<'a, B>, B::KeyValues;
    CrossAttention = cross_attention::CrossAttention<'a, B>, ();
    GatedMemory = gated_memory::GatedMemory<'a, B>, ();
    HeadedMamba = headed_mamba::HeadedMamba<'a, B>, headed_mamba::HeadedMambaState<B>;
}

impl<B: Backend> Weights<'_, B> {
    /// Makes room for what positions below `end` leave behind, which only attention's keys and values need; whether anything
    /// moved for it.
    pub fn reserve(&self, ops: &B, state: &mut MixerState<B>, end: u64) -> Result<bool> {
        match (self, state) {
            (Weights::Attention(w), MixerState::Attention(s)) => w.reserve(ops, s, end),
            (Weights::DifferentialAttention(w), MixerState::DifferentialAttention(s)) => w.reserve(ops, s, end),
            _ => Ok(false),
        }
    }
}
