//! Tokenizers of Hugging Face folders: `tokenizer.json` of byte-level BPE, and PLaMo-2's `tokenizer.jsonl`.

use super::{ByteLevel, Kind, PieceType, Pieces};
use crate::error::one_line;
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::HashMap;

/// More pieces than any vocabulary has.
const MAX_PIECES: usize = 1 << 24;

fn wrong(expected: &str, found: impl ToString) -> Error {
    Error::Tokenizer { expected: expected.into(), found: one_line(&found.to_string()) }
}

/// A text, alone or in the `content` of an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Object { content: String },
}

/// What `tokenizer_config.json` says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    bos_token: Option<Text>,
    eos_token: Option<Text>,
    unk_token: Option<Text>,
    pad_token: Option<Text>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

impl Settings {
    fn parse(text: Option<&str>) -> Result<Settings> {
        let Some(text) = text else { return Ok(Settings::default()) };
        serde_json::from_str(text).map_err(|e| wrong("a tokenizer_config.json", e))
    }

    /// Sets the special ids of `pieces` to those of the tokens named.
    fn apply(&self, pieces: &mut Pieces) {
        let id = |name: &Option<Text>| {
            let (Text::Plain(text) | Text::Object { content: text }) = name.as_ref()?;
            pieces.tokens.iter().position(|t| t == text).map(|id| id as u32)
        };
        let (bos, eos, unk, pad) = (id(&self.bos_token), id(&self.eos_token), id(&self.unk_token), id(&self.pad_token));
        (pieces.bos, pieces.eos, pieces.pad) = (bos, eos, pad);
        pieces.unk = unk.filter(|_| pieces.kind == Kind::Plamo2);
        pieces.add_bos = self.add_bos_token.unwrap_or(false) && bos.is_some();
        pieces.add_eos = self.add_eos_token.unwrap_or(false) && eos.is_some();
    }
}

/// Pieces without anything around them.
fn bare(kind: Kind) -> Pieces {
    Pieces {
        kind,
        tokens: Vec::new(),
        scores: Vec::new(),
        types: Vec::new(),
        bos: None,
        eos: None,
        unk: None,
        pad: None,
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
        remove_extra_whitespaces: false,
        escape_whitespaces: false,
        whitespace_as_suffix: false,
        charsmap: Vec::new(),
        unk_surface: String::new(),
        byte_level: None,
    }
}

/// A line `[piece, score, kind, ..]` for each id.
pub(super) fn plamo2(lines: &str, settings: Option<&str>) -> Result<Pieces> {
    let mut pieces = bare(Kind::Plamo2);
    for (number, line) in lines.lines().filter(|l| !l.trim().is_empty()).enumerate() {
        let row: Vec<Value> = serde_json::from_str(line).map_err(|e| wrong("a list in JSON in every line", e))?;
        let [Value::String(piece), score, Value::String(kind), ..] = row.as_slice() else {
            return Err(wrong("lines of [piece, score, kind]", format!("line {}", number + 1)));
        };
        let kind = match kind.as_str() {
            "UNKNOWN" => PieceType::Unknown,
            "CONTROL" => PieceType::Control,
            "BYTE" => PieceType::Byte,
            // What is spelled like a control piece is one, whatever the file says.
            "NORMAL" if piece.starts_with("<|plamo:") && piece.ends_with("|>") => PieceType::Control,
            "NORMAL" => PieceType::Normal,
            other => {
                return Err(wrong(
                    "a kind NORMAL, CONTROL, UNKNOWN or BYTE",
                    format!("{other} in line {}", number + 1),
                ));
            }
        };
        let Some(score) = score.as_f64() else { return Err(wrong("a number as score", score)) };
        pieces.tokens.push(piece.clone());
        pieces.scores.push(score as f32);
        pieces.types.push(kind);
    }
    Settings::parse(settings)?.apply(&mut pieces);
    Ok(pieces)
}

#[derive(Deserialize)]
struct File {
    model: Model,
    pre_tokenizer: Option<PreTokenizer>,
    normalizer: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
}

/// Two pieces, in one text or two.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Apart([String; 2]),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        invert: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        use_regex: Option<bool>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Pattern {
    String(IgnoredAny),
    Regex(String),
}

impl PreTokenizer {
    /// The pattern and whether a space is put before the text, if this cuts text by one pattern and spells it in bytes.
    fn rules(self) -> Option<(String, bool)> {
        let mut steps = match self {
            PreTokenizer::Sequence { pretokenizers } => pretokenizers,
            one => vec![one],
        }
        .into_iter();
        match (steps.next()?, steps.next(), steps.next()) {
            (PreTokenizer::ByteLevel { add_prefix_space, use_regex }, None, None) if use_regex != Some(false) => {
                Some((ByteLevel::GPT2.to_owned(), add_prefix_space))
            }
            (
                PreTokenizer::Split { pattern: Pattern::Regex(pattern), behavior, invert: false },
                Some(PreTokenizer::ByteLevel { add_prefix_space, use_regex: Some(false) }),
                None,
            ) if behavior == "Isolated" => Some((pattern, add_prefix_space)),
            _ => None,
        }
    }
}

/// `tokenizer.json` of byte-level BPE.
pub(super) fn byte_level(file: &str, settings: Option<&str>) -> Result<Pieces> {
    let file: File = serde_json::from_str(file).map_err(|e| wrong("a tokenizer.json of byte-level BPE", e))?;
    let kind = file.model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(wrong("a tokenizer.json of byte-level BPE", format!("model {kind}")));
    }
    if let Some(normalizer) = file.normalizer {
        return Err(wrong("no normalizer before byte-level BPE", normalizer));
    }
    let Some((pattern, add_space_prefix)) = file.pre_tokenizer.and_then(PreTokenizer::rules) else {
        return Err(wrong("a pre-tokenizer that cuts by one pattern, then spells in bytes", "another"));
    };
    let vocab: HashMap<String, u32> =
        serde_json::from_value(file.model.vocab).map_err(|e| wrong("ids by piece in model.vocab", e))?;
    let size = vocab.values().chain(file.added_tokens.iter().map(|a| &a.id)).max().map_or(0, |id| *id as usize + 1);
    // Ids may have gaps, but not more gaps than pieces by orders of magnitude.
    if size > MAX_PIECES || size > 16 * (vocab.len() + file.added_tokens.len()) {
        return Err(wrong("ids without wide gaps", format!("id {}", size - 1)));
    }
    let mut pieces = bare(Kind::ByteLevel);
    pieces.tokens = (0..size).map(|id| format!("[UNUSED{id}]")).collect();
    pieces.types = vec![PieceType::Unused; size];
    pieces.scores = vec![0.0; size];
    let mut rules = ByteLevel { pattern, ignore_merges: file.model.ignore_merges, ..ByteLevel::default() };
    for (piece, id) in vocab {
        pieces.types[id as usize] = PieceType::Normal;
        pieces.tokens[id as usize] = piece;
    }
    for AddedToken { id, content, special, lstrip, rstrip } in file.added_tokens {
        pieces.types[id as usize] = if special { PieceType::Control } else { PieceType::UserDefined };
        pieces.tokens[id as usize] = content;
        rules.strip_before.extend(lstrip.then_some(id));
        rules.strip_after.extend(rstrip.then_some(id));
    }
    rules.merges = file
        .model
        .merges
        .into_iter()
        .map(|merge| match merge {
            Merge::Joined(text) => text,
            Merge::Apart([left, right]) => format!("{left} {right}"),
        })
        .collect();
    pieces.add_space_prefix = add_space_prefix;
    pieces.byte_level = Some(rules);
    Settings::parse(settings)?.apply(&mut pieces);
    Ok(pieces)
}
