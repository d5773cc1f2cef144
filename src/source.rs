//! Any model the tool can read, opened by what the path holds.

use crate::Result;
use crate::cli::Open;
use crate::report::ModelFacts;
use std::path::{Path, PathBuf};
use tamborim_converters::CheckpointModel;
use tamborim_converters::gguf::{self, GgufFile, GgufModel};
use tamborim_converters::onnx::{self, OPSET, OnnxFile, OnnxModel};
use tamborim_model::Naming;
use tamborim_model::tokenizer::Tokenizer;
use tamborim_quant::TensorSource;

/// Largest tokenizer file read.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// Tokenizers beside a checkpoint, by what they are best read from.
const TOKENIZERS: [&str; 3] = ["tokenizer.model", "tokenizer.jsonl", "tokenizer.json"];
/// What a tokenizer of Hugging Face has beside it.
const TOKENIZER_SETTINGS: &str = "tokenizer_config.json";

/// The reader behind a model.
pub enum Reader {
    Checkpoint(CheckpointModel),
    Gguf(Box<GgufModel>),
    Onnx(Box<OnnxModel>),
}

/// An opened model.
pub struct OpenModel {
    path: PathBuf,
    pub reader: Reader,
    tokenizer: Option<PathBuf>,
}

impl OpenModel {
    pub fn open(path: &Path, how: &Open) -> Result<OpenModel> {
        let reader = if is_gguf(path) {
            Reader::Gguf(Box::new(GgufModel::new(GgufFile::open(path)?, how.allow_nonfinite)?))
        } else if onnx::is_onnx(path) {
            Reader::Onnx(Box::new(OnnxModel::new(OnnxFile::open(path)?, how.allow_nonfinite)?))
        } else {
            Reader::Checkpoint(CheckpointModel::open(path, how.config.as_deref(), how.allow_nonfinite)?)
        };
        Ok(OpenModel { path: path.to_owned(), reader, tokenizer: how.tokenizer.clone() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn source(&self) -> &dyn TensorSource {
        match &self.reader {
            Reader::Checkpoint(m) => m,
            Reader::Gguf(m) => m.as_ref(),
            Reader::Onnx(m) => m.as_ref(),
        }
    }

    /// The tokenizer that was asked for, else the one in the file, else the one beside it.
    pub fn find_tokenizer(&self) -> Result<Option<Tokenizer>> {
        if let Some(path) = &self.tokenizer {
            return read_tokenizer(path).map(Some);
        }
        let inside = match &self.reader {
            Reader::Gguf(m) => m.tokenizer()?,
            Reader::Onnx(m) => m.tokenizer()?,
            Reader::Checkpoint(_) => None,
        };
        if inside.is_some() {
            return Ok(inside);
        }
        let folder = if self.path.is_dir() { Some(self.path.as_path()) } else { self.path.parent() };
        let Some(folder) = folder else { return Ok(None) };
        let file = TOKENIZERS.into_iter().map(|name| folder.join(name)).find(|p| p.is_file());
        file.map(|path| read_tokenizer(&path)).transpose()
    }

    /// [`OpenModel::find_tokenizer`], for a command that cannot do without.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        self.find_tokenizer()?.ok_or_else(|| {
            let (path, names) = (self.path.display(), TOKENIZERS.join(" or "));
            format!("{path}: expected a tokenizer (in the file, {names} beside it, or --tokenizer), found none").into()
        })
    }

    /// The container in words.
    pub fn format(&self) -> String {
        match &self.reader {
            Reader::Checkpoint(m) => m.checkpoint().extras().container.clone(),
            Reader::Gguf(m) if m.file().shards() > 1 => {
                format!("GGUF v{}, {} shards", m.file().version(), m.file().shards())
            }
            Reader::Gguf(m) => format!("GGUF v{}", m.file().version()),
            Reader::Onnx(m) if m.file().has_external_data() => format!("ONNX, opset {OPSET}, external data"),
            Reader::Onnx(_) => format!("ONNX, opset {OPSET}"),
        }
    }

    /// The naming that the model came in, or the first one that fits it.
    pub fn naming(&self) -> Naming {
        match &self.reader {
            Reader::Checkpoint(m) => m.naming(),
            Reader::Gguf(_) | Reader::Onnx(_) => Naming::of(self.source().plan()),
        }
    }

    /// Bytes of the file, or of all files of a folder.
    pub fn bytes(&self) -> Result<u64> {
        if let Reader::Gguf(m) = &self.reader {
            return Ok(m.file().file_bytes());
        }
        if let Reader::Onnx(m) = &self.reader {
            return Ok(m.file().file_bytes());
        }
        Ok(files_of(&self.path)?.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum())
    }

    /// What a report says of the model.
    pub fn facts(&self) -> Result<ModelFacts> {
        Ok(ModelFacts {
            path: self.path.display().to_string(),
            format: self.format(),
            bits_per_weight: self.bits_per_weight()?,
            bytes: self.bytes()?,
        })
    }

    fn bits_per_weight(&self) -> Result<f64> {
        let mut bits = 0.0;
        for spec in self.source().plan().tensors() {
            bits += spec.elements() as f64 * self.source().stored_as(&spec)?.bits_per_weight;
        }
        Ok(bits / self.source().plan().parameters() as f64)
    }
}

/// The file itself, or the files of a folder by name.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let at = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(at)? {
        let entry = entry.map_err(at)?;
        if entry.file_type().map_err(at)?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic));
    read.is_ok() && magic == gguf::MAGIC
}

/// A SentencePiece model, or a `.json` or `.jsonl` of Hugging Face with its settings.
fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    let read = |path: &Path| -> Result<Vec<u8>> {
        let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let size = std::fs::metadata(path).map_err(|e| at(&e))?.len();
        if size > MAX_TOKENIZER_BYTES {
            return Err(
                at(&format!("expected a tokenizer of at most {MAX_TOKENIZER_BYTES} bytes, found {size}")).into()
            );
        }
        Ok(std::fs::read(path).map_err(|e| at(&e))?)
    };
    let text = |path: &Path| -> Result<String> {
        Ok(String::from_utf8(read(path)?)
            .map_err(|_| format!("{}: expected text in UTF-8, found bytes", path.display()))?)
    };
    let extension = path.extension().and_then(|e| e.to_str());
    let tokenizer = match extension {
        Some("json" | "jsonl") => {
            let settings = Some(path.with_file_name(TOKENIZER_SETTINGS)).filter(|p| p.is_file());
            let settings = settings.map(|p| text(&p)).transpose()?;
            match extension {
                Some("jsonl") => Tokenizer::from_plamo2(&text(path)?, settings.as_deref()),
                _ => Tokenizer::from_hugging_face(&text(path)?, settings.as_deref()),
            }
        }
        _ => Tokenizer::from_sentencepiece(&read(path)?),
    };
    Ok(tokenizer.map_err(|e| format!("{}: {e}", path.display()))?)
}
