//! A tokenizer as `tokenizer.ggml.*` keys. Names and values as llama.cpp has them (`llama-vocab.cpp`, gguf-py).

use super::metadata::Metadata;
use crate::error::quoted;
use crate::{Error, Result};
use tamborim_model::tokenizer::{Kind, PieceType, Pieces, Tokenizer};

/// What fills the vocabulary where the embedding has more rows than the tokenizer has pieces.
fn filler(id: usize) -> String {
    format!("[PAD{id}]")
}

/// The score of a filler.
const FILLER_SCORE: f32 = -10_000.0;

/// Sets the keys that describe `tokenizer`. A GGUF file names each row of the embedding, so a vocabulary padded to `rows`
/// gets unused pieces `[PAD..]` up to there.
///
/// # Errors
/// [`Error::Unsupported`] for the settings that GGUF has no key for (a space as suffix, spaces not written as `▁`), and
/// for more pieces than rows.
pub fn write_tokenizer(metadata: &mut Metadata, tokenizer: &Tokenizer, rows: usize) -> Result<()> {
    let pieces = tokenizer.pieces();
    let unsupported = |reason: String| Err(Error::Unsupported { path: metadata.path().to_owned(), reason });
    if pieces.whitespace_as_suffix || !pieces.escape_whitespaces {
        return unsupported("GGUF cannot describe a tokenizer that puts the space last or does not escape it".into());
    }
    let n = pieces.tokens.len();
    if n > rows {
        return unsupported(format!("the tokenizer has {n} pieces, but the model's vocabulary only {rows} rows"));
    }
    let model = match pieces.kind {
        Kind::Bpe => "llama",
        Kind::Unigram => "t5",
    };
    let tokens: Vec<String> = pieces.tokens.iter().cloned().chain((n..rows).map(filler)).collect();
    let scores: Vec<f32> = pieces.scores.iter().copied().chain((n..rows).map(|_| FILLER_SCORE)).collect();
    let unused = (n..rows).map(|_| PieceType::Unused as i32);
    let types: Vec<i32> = pieces.types.iter().map(|&t| t as i32).chain(unused).collect();
    metadata.insert("tokenizer.ggml.model", model);
    metadata.insert("tokenizer.ggml.pre", "default");
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.scores", scores);
    metadata.insert("tokenizer.ggml.token_type", types);
    let ids =
        [("bos", pieces.bos), ("eos", pieces.eos), ("unknown", tokenizer.unknown().into()), ("padding", pieces.pad)];
    for (name, id) in ids {
        if let Some(id) = id {
            metadata.insert(format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    metadata.insert("tokenizer.ggml.add_bos_token", pieces.add_bos);
    metadata.insert("tokenizer.ggml.add_eos_token", pieces.add_eos);
    metadata.insert("tokenizer.ggml.add_space_prefix", pieces.add_space_prefix);
    metadata.insert("tokenizer.ggml.remove_extra_whitespaces", pieces.remove_extra_whitespaces);
    if !pieces.charsmap.is_empty() {
        metadata.insert("tokenizer.ggml.precompiled_charsmap", pieces.charsmap.clone());
    }
    Ok(())
}

/// The tokenizer that the keys describe, without the fillers of a padded vocabulary; `None` if they describe none.
///
/// # Errors
/// [`Error::Unsupported`] for tokenizers that are not SentencePiece's (`gpt2`, `bert`, ...); [`Error::Damaged`] or
/// [`Error::Model`] for keys that are missing, of the wrong type or inconsistent.
pub fn read_tokenizer(metadata: &Metadata) -> Result<Option<Tokenizer>> {
    let kind = match metadata.optional::<&str>("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("llama") => Kind::Bpe,
        Some("t5") => Kind::Unigram,
        Some(other) => {
            let reason =
                format!("tokenizer model {} cannot be read: only SentencePiece's (`llama`, `t5`)", quoted(other));
            return Err(Error::Unsupported { path: metadata.path().to_owned(), reason });
        }
    };
    let mut tokens = metadata.required::<&[String]>("tokenizer.ggml.tokens")?.to_vec();
    let mut scores = metadata.required::<&[f32]>("tokenizer.ggml.scores")?.to_vec();
    let mut types = match metadata.optional::<Vec<i32>>("tokenizer.ggml.token_type")? {
        None => vec![PieceType::Normal; tokens.len()],
        Some(numbers) => numbers
            .into_iter()
            .map(|number| {
                let wrong = || metadata.wrong("tokenizer.ggml.token_type", "types 1 to 6", format!("type {number}"));
                PieceType::from_number(number).ok_or_else(wrong)
            })
            .collect::<Result<_>>()?,
    };
    if tokens.len() == types.len() && tokens.len() == scores.len() {
        while let (Some(PieceType::Unused), Some(token)) = (types.last(), tokens.last())
            && *token == filler(tokens.len() - 1)
        {
            tokens.pop();
            scores.pop();
            types.pop();
        }
    }
    let unk: Option<u32> = metadata.optional("tokenizer.ggml.unknown_token_id")?;
    // Some writers give no types, or mark the unknown token as a control token; llama.cpp then takes this id, or 0.
    if !types.contains(&PieceType::Unknown)
        && let Some(kind) = types.get_mut(unk.unwrap_or(0) as usize)
    {
        *kind = PieceType::Unknown;
    }
    let charsmap = match metadata.get("tokenizer.ggml.precompiled_charsmap") {
        None => Vec::new(),
        Some(value) => match value {
            super::Value::Array(super::Array::U8(bytes)) => bytes.clone(),
            // Older files have them signed.
            super::Value::Array(super::Array::I8(bytes)) => bytes.iter().map(|&b| b as u8).collect(),
            other => {
                let key = "tokenizer.ggml.precompiled_charsmap";
                return Err(metadata.wrong(key, "an array of bytes", other.describe()));
            }
        },
    };
    let flag = |name: &str, default: bool| -> Result<bool> {
        Ok(metadata.optional(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default))
    };
    let pieces = Pieces {
        kind,
        tokens,
        scores,
        types,
        bos: metadata.optional("tokenizer.ggml.bos_token_id")?,
        eos: metadata.optional("tokenizer.ggml.eos_token_id")?,
        unk,
        pad: metadata.optional("tokenizer.ggml.padding_token_id")?,
        // Defaults as in llama.cpp.
        add_bos: flag("add_bos_token", kind == Kind::Bpe)?,
        add_eos: flag("add_eos_token", kind == Kind::Unigram)?,
        add_space_prefix: flag("add_space_prefix", true)?,
        remove_extra_whitespaces: flag("remove_extra_whitespaces", false)?,
        escape_whitespaces: true,
        whitespace_as_suffix: false,
        charsmap,
        unk_surface: Pieces::UNK_SURFACE.into(),
    };
    let model_error = |source| Error::Model { path: metadata.path().to_owned(), source };
    Tokenizer::from_pieces(pieces).map(Some).map_err(model_error)
}
