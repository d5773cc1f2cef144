//! A folder that onnxruntime-genai runs: the model, its configuration, and its tokenizer as Hugging Face has it.

use super::write::Written;
use crate::Result;
use crate::output::note;
use crate::source::OpenModel;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tamborim_converters::AtomicFile;
use tamborim_converters::onnx::genai_config;
use tamborim_converters::tokenizer_json::{tokenizer_config_json, tokenizer_json};
use tamborim_model::tokenizer::{Kind, PieceType, Tokenizer};

/// The model's name in its folder.
const MODEL: &str = "model.onnx";

/// Where a command writes its model: the file that was asked for, or the one in the folder for onnxruntime-genai.
pub fn output(file: Option<&PathBuf>, genai: Option<&PathBuf>) -> Result<PathBuf> {
    match (file, genai) {
        (Some(file), _) => Ok(file.clone()),
        (None, Some(folder)) => Ok(folder.join(MODEL)),
        (None, None) => Err("expected an output file (-o)".into()),
    }
}

/// Makes the folder, lets `write` write the model into it, and adds the rest. A tokenizer that onnxruntime-genai cannot run is
/// left out, and a note says so: it runs the model on token ids all the same.
pub fn write_folder(model: &OpenModel, folder: &Path, write: impl FnOnce(&Path) -> Result<Written>) -> Result<Written> {
    let tokenizer = model.tokenizer()?;
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let written = write(&folder.join(MODEL))?;
    let put = |name: &str, content: &Value| -> Result<()> {
        let mut file = AtomicFile::create(&folder.join(name))?;
        file.put(serde_json::to_string_pretty(content)?.as_bytes())?;
        Ok(file.commit()?)
    };
    put("genai_config.json", &genai_config(model.source().plan(), &tokenizer, MODEL))?;
    match readable_tokenizer(&tokenizer) {
        Ok(json) => {
            put("tokenizer.json", &json)?;
            put("tokenizer_config.json", &tokenizer_config_json(&tokenizer))?;
        }
        Err(reason) => note(format!("onnxruntime-genai {reason}: give it token ids, the folder has no tokenizer")),
    }
    Ok(written)
}

/// `tokenizer.json`, or why onnxruntime-genai (0.18) would read other ids from it than the tokenizer gives.
fn readable_tokenizer(tokenizer: &Tokenizer) -> std::result::Result<Value, &'static str> {
    let pieces = tokenizer.pieces();
    if pieces.kind == Kind::Unigram && pieces.types.contains(&PieceType::Byte) {
        return Err("renumbers the byte pieces of unigram tokenizers");
    }
    tokenizer_json(tokenizer).ok_or("has no tokenizer like PLaMo's")
}
