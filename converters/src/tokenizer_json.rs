//! A tokenizer as Hugging Face's `tokenizer.json` and `tokenizer_config.json`, which onnxruntime-genai reads.
//!
//! Source: the conversions of `transformers/convert_slow_tokenizer.py` (LlamaConverter, SpmConverter, TikTokenConverter).

use serde_json::{Map, Value, json};
use std::collections::HashMap;
use tamborim_model::tokenizer::{ByteLevel, Kind, PieceType, Pieces, Tokenizer};

const SPACE: &str = "\u{2581}";

/// The content of `tokenizer.json`; `None` for PLaMo's, which Hugging Face has as a program. It puts the token that begins a
/// sequence, where there is one, before the text.
pub fn tokenizer_json(tokenizer: &Tokenizer) -> Option<Value> {
    let pieces = tokenizer.pieces();
    let unknown = tokenizer.unknown();
    let [normalizer, pre_tokenizer, decoder, model] = match (pieces.kind, &pieces.byte_level) {
        (Kind::Bpe, _) => sentencepiece(pieces, bpe(pieces, unknown)),
        (Kind::Unigram, _) => sentencepiece(pieces, unigram(pieces, unknown)),
        (Kind::ByteLevel, Some(rules)) => byte_level(pieces, rules),
        (Kind::ByteLevel, None) | (Kind::Plamo2, _) => return None,
    };
    Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(pieces),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(tokenizer),
        "decoder": decoder,
        "model": model,
    }))
}

/// Normalizer, pre-tokenizer and decoder around a model of SentencePiece.
fn sentencepiece(pieces: &Pieces, model: Value) -> [Value; 4] {
    [
        json!({ "type": "Sequence", "normalizers": normalizers(pieces) }),
        Value::Null,
        json!({ "type": "Sequence", "decoders": decoders(pieces) }),
        model,
    ]
}

fn bpe(pieces: &Pieces, unknown: Option<u32>) -> Value {
    let vocabulary: Map<String, Value> = pieces.tokens.iter().cloned().zip((0u32..).map(Value::from)).collect();
    let unknown = unknown.map(|id| &pieces.tokens[id as usize]);
    json!({ "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": pieces.types.contains(&PieceType::Byte),
            "ignore_merges": false, "vocab": vocabulary, "merges": merges(pieces) })
}

fn unigram(pieces: &Pieces, unknown: Option<u32>) -> Value {
    let vocabulary: Vec<Value> = pieces.tokens.iter().zip(&pieces.scores).map(|(t, s)| json!([t, s])).collect();
    json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocabulary,
            "byte_fallback": pieces.types.contains(&PieceType::Byte) })
}

/// The same four of byte-level BPE.
fn byte_level(pieces: &Pieces, rules: &ByteLevel) -> [Value; 4] {
    let normal = pieces.tokens.iter().zip(0u32..).zip(&pieces.types).filter(|(_, kind)| **kind == PieceType::Normal);
    let vocabulary: Map<String, Value> = normal.map(|((token, id), _)| (token.clone(), json!(id))).collect();
    let merges: Vec<_> = rules.merges.iter().filter_map(|pair| pair.split_once(' ')).collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": pieces.add_space_prefix, "trim_offsets": true,
                        "use_regex": false });
    let cut =
        json!({ "type": "Split", "pattern": { "Regex": rules.pattern }, "behavior": "Isolated", "invert": false });
    [
        Value::Null,
        json!({ "type": "Sequence", "pretokenizers": [cut, bytes] }),
        bytes,
        json!({ "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": rules.ignore_merges, "vocab": vocabulary, "merges": merges }),
    ]
}

/// Tokens that are found in text as they are, before anything else.
fn added_tokens(pieces: &Pieces) -> Vec<Value> {
    let strips = |list: fn(&ByteLevel) -> &Vec<u32>, id: u32| {
        pieces.byte_level.as_ref().is_some_and(|rules| list(rules).contains(&id))
    };
    (0u32..)
        .zip(&pieces.tokens)
        .zip(&pieces.types)
        .filter(|(_, kind)| matches!(kind, PieceType::Unknown | PieceType::Control | PieceType::UserDefined))
        .map(|((id, token), kind)| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": strips(|r| &r.strip_before, id),
                    "rstrip": strips(|r| &r.strip_after, id), "normalized": false,
                    "special": *kind != PieceType::UserDefined })
        })
        .collect()
}

/// What comes before the text.
fn post_processor(tokenizer: &Tokenizer) -> Value {
    let Some((id, token)) = tokenizer.bos().and_then(|id| Some((id, tokenizer.piece(id)?))) else { return Value::Null };
    let special = |sequence: u8| json!({ "SpecialToken": { "id": token, "type_id": sequence } });
    let text = |name: &str, sequence: u8| json!({ "Sequence": { "id": name, "type_id": sequence } });
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), text("A", 0)],
        "pair": [special(0), text("A", 0), special(1), text("B", 1)],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
    })
}

/// The content of `tokenizer_config.json`.
pub fn tokenizer_config_json(tokenizer: &Tokenizer) -> Value {
    let pieces = tokenizer.pieces();
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.piece(id));
    let class = match pieces.kind {
        Kind::Bpe => "LlamaTokenizer",
        // Of unigram's classes the one that onnxruntime-genai adds the beginning for, and no end.
        Kind::Unigram => "XLMRobertaTokenizer",
        Kind::ByteLevel | Kind::Plamo2 => "GPT2Tokenizer",
    };
    json!({
        "tokenizer_class": class,
        "add_bos_token": tokenizer.bos().is_some(),
        "add_eos_token": pieces.add_eos,
        "add_prefix_space": pieces.add_space_prefix,
        "bos_token": token(pieces.bos),
        "eos_token": token(pieces.eos),
        "unk_token": token(tokenizer.unknown()),
        "pad_token": token(pieces.pad),
        "clean_up_tokenization_spaces": false,
        "legacy": true,
    })
}

/// Text to pieces' spelling, as [`Tokenizer::encode`] does it.
fn normalizers(pieces: &Pieces) -> Vec<Value> {
    let mut steps = Vec::new();
    if !pieces.charsmap.is_empty() {
        steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(&pieces.charsmap) }));
    }
    if pieces.remove_extra_whitespaces {
        steps.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
    }
    if pieces.add_space_prefix {
        steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
    }
    steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE }));
    steps
}

/// Pieces back to text.
fn decoders(pieces: &Pieces) -> Vec<Value> {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if pieces.add_space_prefix {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    steps
}

/// Pairs that merge, best first: every way to cut a piece into two pieces, by the piece's score. Pairs of one piece, and
/// pieces of one score, are in the order of their ids.
fn merges(pieces: &Pieces) -> Vec<[&str; 2]> {
    let ids: HashMap<&str, u32> = pieces.tokens.iter().map(String::as_str).zip(0u32..).collect();
    let mut merges = Vec::new();
    for ((token, kind), score) in pieces.tokens.iter().zip(&pieces.types).zip(&pieces.scores) {
        if *kind != PieceType::Normal {
            continue;
        }
        let first = merges.len();
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                merges.push((*score, [*l, *r], [left, right]));
            }
        }
        merges[first..].sort_by_key(|(_, ids, _)| *ids);
    }
    merges.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    merges.into_iter().map(|(_, _, pair)| pair).collect()
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= chunk.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
