use crate::cli::{Convert, Dtype};
use crate::output::bytes;
use crate::pipeline::genai::{self, write_folder};
use crate::pipeline::write::{Written, as_float, nearest, write_gguf, write_safetensors};
use crate::pipeline::write_onnx::{nearest_blocks, onnx_alone, write_onnx};
use crate::source::OpenModel;
use crate::{Outcome, Result};
use std::path::Path;
use tamborim_converters::onnx::{Options, Storage};
use tamborim_model::TensorSpec;
use tamborim_quant::Format;

pub fn run(args: &Convert) -> Result<Outcome> {
    let model = OpenModel::open(&args.source, &args.open)?;
    let read = model.bytes()?;
    let output = genai::output(args.output.as_ref(), args.genai.as_ref())?;
    let extension = output.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if extension != "onnx" {
        onnx_alone(&[("--pure-onnx", args.pure_onnx)])?;
    }
    let choose = |spec: &TensorSpec| chosen(args.dtype, &model, spec);
    let Written { bytes: written, seconds } = match extension {
        "gguf" => write_gguf(&model, &output, "convert", choose, nearest)?,
        "onnx" => {
            let storage = |spec: &TensorSpec| Ok(Storage::Float(as_float(choose(spec)?)));
            let options = Options { pure: args.pure_onnx };
            let write = |path: &Path| write_onnx(&model, path, "convert", options, storage, nearest_blocks);
            match &args.genai {
                Some(folder) => write_folder(&model, folder, write)?,
                None => write(&output)?,
            }
        }
        "safetensors" => write_safetensors(&model, &output, choose)?,
        _ => {
            return Err(format!(
                "{}: expected a file name that ends in .gguf, .onnx or .safetensors",
                output.display()
            )
            .into());
        }
    };
    eprintln!(
        "{}: {} to {} in {:.2} s ({:.2} GB/s)",
        output.display(),
        bytes(read),
        bytes(written),
        seconds,
        read as f64 / 1e9 / seconds.max(1e-9)
    );
    Ok(Outcome::Done)
}

/// Linear maps get the type asked for, everything else float32.
fn chosen(dtype: Dtype, model: &OpenModel, spec: &TensorSpec) -> Result<Format> {
    if !spec.role.is_linear() {
        return Ok(Format::F32);
    }
    Ok(match dtype {
        Dtype::Source => model.source().format(spec)?,
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::Bf16 => Format::Bf16,
    })
}
