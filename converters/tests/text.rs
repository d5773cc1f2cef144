//! Reading text data, in every form that it is published in.

use std::fs;
use std::path::{Path, PathBuf};
use tamborim_converters::Result;
use tamborim_converters::text::{Content, Document, read_all, read_documents};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn text(text: &str, domain: Option<&str>) -> Document {
    Document { content: Content::Text(text.into()), domain: domain.map(Into::into) }
}

fn tokens(list: &[u32]) -> Document {
    Document { content: Content::Tokens(list.to_vec()), domain: None }
}

fn read(path: &Path) -> Vec<Document> {
    read_documents(path).unwrap().collect::<Result<_>>().unwrap()
}

/// The message of the first error.
fn error(path: &Path) -> String {
    let error = match read_documents(path) {
        Ok(documents) => documents.collect::<Result<Vec<_>>>().unwrap_err(),
        Err(error) => error,
    };
    let message = error.to_string();
    assert!(message.contains(path.to_str().unwrap()) && !message.contains('\n'), "{message}");
    message
}

const ROWS: &str = concat!(
    r#"{"text": "one", "meta": {"redpajama_set_name": "RedPajamaBook"}}"#,
    "\r\n\n",
    r#"{"meta": "{\"redpajama_set_name\": \"RedPajamaC4\"}", "text": "zwei\nZeilen", "extra": [1]}"#,
    "\n",
    r#"{"text": "三 \ud83d\ude00"}"#,
);

fn rows() -> Vec<Document> {
    vec![text("one", Some("RedPajamaBook")), text("zwei\nZeilen", Some("RedPajamaC4")), text("三 😀", None)]
}

fn packed(type_code: u8, n: u64, data: &[u8]) -> Vec<u8> {
    [b"LITPKDS".as_slice(), &1u64.to_le_bytes(), &[type_code], &n.to_le_bytes(), data].concat()
}

#[test]
fn json_lines() {
    let folder = TempDir::new().unwrap();
    assert_eq!(read(&file(&folder, "a.jsonl", ROWS.as_bytes())), rows());
    assert_eq!(read(&file(&folder, "empty.jsonl", b"")), []);
}

#[test]
fn zstd_of_several_frames() {
    let folder = TempDir::new().unwrap();
    // A frame may end in the middle of a line.
    let (a, b) = ROWS.as_bytes().split_at(20);
    let mut bytes = zstd::encode_all(a, 3).unwrap();
    bytes.extend(zstd::encode_all(b, 3).unwrap());
    assert_eq!(read(&file(&folder, "a.jsonl.zst", &bytes)), rows());
    assert_eq!(read(&file(&folder, "compressed but not named so.jsonl", &bytes)), rows());
    assert_eq!(read(&file(&folder, "a.txt.zst", &zstd::encode_all(&b"hi\n"[..], 3).unwrap())), [text("hi\n", None)]);
    bytes.truncate(bytes.len() - 5);
    assert!(error(&file(&folder, "cut.jsonl.zst", &bytes)).contains("line 1"));
    assert!(error(&file(&folder, "plain.jsonl.zst", ROWS.as_bytes())).contains("line 1"));
}

#[test]
fn parquet_with_meta_as_struct_as_json_and_without() {
    let all = |a, b| vec![text("one document", a), text("zwei\nZeilen", b), text("三", None), text("", a)];
    assert_eq!(read(&fixture("struct.parquet")), all(Some("RedPajamaBook"), Some("RedPajamaC4")));
    assert_eq!(read(&fixture("json.parquet")), all(Some("RedPajamaBook"), Some("RedPajamaC4")));
    assert_eq!(read(&fixture("text_only.parquet")), all(None, None));
}

#[test]
fn damaged_parquet_is_an_error() {
    let folder = TempDir::new().unwrap();
    let sound = fs::read(fixture("text_only.parquet")).unwrap();
    for end in [4, 8, sound.len() / 2, sound.len() - 1] {
        assert!(error(&file(&folder, "a.parquet", &sound[..end])).contains("parquet"));
    }
}

/// The parquet crate itself panics on some of these.
#[test]
fn a_changed_byte_in_parquet_never_panics() {
    let folder = TempDir::new().unwrap();
    let sound = fs::read(fixture("text_only.parquet")).unwrap();
    for at in 4..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        let path = file(&folder, "a.parquet", &bytes);
        if let Ok(documents) = read_documents(&path) {
            documents.take(100).for_each(drop);
        }
    }
}

#[test]
fn plain_text_is_one_document() {
    let folder = TempDir::new().unwrap();
    assert_eq!(read(&file(&folder, "a.txt", "é\n\nb".as_bytes())), [text("é\n\nb", None)]);
    assert!(error(&file(&folder, "b.txt", b"ab\xff")).contains("byte 2"));
}

#[test]
fn packed_tokens() {
    let folder = TempDir::new().unwrap();
    let short = packed(8, 3, &[1, 0, 255, 255, 2, 0]);
    assert_eq!(read(&file(&folder, "a.bin", &short)), [tokens(&[1, 65535, 2])]);
    let long = packed(4, 2, &[1, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(read(&file(&folder, "b.bin", &long)), [tokens(&[1, 65536])]);
    for (bytes, place) in [
        (packed(8, 4, &[0; 6]), "4 of 2 bytes"),
        (packed(8, u64::MAX, &[0; 6]), "tokens"),
        (packed(6, 1, &[0; 4]), "token type"),
        (packed(4, 1, &[255; 4]), "token 0"),
        (short[..20].to_vec(), "header"),
        ([b"LITPKDS".as_slice(), &2u64.to_le_bytes(), &[8], &[0; 8]].concat(), "version"),
    ] {
        let message = error(&file(&folder, "c.bin", &bytes));
        assert!(message.contains(place), "{message}");
    }
}

#[test]
fn token_lists() {
    let folder = TempDir::new().unwrap();
    assert_eq!(read(&file(&folder, "a.json", br#"{"tokens": [1, 2]}"#)), [tokens(&[1, 2])]);
    let two = br#"{"tokens": [[1, 2], [3]], "greedy_prompt_len": 1}"#;
    assert_eq!(read(&file(&folder, "b.json", two)), [tokens(&[1, 2]), tokens(&[3])]);
    for bad in [r#"{"tokens": [-1]}"#, r#"{"tokens": [1.5]}"#, r#"{"ids": []}"#, "[1]", r#"{"tokens": [4294967296]}"#] {
        assert!(error(&file(&folder, "c.json", bad.as_bytes())).contains("field `tokens`"));
    }
}

#[test]
fn errors_name_the_line_and_the_field() {
    let folder = TempDir::new().unwrap();
    for (line, words) in [
        (r#"{"text": 7}"#, "`text`"),
        (r#"{"txt": ""}"#, "missing field `text`"),
        (r#"{"text": "a", "meta": 3}"#, "field `meta`"),
        (r#"{"text": "a", "meta": {"redpajama_set_name": 3}}"#, "redpajama_set_name"),
        (r#"{"text": "a""#, "JSON object"),
    ] {
        let bytes = format!("{{\"text\": \"sound\"}}\n{line}").into_bytes();
        let message = error(&file(&folder, "a.jsonl", &bytes));
        assert!(message.contains("line 2") && message.contains(words), "{message}");
    }
    assert!(error(&file(&folder, "b.jsonl", b"{\"text\": \"\xff\"}")).contains("line 1"));
}

#[test]
fn other_files_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    assert!(error(&file(&folder, "a.csv", b"text\n")).contains(".jsonl"));
    assert!(error(folder.path()).contains("is a folder"));
    assert!(error(&folder.path().join("none.txt")).contains("No such file"));
}

#[test]
fn files_follow_each_other_and_an_error_ends_them() {
    let folder = TempDir::new().unwrap();
    let a = file(&folder, "a.txt", b"a");
    let b = file(&folder, "b.json", br#"{"tokens": [1]}"#);
    let both: Vec<Document> = read_all([a.clone(), b.clone()]).collect::<Result<_>>().unwrap();
    assert_eq!(both, [text("a", None), tokens(&[1])]);
    let missing = folder.path().join("missing.txt");
    let with_error: Vec<bool> = read_all([a, missing, b]).map(|document| document.is_ok()).collect();
    assert_eq!(with_error, [true, false]);
}

/// Row counts of the shared data, where it is at hand.
#[test]
fn the_shared_validation_rows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/validation.jsonl.zst");
    if !path.exists() {
        eprintln!("skipped: {} is not here", path.display());
        return;
    }
    let documents = read(&path);
    assert_eq!(documents.len(), 362);
    assert!(documents.iter().all(|d| d.domain.as_ref().is_some_and(|set| set.starts_with("RedPajama"))));
}
