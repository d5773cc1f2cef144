//! A model of ours in ONNX Runtime: a graph that takes states and gives them back.

use super::library::runtime;
use crate::Result;
use ort::memory::Allocator;
use ort::session::{Session as Inner, SessionInputValue};
use ort::value::{DynTensor, DynValue, Tensor, TensorElementType, ValueType};
use std::borrow::Cow;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Numbers that all states of a sequence may have together before its first token.
const MAX_STATE: usize = 1 << 28;

/// A loaded graph.
pub struct Session {
    path: PathBuf,
    /// Running takes it mutably; runs do not overlap.
    inner: RefCell<Inner>,
    states: Vec<StatePort>,
}

/// A state that the graph takes as one input and gives back as one output.
struct StatePort {
    past: String,
    present: String,
    kind: TensorElementType,
    /// Before the first token: nothing of what grows, zeros of what does not.
    shape: Vec<i64>,
}

/// What a sequence has left behind.
pub struct SessionState {
    position: usize,
    /// In the order of the session's ports.
    states: Vec<DynValue>,
}

impl Session {
    /// Loads the graph at `path`, with this program's kernels for the operators of `ai.samba` where the library takes them.
    pub fn load(path: &Path) -> Result<Session> {
        let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let runtime = runtime().map_err(|e| at(&e))?;
        let build = || -> Result<Inner> {
            let builder = Inner::builder(&runtime.environment)?;
            let mut builder = builder.with_intra_threads(rayon::current_num_threads()).map_err(|e| e.to_string())?;
            if let Some(operators) = runtime.operators()? {
                builder = builder.with_operators(operators).map_err(|e| e.to_string())?;
            }
            Ok(builder.commit_from_file(path)?)
        };
        let inner = build().map_err(|e| at(&format_args!("ONNX Runtime {}: {e}", runtime.version)))?;
        let states = state_ports(&inner).map_err(|e| at(&e))?;
        Ok(Session { path: path.to_owned(), inner: RefCell::new(inner), states })
    }

    /// What runs it, in words.
    pub fn describe(&self) -> Result<String> {
        Ok(format!("ONNX Runtime {}", runtime()?.version))
    }

    /// The state before the first token.
    pub fn start(&self) -> Result<SessionState> {
        let allocator = Allocator::default();
        let empty = |port: &StatePort| Ok(DynTensor::new(&allocator, port.kind, port.shape.as_slice())?.into_dyn());
        Ok(SessionState { position: 0, states: self.states.iter().map(empty).collect::<Result<_>>()? })
    }

    /// Runs `tokens` after `state`, which moves on. Logits: a row of the padded vocabulary's size for every token.
    pub fn forward(&self, tokens: &[u32], state: &mut SessionState) -> Result<Vec<f32>> {
        self.run(tokens, state).map_err(|e| format!("{}: ONNX Runtime: {e}", self.path.display()).into())
    }

    fn run(&self, tokens: &[u32], state: &mut SessionState) -> Result<Vec<f32>> {
        let end = state.position + tokens.len();
        let ids: Vec<i64> = tokens.iter().map(|t| i64::from(*t)).collect();
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            ("input_ids".into(), Tensor::from_array(([1, ids.len()], ids))?.into()),
            ("attention_mask".into(), Tensor::from_array(([1, end], vec![1i64; end]))?.into()),
        ];
        for (port, value) in self.states.iter().zip(&state.states) {
            inputs.push((port.past.as_str().into(), value.into()));
        }
        let mut inner = self.inner.borrow_mut();
        let mut outputs = inner.run(inputs)?;
        let mut take = |name: &str| outputs.remove(name).ok_or_else(|| format!("expected output {name}, found none"));
        let logits = take("logits")?;
        let next = self.states.iter().map(|port| take(&port.present)).collect::<std::result::Result<_, _>>()?;
        *state = SessionState { position: end, states: next };
        Ok(logits.try_extract_tensor::<f32>()?.1.to_vec())
    }
}

/// The states of a graph, by the names of its inputs.
fn state_ports(session: &Inner) -> Result<Vec<StatePort>> {
    let mut ports = Vec::new();
    let mut numbers = 0usize;
    for input in session.inputs() {
        let Some(rest) = input.name().strip_prefix("past_key_values.") else { continue };
        let ValueType::Tensor { ty, shape, dimension_symbols } = input.dtype() else {
            return Err(format!("input {}: expected a tensor, found another type", input.name()).into());
        };
        let extents = shape.iter().zip(dimension_symbols.iter()).map(|(extent, symbol)| match &**symbol {
            "batch_size" => 1,
            _ => (*extent).max(0),
        });
        let shape: Vec<i64> = extents.collect();
        let count = shape.iter().try_fold(1usize, |n, extent| n.checked_mul(usize::try_from(*extent).ok()?));
        numbers = count.and_then(|n| n.checked_add(numbers)).unwrap_or(usize::MAX);
        if numbers > MAX_STATE {
            let found = format!("more at input {}", input.name());
            return Err(format!("expected states of at most {MAX_STATE} numbers, found {found}").into());
        }
        ports.push(StatePort { past: input.name().to_owned(), present: format!("present.{rest}"), kind: *ty, shape });
    }
    Ok(ports)
}
