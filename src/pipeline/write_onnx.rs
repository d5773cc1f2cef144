//! Source to ONNX: the graph of the model's plan, and its tensors as the graph wants them.

use super::source_hash::SourceHash;
use super::write::{Written, describe_source, in_format, nearest, refuse_overwriting, stream};
use crate::Result;
use crate::output::note;
use crate::progress::Progress;
use crate::source::OpenModel;
use std::collections::HashMap;
use std::path::Path;
use tamborim_converters::gguf::{Architecture, Metadata, write_plan, write_tokenizer};
use tamborim_converters::onnx::{Numbers, OnnxWriter, Options, Part, Storage, Stored, export};
use tamborim_model::TensorSpec;
use tamborim_quant::{NBits, NBitsMatrix, Tensor};

/// Refuses options that say something about ONNX where no such file is written: name, and whether it was given.
pub fn onnx_alone(options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(format!("{name}: expected an .onnx file to write").into()),
        None => Ok(()),
    }
}

/// Writes `model` as ONNX, each linear map stored as `choose` says; `encode` puts numbers into blocks. The files appear whole
/// or not at all.
pub fn write_onnx(
    model: &OpenModel,
    output: &Path,
    what: &str,
    options: Options,
    choose: impl Fn(&TensorSpec) -> Result<Storage>,
    encode: impl Fn(&TensorSpec, &Tensor<'_>, NBits) -> Result<NBitsMatrix<'static>>,
) -> Result<Written> {
    refuse_overwriting(model, output)?;
    let hash = SourceHash::begin(model)?;
    let source = model.source();
    let plan = source.plan();
    let linear = plan.tensors().into_iter().filter(|s| s.role.is_linear());
    let storages = linear.map(|s| Ok((s.name.clone(), choose(&s)?))).collect::<Result<HashMap<_, _>>>()?;
    let export = export(plan, options, &|spec| storages[&spec.name]);
    export.notes.iter().for_each(|line| note(line.clone()));
    let stored = export.stored.clone();
    let mut writer = OnnxWriter::create(output, export)?;
    let mut metadata = Metadata::new(output);
    // Those of llama.cpp's that store queries and keys in another order are not meant here.
    let architecture = match Architecture::of(plan) {
        own @ (Architecture::Plamo2 | Architecture::Phi4Flash) => own,
        _ => Architecture::Samba,
    };
    write_plan(&mut metadata, plan, architecture);
    if let Some(tokenizer) = model.find_tokenizer()? {
        write_tokenizer(&mut metadata, &tokenizer, plan.padded_vocab_size)?;
    }
    let progress = Progress::bytes(what, stored.iter().map(|s| s.n_bytes() as u64).sum());
    let tensors: Vec<&[Stored]> = stored.chunk_by(|a, b| a.spec.name == b.spec.name).collect();
    let made = tensors.iter().map(|parts| {
        let Stored { spec, storage, .. } = &parts[0];
        let mut numbers = match *storage {
            // Matrices of floats are converted as they are turned.
            Storage::Float(_) if parts[0].part == Part::Transposed && !source.format(spec)?.is_quantized() => {
                Numbers::Float(source.read(spec)?)
            }
            Storage::Float(format) => Numbers::Float(in_format(model, spec, format, nearest)?),
            Storage::Blocks(grid) => Numbers::Blocks(encode(spec, &source.read(spec)?, grid)?),
        };
        Ok(parts.iter().map(|part| part.take(&mut numbers)).collect::<Vec<_>>())
    });
    let bytes = stream(made, |made| {
        for content in made.into_iter().flatten() {
            progress.advance(writer.put(content)? as u64);
            source.release();
        }
        describe_source(&mut metadata, model, &hash.wait()?);
        Ok(writer.finish(&metadata)?)
    })?;
    Ok(Written { bytes, seconds: progress.finish() })
}

/// The encoding that knows nothing but the numbers.
pub fn nearest_blocks(spec: &TensorSpec, tensor: &Tensor<'_>, grid: NBits) -> Result<NBitsMatrix<'static>> {
    Ok(NBitsMatrix::quantize(&tensor.to_f32(), [spec.shape[0], spec.shape[1]], grid, None)?)
}
