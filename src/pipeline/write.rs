//! Source to file, a tensor at a time: reading and encoding on all threads while the previous tensor is written.

use super::source_hash::{HEX_LENGTH, SourceHash};
use crate::Result;
use crate::progress::Progress;
use crate::source::{OpenModel, files_of};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use tamborim_converters::SafetensorsWriter;
use tamborim_converters::gguf::{Architecture, GgufWriter, Metadata, write_plan, write_tokenizer};
use tamborim_model::{Naming, TensorSpec, View};
use tamborim_quant::{Format, Tensor, TensorSource};

/// Tensors that wait for the disk while the next is being made.
const QUEUE: usize = 2;

/// The key of the source's hash.
const SOURCE_HASH: &str = "tamborim.source.sha256";

/// What was written.
pub struct Written {
    pub bytes: u64,
    pub seconds: f64,
}

/// Writes `model` as GGUF with the format that `choose` gives each tensor, into which `encode` puts those that are in
/// another. The file appears whole or not at all.
pub fn write_gguf(
    model: &OpenModel,
    output: &Path,
    what: &str,
    choose: impl Fn(&TensorSpec) -> Result<Format> + Sync,
    encode: impl Fn(&TensorSpec, &Tensor<'_>, Format) -> Result<Tensor<'static>>,
) -> Result<Written> {
    refuse_overwriting(model, output)?;
    let hash = SourceHash::begin(model)?;
    let source = model.source();
    let specs = source.plan().tensors();
    let formats = specs.iter().map(&choose).collect::<Result<Vec<_>>>()?;
    let mut writer = GgufWriter::create(output)?;
    let architecture = Architecture::of(source.plan());
    write_plan(&mut writer.metadata, source.plan(), architecture);
    writer.metadata.insert("general.file_type", dominant(&specs, &formats).file_type());
    if formats.iter().any(|f| f.is_quantized()) {
        writer.metadata.insert("general.quantization_version", 2u32);
    }
    let tokenizer = model.find_tokenizer()?;
    match &tokenizer {
        Some(t) => write_tokenizer(&mut writer.metadata, t, source.plan().padded_vocab_size)?,
        // llama.cpp wants to be told.
        None => drop(writer.metadata.insert("tokenizer.ggml.model", "none")),
    }
    let additions = architecture.additions(source.plan());
    let mut total = 0;
    for (spec, format) in specs.iter().zip(&formats) {
        total += writer.declare(&spec.name, &spec.shape, format.gguf_type())? as u64;
    }
    for (name, numbers) in &additions {
        writer.declare(name, &[numbers.len()], Format::F32.gguf_type())?;
    }
    let progress = Progress::bytes(what, total);
    let tensors = specs.iter().zip(&formats).map(|(spec, format)| {
        let tensor = in_format(model, spec, *format, &encode)?;
        Ok((spec, architecture.store(source.plan(), spec, tensor)))
    });
    stream(tensors, |tensors| {
        // The hash takes as long as the tensors: its place is kept until it is known.
        describe_source(&mut writer.metadata, model, &" ".repeat(HEX_LENGTH));
        let mut body = writer.write_header()?;
        for (spec, tensor) in tensors {
            body.tensor(&spec.name, &tensor.bytes)?;
            source.release();
            progress.advance(tensor.bytes.len() as u64);
        }
        for (name, numbers) in &additions {
            body.tensor(name, bytemuck::cast_slice(numbers))?;
        }
        body.replace_text(SOURCE_HASH, &hash.wait()?)?;
        Ok(body.finish()?)
    })?;
    Ok(Written { bytes: std::fs::metadata(output).map(|m| m.len()).unwrap_or(total), seconds: progress.finish() })
}

/// Says in a file's metadata what it was made from.
pub fn describe_source(metadata: &mut Metadata, model: &OpenModel, hash: &str) {
    metadata.insert("tamborim.version", env!("CARGO_PKG_VERSION"));
    metadata.insert("tamborim.source.name", file_name(model.path()));
    metadata.insert(SOURCE_HASH, hash);
}

/// A tensor of the model in `format`, into which `encode` puts it if it is in another.
pub fn in_format<'m>(
    model: &'m OpenModel,
    spec: &TensorSpec,
    format: Format,
    encode: impl Fn(&TensorSpec, &Tensor<'_>, Format) -> Result<Tensor<'static>>,
) -> Result<Tensor<'m>> {
    let tensor = model.source().read(spec)?;
    if tensor.format == format {
        return Ok(tensor);
    }
    encode(spec, &tensor, format).map_err(|e| format!("{}: tensor {}: {e}", model.path().display(), spec.name).into())
}

/// Makes items on this thread while `write` takes them on another.
pub fn stream<T: Send, R: Send>(
    items: impl Iterator<Item = Result<T>>,
    write: impl FnOnce(Receiver<T>) -> Result<R> + Send,
) -> Result<R> {
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel::<T>(QUEUE);
        let writing = scope.spawn(move || write(receive));
        let mut making = Ok(());
        for item in items {
            match item {
                // A closed channel means that writing failed, and says why below.
                Ok(item) => {
                    if send.send(item).is_err() {
                        break;
                    }
                }
                Err(e) => {
                    making = Err(e);
                    break;
                }
            }
        }
        drop(send);
        let written = writing.join().map_err(|_| "writing failed")?;
        making.and(written)
    })
}

/// The encoding that knows nothing but the numbers.
pub fn nearest(_: &TensorSpec, tensor: &Tensor<'_>, to: Format) -> Result<Tensor<'static>> {
    Ok(tensor.recode(to, None)?)
}

/// The format itself if it is a float, else F32: for files that hold floats only.
pub fn as_float(format: Format) -> Format {
    if format.is_quantized() { Format::F32 } else { format }
}

/// The input is mapped while the output is written, and nobody wants to lose it by a typing error.
pub fn refuse_overwriting(model: &OpenModel, output: &Path) -> Result<()> {
    let Ok(output) = output.canonicalize() else { return Ok(()) };
    let inputs: Vec<PathBuf> = files_of(model.path())?;
    match inputs.iter().any(|i| i.canonicalize().is_ok_and(|i| i == output)) {
        true => Err(format!("{}: expected an output file other than the input", output.display()).into()),
        false => Ok(()),
    }
}

/// The format that most numbers are in.
fn dominant(specs: &[TensorSpec], formats: &[Format]) -> Format {
    let weight =
        |f: Format| -> usize { specs.iter().zip(formats).filter(|(_, g)| **g == f).map(|(s, _)| s.elements()).sum() };
    Format::ALL.iter().copied().max_by_key(|f| weight(*f)).unwrap_or(Format::F32)
}

fn file_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Writes `model` as safetensors, under the names that its checkpoints have. Formats are scalar ones.
pub fn write_safetensors(
    model: &OpenModel,
    output: &Path,
    choose: impl Fn(&TensorSpec) -> Result<Format>,
) -> Result<Written> {
    refuse_overwriting(model, output)?;
    let (source, naming) = (model.source(), model.naming());
    let specs = source.plan().tensors();
    let mut stored: Vec<StoredTensor<'_>> = Vec::new();
    for spec in &specs {
        let place = spec.stored(naming).ok_or_else(|| format!("{}: this naming has no place for it", spec.name))?;
        match stored.iter_mut().find(|s| s.key == place.key) {
            Some(s) => s.parts.push(spec),
            None => {
                let dtype = as_float(choose(spec)?);
                stored.push(StoredTensor {
                    key: &place.key,
                    shape: spec.stored_shape(place),
                    dtype,
                    parts: vec![spec],
                });
            }
        }
    }
    let declared: Vec<_> = stored.iter().map(|s| (s.key, s.dtype.name().to_uppercase(), s.shape.clone())).collect();
    let declared: Vec<_> = declared.iter().map(|(k, d, s)| (*k, d.as_str(), s.clone())).collect();
    let mut writer = SafetensorsWriter::create(output, &declared)?;
    let total = stored.iter().map(|s| s.shape.iter().product::<usize>() * s.dtype.block_bytes()).sum::<usize>() as u64;
    let progress = Progress::bytes("convert", total);
    for tensor in &stored {
        let bytes = tensor.assemble(source, naming)?;
        writer.put(&bytes)?;
        source.release();
        progress.advance(bytes.len() as u64);
    }
    writer.finish()?;
    Ok(Written { bytes: std::fs::metadata(output).map(|m| m.len()).unwrap_or(total), seconds: progress.finish() })
}

/// A tensor as a checkpoint has it, and the canonical ones it is made of.
struct StoredTensor<'s> {
    key: &'s str,
    shape: Vec<usize>,
    dtype: Format,
    parts: Vec<&'s TensorSpec>,
}

impl StoredTensor<'_> {
    /// The inverse of every part's view.
    fn assemble(&self, source: &dyn TensorSource, naming: Naming) -> Result<Vec<u8>> {
        let row_bytes = self.shape[1..].iter().product::<usize>() * self.dtype.block_bytes();
        let mut bytes = vec![0; self.shape[0] * row_bytes];
        for spec in &self.parts {
            let tensor = source.read(spec)?;
            match spec.stored(naming).map(|s| &s.view) {
                Some(View::HeadsOfGroups { groups, per_group, first, count, head }) => {
                    let part = tensor.recode(self.dtype, None)?;
                    let head_bytes = head * row_bytes;
                    for (group, rows) in (0..*groups).zip(part.bytes.chunks_exact(count * head_bytes)) {
                        bytes[(group * per_group + first) * head_bytes..][..rows.len()].copy_from_slice(rows);
                    }
                }
                Some(View::NegExp) => bytes.copy_from_slice(&self.mapped(&tensor, |a| (-a).ln())?),
                Some(View::Plus(offset)) => bytes.copy_from_slice(&self.mapped(&tensor, |x| x - offset)?),
                _ => bytes.copy_from_slice(&tensor.recode(self.dtype, None)?.bytes),
            }
        }
        Ok(bytes)
    }
    /// The numbers after `f` in float64, in this tensor's type.
    fn mapped(&self, tensor: &Tensor<'_>, f: impl Fn(f64) -> f64) -> Result<Vec<u8>> {
        let numbers: Vec<f32> = tensor.to_f32().iter().map(|x| f(f64::from(*x)) as f32).collect();
        Ok(Tensor::quantize(&numbers, tensor.shape.clone(), self.dtype, None)?.bytes.into_owned())
    }
}
