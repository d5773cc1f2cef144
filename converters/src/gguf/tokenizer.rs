//! A tokenizer as `tokenizer.ggml.*` keys. Names and values as llama.cpp has them (`llama-vocab.cpp`, gguf-py).

use super::metadata::Metadata;
use crate::error::quoted;
use crate::{Error, Result};
use tamborim_model::tokenizer::{ByteLevel, Kind, PieceType, Pieces, Tokenizer};

/// What fills the vocabulary where the embedding has more rows than the tokenizer has pieces.
fn filler(id: usize) -> String {
    format!("[PAD{id}]")
}

/// The score of a filler.
const FILLER_SCORE: f32 = -10_000.0;
/// The same for PLaMo's.
const PLAMO2_FILLER_SCORE: f32 = -1000.0;

/// Names that llama.cpp has for patterns of byte-level BPE.
const PATTERNS: [(&str, &str); 2] = [("gpt-4o", ByteLevel::O200K), ("gpt-2", ByteLevel::GPT2)];
/// The pattern itself, where it has none.
const PATTERN_KEY: &str = "tamborim.tokenizer.pattern";
/// What llama.cpp has no keys for.
const IGNORE_MERGES_KEY: &str = "tamborim.tokenizer.ignore_merges";
const STRIP_BEFORE_KEY: &str = "tamborim.tokenizer.strip_before";
const STRIP_AFTER_KEY: &str = "tamborim.tokenizer.strip_after";
/// Ends a turn of PLaMo-2; where generation ends, too.
const PLAMO2_END_OF_TURN: &str = "<|plamo:op|>";

/// Sets the keys that describe `tokenizer`. A GGUF file names each row of the embedding, so a vocabulary padded to `rows`
/// gets unused pieces `[PAD..]` up to there.
///
/// # Errors
/// [`Error::Unsupported`] for the settings that GGUF has no key for (a space as suffix, spaces not written as `▁`), and
/// for more pieces than rows.
pub fn write_tokenizer(metadata: &mut Metadata, tokenizer: &Tokenizer, rows: usize) -> Result<()> {
    let pieces = tokenizer.pieces();
    let unsupported = |reason: String| Err(Error::Unsupported { path: metadata.path().to_owned(), reason });
    let is_sentencepiece = matches!(pieces.kind, Kind::Bpe | Kind::Unigram);
    if is_sentencepiece && (pieces.whitespace_as_suffix || !pieces.escape_whitespaces) {
        return unsupported("GGUF cannot describe a tokenizer that puts the space last or does not escape it".into());
    }
    let n = pieces.tokens.len();
    if n > rows {
        return unsupported(format!("the tokenizer has {n} pieces, but the model's vocabulary only {rows} rows"));
    }
    let model = match pieces.kind {
        Kind::Bpe => "llama",
        Kind::Unigram => "t5",
        Kind::Plamo2 => "plamo2",
        Kind::ByteLevel => "gpt2",
    };
    let filler_score = if pieces.kind == Kind::Plamo2 { PLAMO2_FILLER_SCORE } else { FILLER_SCORE };
    let tokens: Vec<String> = pieces.tokens.iter().cloned().chain((n..rows).map(filler)).collect();
    let scores: Vec<f32> = pieces.scores.iter().copied().chain((n..rows).map(|_| filler_score)).collect();
    let unused = (n..rows).map(|_| PieceType::Unused as i32);
    let types: Vec<i32> = pieces.types.iter().map(|&t| t as i32).chain(unused).collect();
    metadata.insert("tokenizer.ggml.model", model);
    let known = pieces.byte_level.as_ref().and_then(|b| PATTERNS.iter().find(|(_, pattern)| *pattern == b.pattern));
    metadata.insert("tokenizer.ggml.pre", known.map_or("default", |(name, _)| *name));
    metadata.insert("tokenizer.ggml.tokens", tokens);
    match &pieces.byte_level {
        None => drop(metadata.insert("tokenizer.ggml.scores", scores)),
        Some(rules) => write_byte_level(metadata, rules, known.is_some()),
    }
    metadata.insert("tokenizer.ggml.token_type", types);
    let ids = [("bos", pieces.bos), ("eos", pieces.eos), ("unknown", tokenizer.unknown()), ("padding", pieces.pad)];
    for (name, id) in ids {
        if let Some(id) = id {
            metadata.insert(format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    metadata.insert("tokenizer.ggml.add_bos_token", pieces.add_bos);
    metadata.insert("tokenizer.ggml.add_eos_token", pieces.add_eos);
    metadata.insert("tokenizer.ggml.add_space_prefix", pieces.add_space_prefix);
    metadata.insert("tokenizer.ggml.remove_extra_whitespaces", pieces.remove_extra_whitespaces);
    if pieces.kind == Kind::Plamo2
        && let Some(id) = pieces.tokens.iter().position(|t| t == PLAMO2_END_OF_TURN)
    {
        metadata.insert("tokenizer.ggml.eot_token_id", id as u32);
    }
    if !pieces.charsmap.is_empty() {
        metadata.insert("tokenizer.ggml.precompiled_charsmap", pieces.charsmap.clone());
    }
    Ok(())
}

fn write_byte_level(metadata: &mut Metadata, rules: &ByteLevel, is_known: bool) {
    metadata.insert("tokenizer.ggml.merges", rules.merges.clone());
    if !is_known {
        metadata.insert(PATTERN_KEY, rules.pattern.as_str());
    }
    if rules.ignore_merges {
        metadata.insert(IGNORE_MERGES_KEY, true);
    }
    for (key, ids) in [(STRIP_BEFORE_KEY, &rules.strip_before), (STRIP_AFTER_KEY, &rules.strip_after)] {
        if !ids.is_empty() {
            metadata.insert(key, ids.clone());
        }
    }
}

fn read_byte_level(metadata: &Metadata) -> Result<ByteLevel> {
    let pre = metadata.optional::<&str>("tokenizer.ggml.pre")?.unwrap_or_default();
    let named = PATTERNS.iter().find(|(name, _)| *name == pre).map(|(_, pattern)| *pattern);
    let Some(pattern) = metadata.optional::<&str>(PATTERN_KEY)?.or(named) else {
        let names: Vec<&str> = PATTERNS.iter().map(|(name, _)| *name).collect();
        return Err(metadata.wrong(
            "tokenizer.ggml.pre",
            format!("{} (or {PATTERN_KEY})", names.join(" or ")),
            quoted(pre),
        ));
    };
    Ok(ByteLevel {
        merges: metadata.required::<&[String]>("tokenizer.ggml.merges")?.to_vec(),
        pattern: pattern.to_owned(),
        ignore_merges: metadata.optional(IGNORE_MERGES_KEY)?.unwrap_or(false),
        strip_before: metadata.optional(STRIP_BEFORE_KEY)?.unwrap_or_default(),
        strip_after: metadata.optional(STRIP_AFTER_KEY)?.unwrap_or_default(),
    })
}

/// The tokenizer that the keys describe, without the fillers of a padded vocabulary; `None` if they describe none.
///
/// # Errors
/// [`Error::Unsupported`] for tokenizers of other kinds (`bert`, `rwkv`, ...); [`Error::Damaged`] or
/// [`Error::Model`] for keys that are missing, of the wrong type or inconsistent.
pub fn read_tokenizer(metadata: &Metadata) -> Result<Option<Tokenizer>> {
    let kind = match metadata.optional::<&str>("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("llama") => Kind::Bpe,
        Some("t5") => Kind::Unigram,
        Some("plamo2") => Kind::Plamo2,
        Some("gpt2") => Kind::ByteLevel,
        Some(other) => {
            let reason = format!(
                "tokenizer model {} cannot be read: only SentencePiece's (`llama`, `t5`), `gpt2` and `plamo2`",
                quoted(other)
            );
            return Err(Error::Unsupported { path: metadata.path().to_owned(), reason });
        }
    };
    let mut tokens = metadata.required::<&[String]>("tokenizer.ggml.tokens")?.to_vec();
    let byte_level = (kind == Kind::ByteLevel).then(|| read_byte_level(metadata)).transpose()?;
    let mut scores = match byte_level {
        Some(_) => vec![0.0; tokens.len()],
        None => metadata.required::<&[f32]>("tokenizer.ggml.scores")?.to_vec(),
    };
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
    if kind != Kind::ByteLevel
        && !types.contains(&PieceType::Unknown)
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
    let is_sentencepiece = matches!(kind, Kind::Bpe | Kind::Unigram);
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
        add_space_prefix: flag("add_space_prefix", is_sentencepiece)?,
        remove_extra_whitespaces: flag("remove_extra_whitespaces", false)?,
        escape_whitespaces: is_sentencepiece,
        whitespace_as_suffix: false,
        charsmap,
        unk_surface: if is_sentencepiece { Pieces::UNK_SURFACE.into() } else { String::new() },
        byte_level,
    };
    let model_error = |source| Error::Model { path: metadata.path().to_owned(), source };
    Tokenizer::from_pieces(pieces).map(Some).map_err(model_error)
}
