//! A model that runs, whatever runs it: logits come as the rows of a backend either way.

use crate::Result;
use crate::onnxruntime::{Session, SessionState};
use crate::source::{OpenModel, Reader};
use tamborim_kernels::sample::likeliest;
use tamborim_kernels::{Backend, Logits, Model, State};
use tamborim_model::Plan;
use tamborim_quant::TensorSource;

/// A loaded model.
pub enum Runner<'a, B: Backend> {
    /// Our own runtime, on the backend.
    Own(Model<'a, B>),
    /// ONNX Runtime on the CPU; only what is made of the logits is the backend's.
    OnnxRuntime { session: Box<Session>, backend: &'a B, plan: &'a Plan },
}

/// A sequence under way: what its tokens so far have left behind.
pub enum Sequence<'r, 'a, B: Backend> {
    Own(&'r Model<'a, B>, Box<State<B>>),
    OnnxRuntime { session: &'r Session, backend: &'a B, plan: &'a Plan, state: SessionState },
}

impl<'a, B: Backend> Runner<'a, B> {
    /// Loads a model for what its file is meant to be run by: ONNX Runtime for a graph, our own runtime for all else.
    pub fn load(backend: &'a B, opened: &'a OpenModel) -> Result<Self> {
        match &opened.reader {
            Reader::Onnx(_) => {
                let session = Box::new(Session::load(opened.path())?);
                Ok(Runner::OnnxRuntime { session, backend, plan: opened.source().plan() })
            }
            Reader::Checkpoint(_) | Reader::Gguf(_) => Self::own(backend, opened.source()),
        }
    }

    /// Loads a model for our own runtime.
    pub fn own(backend: &'a B, source: &'a dyn TensorSource) -> Result<Self> {
        Ok(Runner::Own(Model::load(backend, source)?))
    }

    /// The model, where our own runtime runs it: what is inside can be looked at.
    pub fn model(&self) -> Option<&Model<'a, B>> {
        match self {
            Runner::Own(model) => Some(model),
            Runner::OnnxRuntime { .. } => None,
        }
    }

    /// What its logits are rows of.
    pub fn backend(&self) -> &'a B {
        match self {
            Runner::Own(model) => model.backend(),
            Runner::OnnxRuntime { backend, .. } => backend,
        }
    }

    /// The device in its other mode, where that would make a difference.
    pub fn other_mode(&self) -> Result<Option<B>> {
        match self {
            Runner::Own(model) => Ok(model.backend().other_mode()?),
            Runner::OnnxRuntime { .. } => Ok(None),
        }
    }

    /// What it computes on, in words.
    pub fn describe(&self) -> Result<String> {
        match self {
            Runner::Own(model) => Ok(model.backend().describe()),
            Runner::OnnxRuntime { session, .. } => session.describe(),
        }
    }

    /// The plan of the model.
    pub fn plan(&self) -> &Plan {
        match self {
            Runner::Own(model) => model.plan(),
            Runner::OnnxRuntime { plan, .. } => plan,
        }
    }

    /// A sequence before its first token.
    pub fn start(&self) -> Result<Sequence<'_, 'a, B>> {
        Ok(match self {
            Runner::Own(model) => Sequence::Own(model, Box::new(model.start()?)),
            Runner::OnnxRuntime { session, backend, plan } => {
                Sequence::OnnxRuntime { session, backend, plan, state: session.start()? }
            }
        })
    }
}

/// What models compute on, in words.
pub fn devices<B: Backend>(models: [&Runner<'_, B>; 2]) -> Result<String> {
    let mut devices = models.into_iter().map(Runner::describe).collect::<Result<Vec<_>>>()?;
    devices.dedup();
    Ok(devices.join(", "))
}

impl<B: Backend> Sequence<'_, '_, B> {
    /// Runs `tokens` after those before, and hands logits to `sink` chunk by chunk: rows of the padded vocabulary's size, of
    /// every token or of the last one only.
    pub fn forward(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        mut sink: impl FnMut(B::Rows) -> Result<()>,
    ) -> Result<()> {
        let (session, backend, vocab_size, state) = match self {
            Sequence::Own(model, state) => return model.forward(tokens, state, logits, sink),
            Sequence::OnnxRuntime { session, backend, plan, state } => {
                (session, backend, plan.padded_vocab_size, state)
            }
        };
        let mut chunks = tokens.chunks(backend.chunk()).peekable();
        while let Some(chunk) = chunks.next() {
            let mut numbers = session.forward(chunk, state)?;
            if numbers.len() != chunk.len() * vocab_size {
                let (rows, found) = (chunk.len(), numbers.len());
                return Err(format!("logits: expected {rows} rows of {vocab_size}, found {found} numbers").into());
            }
            match logits {
                Logits::Last if chunks.peek().is_some() => continue,
                Logits::Last => drop(numbers.drain(..(chunk.len() - 1) * vocab_size)),
                Logits::All => (),
            }
            sink(backend.rows(vocab_size, numbers)?)?;
        }
        Ok(())
    }

    /// Runs `token` after those before, then the likeliest token after it, and so on, `count` of them; the likeliest after
    /// each.
    pub fn continue_greedily(&mut self, token: u32, count: usize) -> Result<Vec<u32>> {
        let (backend, vocab_size) = match self {
            Sequence::Own(model, state) => return Ok(model.continue_greedily(token, count, state)?),
            Sequence::OnnxRuntime { backend, plan, .. } => (*backend, plan.vocab_size),
        };
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count {
            let next = [*chosen.last().unwrap_or(&token)];
            self.forward(&next, Logits::Last, |logits| {
                chosen.push(likeliest(&backend.read(&logits)?[..vocab_size]));
                Ok(())
            })?;
        }
        Ok(chosen)
    }
}
