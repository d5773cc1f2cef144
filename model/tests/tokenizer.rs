//! The tokenizer against Google's sentencepiece: goldens/make_tokenizer.py writes what is compared with here.

use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};
use tamborim_model::Error;
use tamborim_model::tokenizer::{Kind, PieceType, Pieces, Tokenizer};

#[derive(Deserialize)]
struct Row {
    text: Option<String>,
    ids: Vec<u32>,
    decoded: String,
}

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn model_bytes(name: &str) -> Vec<u8> {
    let path = match name {
        "demo" => here().join("../demo/samba-7m/tokenizer.model"),
        _ => here().join(format!("tests/goldens/{name}.model")),
    };
    std::fs::read(path).unwrap()
}

fn goldens() -> BTreeMap<String, Vec<Row>> {
    serde_json::from_slice(&std::fs::read(here().join("tests/goldens/tokenizer.json")).unwrap()).unwrap()
}

/// A vocabulary made by hand: `<unk>`, `<s>`, `</s>`, then the pieces given.
fn pieces(kind: Kind, text: &[(&str, f32, PieceType)]) -> Pieces {
    let reserved =
        [("<unk>", 0.0, PieceType::Unknown), ("<s>", 0.0, PieceType::Control), ("</s>", 0.0, PieceType::Control)];
    let all = || reserved.iter().chain(text);
    Pieces {
        kind,
        tokens: all().map(|p| p.0.to_owned()).collect(),
        scores: all().map(|p| p.1).collect(),
        types: all().map(|p| p.2).collect(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        pad: None,
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
        remove_extra_whitespaces: false,
        escape_whitespaces: true,
        whitespace_as_suffix: false,
        charsmap: Vec::new(),
        unk_surface: Pieces::UNK_SURFACE.into(),
        byte_level: None,
    }
}

#[test]
fn ids_and_text_equal_sentencepiece() {
    for (name, rows) in goldens() {
        let tokenizer = Tokenizer::from_sentencepiece(&model_bytes(&name)).unwrap();
        for row in rows {
            if let Some(text) = &row.text {
                assert_eq!(tokenizer.encode(text), row.ids, "{name}: {text:?}");
            }
            assert_eq!(tokenizer.decode(&row.ids), row.decoded, "{name}: {:?}", row.ids);
        }
    }
}

fn golden(name: &str) -> String {
    std::fs::read_to_string(here().join("tests/goldens").join(name)).unwrap()
}

fn byte_level() -> Tokenizer {
    Tokenizer::from_hugging_face(&golden("byte_level.tokenizer.json"), None).unwrap()
}

fn plamo2() -> Tokenizer {
    let folder = here().join("../tests/fixtures/descendants/plamo2_step3_mqa_bf16");
    let [lines, settings] =
        ["tokenizer.jsonl", "tokenizer_config.json"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
    Tokenizer::from_plamo2(&lines, Some(&settings)).unwrap()
}

#[test]
fn byte_level_ids_and_text_equal_hugging_face() {
    let (tokenizer, rows): (_, Vec<Row>) = (byte_level(), serde_json::from_str(&golden("byte_level.json")).unwrap());
    assert!(rows.len() > 70);
    for Row { text, ids, decoded } in rows {
        let text = text.unwrap();
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), decoded, "{text:?}");
    }
}

/// Of llama.cpp's `plamo2`, whose model was made of the same pieces.
#[test]
fn ids_of_plamo_equal_llama_cpp() {
    #[derive(Deserialize)]
    struct Row {
        text: String,
        ids: Vec<u32>,
    }
    let (tokenizer, rows): (_, Vec<Row>) = (plamo2(), serde_json::from_str(&golden("plamo2.json")).unwrap());
    assert_eq!(rows.len(), 150);
    for Row { text, ids } in rows {
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        // Control pieces are no text, and a byte order mark in front is none.
        if !text.contains("<|plamo:") && !text.starts_with('\u{feff}') {
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pieces().pad), (Some(1), Some(2), Some(3)));
}

#[test]
fn damaged_tokenizers_of_hugging_face_are_refused() {
    let whole: serde_json::Value = serde_json::from_str(&golden("byte_level.tokenizer.json")).unwrap();
    for (pointer, value, expected) in [
        ("/model/type", "\"Unigram\"", "byte-level BPE"),
        ("/normalizer", "{\"type\": \"NFC\"}", "no normalizer"),
        ("/pre_tokenizer", "{\"type\": \"Whitespace\"}", "pre-tokenizer"),
        ("/pre_tokenizer/pretokenizers/0/pattern", "{\"Regex\": \"(\"}", "pattern"),
        ("/model/merges/0", "\"a\"", "merges"),
        ("/model/merges/0", "\"a nonsense\"", "merges"),
        ("/model/vocab/a", "4000000000", "gaps"),
        ("/model/vocab/a", "-1", "ids by piece"),
        ("/model/vocab", "{}", "gaps"),
    ] {
        let mut file = whole.clone();
        *file.pointer_mut(pointer).unwrap() = serde_json::from_str(value).unwrap();
        let error = Tokenizer::from_hugging_face(&file.to_string(), None).unwrap_err().to_string();
        assert!(error.contains(expected), "{pointer} = {value}: {error}");
    }
    for (lines, expected) in [
        ("[]", "lines of"),
        ("[\"a\", 0.0]", "lines of"),
        ("[\"a\", \"b\", \"NORMAL\"]", "score"),
        ("[\"a\", 1e99, \"NORMAL\"]", "finite"),
        ("[\"a\", 0.0, \"OTHER\"]", "kind"),
        ("[\"a\", 0.0, \"NORMAL\"]", "unknown piece"),
        ("{", "list in JSON"),
    ] {
        let error = Tokenizer::from_plamo2(lines, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{lines}: {error}");
    }
}

#[test]
fn a_tokenizer_is_its_pieces() {
    for (name, rows) in goldens() {
        let tokenizer = Tokenizer::from_sentencepiece(&model_bytes(&name)).unwrap();
        let again = Tokenizer::from_pieces(tokenizer.pieces().clone()).unwrap();
        for text in rows.iter().filter_map(|row| row.text.as_deref()) {
            assert_eq!(again.encode(text), tokenizer.encode(text), "{name}: {text:?}");
        }
    }
}

#[test]
fn the_demo_vocabulary_reads_as_it_was_trained() {
    let tokenizer = Tokenizer::from_sentencepiece(&model_bytes("demo")).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (4096, Some(1), Some(2)));
    assert_eq!((tokenizer.piece(0), tokenizer.piece(13), tokenizer.piece(4096)), (Some("<unk>"), Some("<0x0A>"), None));
    let pieces = tokenizer.pieces();
    assert_eq!((pieces.kind, pieces.unk, pieces.pad), (Kind::Bpe, Some(0), None));
    assert!(pieces.add_space_prefix && !pieces.remove_extra_whitespaces && !pieces.add_bos);
}

#[test]
fn text_streams_out_as_characters_complete() {
    let tokenizer = Tokenizer::from_sentencepiece(&model_bytes("demo")).unwrap();
    let byte = |b: u8| 3 + u32::from(b);
    let mut decoder = tokenizer.decoder();
    let mut seen = Vec::new();
    for id in [byte(b'a'), byte(0xe6), byte(0x97), byte(0xa5), byte(0xff), byte(0xe6), byte(b'!'), byte(0xe6)] {
        let mut part = String::new();
        decoder.push(id, &mut part);
        seen.push(part);
    }
    assert_eq!(seen, ["a", "", "", "日", "\u{fffd}", "", "\u{fffd}!", ""]);
    let mut rest = String::new();
    decoder.finish(&mut rest);
    assert_eq!(rest, "\u{fffd}");
    for (_, rows) in goldens().into_iter().filter(|(name, _)| name == "demo") {
        for row in rows {
            let (mut text, mut decoder) = (String::new(), tokenizer.decoder());
            row.ids.iter().for_each(|&id| decoder.push(id, &mut text));
            decoder.finish(&mut text);
            assert_eq!(text, row.decoded);
        }
    }
}

#[test]
fn ids_beyond_the_vocabulary_decode_to_the_unknown_surface() {
    let tokenizer = Tokenizer::from_sentencepiece(&model_bytes("demo")).unwrap();
    assert_eq!(tokenizer.decode(&[u32::MAX]), " \u{2047} ");
}

#[test]
fn unused_pieces_are_taken_apart_again() {
    use PieceType::{Normal, Unused};
    let text = [("a", -9.0, Normal), ("b", -9.0, Normal), ("ab", -1.0, Unused), ("abb", -2.0, Normal)];
    let tokenizer = Tokenizer::from_pieces(pieces(Kind::Bpe, &text)).unwrap();
    assert_eq!(tokenizer.encode("ab"), [3, 4]);
    assert_eq!(tokenizer.encode("abb"), [6]);
}

#[test]
fn bpe_merges_the_leftmost_of_equal_scores() {
    use PieceType::Normal;
    let tokenizer = Tokenizer::from_pieces(pieces(Kind::Bpe, &[("a", 0.0, Normal), ("aa", -1.0, Normal)])).unwrap();
    assert_eq!(tokenizer.encode("aaa"), [4, 3]);
}

#[test]
fn unknown_characters_in_a_row_are_one_token() {
    let tokenizer = Tokenizer::from_pieces(pieces(Kind::Unigram, &[("a", -1.0, PieceType::Normal)])).unwrap();
    assert_eq!(tokenizer.encode("xyaz"), [0, 3, 0]);
}

#[test]
fn refuses_vocabularies_that_sentencepiece_refuses() {
    use PieceType::{Byte, Control, Normal, Unknown};
    let refused = |text: &[(&str, f32, PieceType)], expected: &str| {
        let error = Tokenizer::from_pieces(pieces(Kind::Bpe, text)).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }) && error.to_string().contains(expected), "{error}");
    };
    refused(&[("a", 0.0, Normal), ("a", 0.0, Normal)], "same text at pieces 3 and 4");
    refused(&[("", 0.0, Normal)], "pieces of 1 to 7999 bytes");
    refused(&[("a", f32::NAN, Normal)], "finite scores");
    refused(&[("<s>", 0.0, Control)], "same text at pieces 1 and 3");
    refused(&[("?", 0.0, Unknown)], "one unknown piece");
    refused(&[("<0x0A>", 0.0, Byte)], "1 of them");
    refused(&[("<0xZZ>", 0.0, Byte)], "byte pieces");
    let broken = |change: fn(&mut Pieces)| {
        let mut pieces = pieces(Kind::Unigram, &[("a", 0.0, Normal)]);
        change(&mut pieces);
        assert!(matches!(Tokenizer::from_pieces(pieces), Err(Error::Tokenizer { .. })));
    };
    broken(|p| p.bos = Some(4));
    broken(|p| p.unk = Some(1));
    broken(|p| p.scores.truncate(2));
    broken(|p| p.types[0] = Normal);
    broken(|p| p.charsmap = vec![255; 7]);
}

/// Every prefix of a model, and a model with any byte changed, is an error or a tokenizer, never a panic.
#[test]
fn damaged_models_do_not_panic() {
    let sound = model_bytes("suffix");
    let texts = ["ﬁne e\u{301}\t<|user|> ▁ the drum 😀", "", " "];
    let try_all = |bytes: &[u8]| {
        if let Ok(tokenizer) = Tokenizer::from_sentencepiece(bytes) {
            for text in texts {
                tokenizer.decode(&tokenizer.encode(text));
            }
        }
    };
    for end in 0..sound.len() {
        try_all(&sound[..end]);
    }
    for at in 0..sound.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= change;
            try_all(&bytes);
        }
    }
    // Nothing at all is a unigram model without pieces.
    assert!(Tokenizer::from_sentencepiece(b"").is_err());
    assert!(Tokenizer::from_sentencepiece(b"<!DOCTYPE html>").is_err());
}
