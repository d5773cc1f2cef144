//! The mixers' math, one file each; what they are made of is in `tamborim_model::mixers`.

mod attention;
mod gated_output;
mod gla;
mod mamba;
mod mega;
mod retention;
mod swiglu;

use crate::Result;
use crate::cpu::Rows;
use crate::loader::Loader;
use tamborim_model::Mixer;

/// Where a chunk stands in its sequence.
#[derive(Clone, Copy)]
pub struct Chunk<'r> {
    /// Position of its first token.
    pub position: u64,
    /// The residual stream, for the mixer that gates it.
    pub residual: &'r Rows,
}

macro_rules! mixers {
    ($($name:ident = $weights:ty, $state:ty;)*) => {
        /// A mixer with its weights.
        pub enum Weights<'a> {
            $(
                #[doc = concat!("[`", stringify!($name), "`](tamborim_model::Mixer)")]
                $name($weights),
            )*
        }

        /// What a mixer carries from token to token.
        #[derive(Clone, Debug)]
        pub enum MixerState {
            $(
                #[doc = concat!("State of [`", stringify!($name), "`](tamborim_model::Mixer)")]
                $name($state),
            )*
        }

        impl<'a> Weights<'a> {
            /// Reads the tensors of `mixer`.
            pub fn load(mixer: &Mixer, loader: &Loader<'a, '_>) -> Result<Weights<'a>> {
                match mixer {
                    $(Mixer::$name(m) => Ok(Weights::$name(<$weights>::load(m, loader)?)),)*
                }
            }

            /// The state before the first token.
            pub fn start(&self) -> MixerState {
                match self {
                    $(Weights::$name(w) => MixerState::$name(w.start()),)*
                }
            }

            /// What the mixer adds to the residual stream for the normed rows `x`.
            pub fn forward(&self, x: &Rows, chunk: Chunk<'_>, state: &mut MixerState) -> Rows {
                match (self, state) {
                    $((Weights::$name(w), MixerState::$name(s)) => w.forward(x, chunk, s),)*
                    _ => unreachable!("a state of another model"),
                }
            }
        }
    };
}

// The table: a mixer is one line here and one file.
mixers! {
    Mamba = mamba::Mamba<'a>, mamba::ScanMixerState;
    Attention = attention::Attention<'a>, attention::AttentionState;
    SwiGlu = swiglu::SwiGlu<'a>, ();
    Retention = retention::Retention<'a>, crate::cpu::recurrence::OuterState;
    Gla = gla::Gla<'a>, crate::cpu::recurrence::OuterState;
    Mega = mega::Mega<'a>, mega::MegaState;
}
