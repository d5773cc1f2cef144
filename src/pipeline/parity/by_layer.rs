//! Where in the model the difference comes from: the residual stream after each block.

use crate::Result;
use crate::pipeline::runner::Runner;
use crate::report::LayerDistance;
use tamborim_kernels::parity::RelativeError;
use tamborim_kernels::{Backend, Model, State};

/// Tokens of the text that are looked at.
const TOKENS: usize = 1024;
/// Tokens whose residual streams are kept at a time.
const PIECE: usize = 256;

/// For each candidate, how far its residual stream is from the reference's after each block, over the first tokens of the
/// text in windows of `context`. Nothing for models that are not run by our own runtime or have other blocks.
pub fn by_layer<B: Backend>(
    reference: &Runner<'_, B>,
    candidates: &[Runner<'_, B>],
    ids: &[u32],
    context: usize,
) -> Result<Vec<Vec<LayerDistance>>> {
    let blocks = reference.plan().blocks.len();
    let same = |c: &Runner<'_, B>| c.plan().blocks.len() == blocks && c.plan().d_model == reference.plan().d_model;
    let Some(first) = reference.model() else { return Ok(candidates.iter().map(|_| Vec::new()).collect()) };
    let models: Vec<_> = candidates.iter().map(|c| c.model().filter(|_| same(c))).collect();
    let mut errors = vec![vec![RelativeError::default(); blocks]; candidates.len()];
    for window in ids[..ids.len().min(TOKENS)].chunks(context) {
        let mut state = first.start()?;
        let mut states =
            models.iter().map(|m| m.map(|m| m.start()).transpose()).collect::<std::result::Result<Vec<_>, _>>()?;
        for piece in window.chunks(PIECE) {
            let truth = residual_streams(first, piece, &mut state)?;
            for ((model, state), errors) in models.iter().zip(&mut states).zip(&mut errors) {
                let (Some(model), Some(state)) = (model, state) else { continue };
                let found = residual_streams(*model, piece, state)?;
                errors.iter_mut().zip(truth.iter().zip(&found)).for_each(|(error, (a, b))| error.add(a, b));
            }
        }
    }
    let describe = |(model, errors): (&Option<&Model<'_, B>>, Vec<RelativeError>)| {
        let of_block = |(block, error): (usize, RelativeError)| LayerDistance {
            block,
            mixer: first.plan().blocks[block].branches[0].mixer.word().to_owned(),
            relative_distance: error.value(),
        };
        if model.is_some() { errors.into_iter().enumerate().map(of_block).collect() } else { Vec::new() }
    };
    Ok(models.iter().zip(errors).map(describe).collect())
}

/// Of all blocks, of all tokens.
fn residual_streams<B: Backend>(model: &Model<'_, B>, tokens: &[u32], state: &mut State<B>) -> Result<Vec<Vec<f32>>> {
    let mut streams = vec![Vec::new(); model.plan().blocks.len()];
    model.hidden(tokens, state, |block, rows| -> Result<()> {
        streams[block].extend(model.backend().read(rows)?);
        Ok(())
    })?;
    Ok(streams)
}
