//! The GGUF container: our writer and reader against each other, against gguf-py, and against damaged files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tamborim_converters::gguf::{Array, GgufFile, GgufWriter, Metadata, Value, read_tokenizer, write_tokenizer};
use tamborim_converters::{Error, Result};
use tamborim_model::tokenizer::{Kind, PieceType, Tokenizer};
use tempfile::TempDir;

/// A GGUF file put together by hand, so that each part can be wrong.
struct Raw {
    bytes: Vec<u8>,
}

impl Raw {
    fn new(tensors: u64, keys: u64) -> Raw {
        Raw { bytes: [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat() }
    }

    fn u32(mut self, x: u32) -> Raw {
        self.bytes.extend(x.to_le_bytes());
        self
    }

    fn u64(mut self, x: u64) -> Raw {
        self.bytes.extend(x.to_le_bytes());
        self
    }

    fn string(self, text: &str) -> Raw {
        let mut raw = self.u64(text.len() as u64);
        raw.bytes.extend(text.as_bytes());
        raw
    }

    /// A key of type u32.
    fn key(self, name: &str, x: u32) -> Raw {
        self.string(name).u32(4).u32(x)
    }

    fn tensor(self, name: &str, ne: &[u64], ggml_type: u32, offset: u64) -> Raw {
        let raw = ne.iter().fold(self.string(name).u32(ne.len() as u32), |raw, &n| raw.u64(n));
        raw.u32(ggml_type).u64(offset)
    }

    /// Pads the header and appends `n` bytes of data.
    fn data(mut self, n: usize) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(32) + n, 7);
        self.bytes
    }
}

fn parse(bytes: Vec<u8>) -> Result<GgufFile> {
    GgufFile::parse(Path::new("test.gguf"), bytes)
}

/// That `bytes` are refused with a one-line message that contains `words`.
#[track_caller]
fn refused(bytes: Vec<u8>, words: &str) {
    let message = parse(bytes).unwrap_err().to_string();
    assert!(message.starts_with("test.gguf: ") && !message.contains('\n'), "{message}");
    assert!(message.contains(words), "{message}\ndoes not say {words:?}");
}

fn every_value() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "samba".into()),
        ("u8", 255u8.into()),
        ("i8", (-1i8).into()),
        ("u16", 65535u16.into()),
        ("i16", (-2i16).into()),
        ("u32", u32::MAX.into()),
        ("i32", i32::MIN.into()),
        ("f32", 1.5f32.into()),
        ("true", true.into()),
        ("empty string", "".into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f64", 1e300.into()),
        ("list u8", vec![1u8, 2].into()),
        ("list i8", vec![-1i8].into()),
        ("list u16", vec![1u16].into()),
        ("list i16", vec![-1i16].into()),
        ("list u32", vec![7u32; 40].into()),
        ("list i32", vec![-1i32, 0, 1].into()),
        ("list f32", vec![0.5f32].into()),
        ("list bool", vec![true, false].into()),
        ("list string", vec!["a".to_owned(), "".to_owned(), "三".to_owned()].into()),
        ("list u64", vec![1u64].into()),
        ("list i64", vec![-1i64].into()),
        ("list f64", vec![0.25f64].into()),
    ]
}

/// Tensors of several types and shapes: name, row-major shape, type, bytes.
fn some_tensors() -> Vec<(&'static str, Vec<usize>, u32, Vec<u8>)> {
    let bytes = |n: usize| (0..n).map(|i| (i * 31 % 251) as u8).collect();
    vec![
        ("token_embd.weight", vec![5, 64], 8, bytes(5 * 2 * 34)),
        ("scalar", vec![], 0, bytes(4)),
        ("blk.0.ssm_conv1d.weight", vec![3, 4], 0, bytes(48)),
        ("four", vec![2, 1, 3, 256], 12, bytes(6 * 144)),
        ("half", vec![7], 1, bytes(14)),
    ]
}

fn write(path: &Path, alignment: Option<u32>) {
    let mut writer = GgufWriter::create(path).unwrap();
    for (key, value) in every_value() {
        writer.metadata.insert(key, value);
    }
    if let Some(alignment) = alignment {
        writer.set_alignment(alignment);
    }
    for (name, shape, ggml_type, bytes) in some_tensors() {
        assert_eq!(writer.declare(name, &shape, ggml_type).unwrap(), bytes.len());
    }
    let mut body = writer.write_header().unwrap();
    for (name, _, _, bytes) in some_tensors() {
        body.tensor(name, &bytes).unwrap();
    }
    body.finish().unwrap();
}

fn check(file: &GgufFile) {
    for (key, value) in every_value() {
        assert_eq!(file.metadata().get(key), Some(&value), "{key}");
    }
    let names: Vec<&str> = some_tensors().iter().map(|t| t.0).collect();
    assert!(file.tensors().keys().eq(names));
    for (name, shape, ggml_type, bytes) in some_tensors() {
        let tensor = &file.tensors()[name];
        assert_eq!((&tensor.shape, tensor.ggml_type.id, tensor.n_bytes), (&shape, ggml_type, bytes.len()));
        assert_eq!(file.bytes(name).unwrap(), bytes, "{name}");
    }
}

fn folder_is_empty(folder: &TempDir) -> bool {
    fs::read_dir(folder.path()).unwrap().next().is_none()
}

#[test]
fn what_is_written_is_read() {
    let folder = TempDir::new().unwrap();
    for alignment in [None, Some(1), Some(4096)] {
        let path = folder.path().join("a.gguf");
        write(&path, alignment);
        let file = GgufFile::open(&path).unwrap();
        check(&file);
        assert_eq!(file.metadata().len(), every_value().len() + usize::from(alignment.is_some()));
        assert_eq!(file.file_bytes() % u64::from(alignment.unwrap_or(32)), 0);
        let embedding = file.bytes("token_embd.weight").unwrap().as_ptr() as usize;
        // The mapping begins at a page.
        assert_eq!(embedding % alignment.unwrap_or(32).min(4096) as usize, 0);
        assert!(matches!(file.bytes("none"), Err(Error::Tensor { .. })));
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let [a, b] = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
    write(&a, None);
    write(&b, None);
    assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
}

#[test]
fn values_are_asked_for_by_type() {
    let mut metadata = Metadata::new(Path::new("m.gguf"));
    for (key, value) in every_value() {
        metadata.insert(key, value);
    }
    assert_eq!(metadata.required::<u32>("u8").unwrap(), 255);
    assert_eq!(metadata.required::<Vec<i64>>("list i8").unwrap(), [-1]);
    assert_eq!(metadata.required::<&str>("general.architecture").unwrap(), "samba");
    assert_eq!(metadata.required::<&[bool]>("list bool").unwrap(), [true, false]);
    assert_eq!(metadata.optional::<u32>("absent").unwrap(), None);
    let message = |error: Error| error.to_string();
    assert_eq!(
        message(metadata.required::<u32>("i8").unwrap_err()),
        "m.gguf: key i8: expected an integer in the range of u32, found i8 -1"
    );
    assert_eq!(
        message(metadata.required::<f32>("list i32").unwrap_err()),
        "m.gguf: key list i32: expected a float, found an array of 3 i32"
    );
    assert_eq!(
        message(metadata.required::<bool>("absent").unwrap_err()),
        "m.gguf: key absent: expected a bool, found no such key"
    );
    assert_eq!(metadata.get("list u32").unwrap().to_string(), "[7, 7, 7, ... 40 in all]");
    assert_eq!(metadata.get("list string").unwrap().to_string(), r#"["a", "", "三"]"#);
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    let begin = || {
        let mut writer = GgufWriter::create(&path).unwrap();
        writer.declare("a", &[2], 0).unwrap();
        writer.declare("b", &[2], 0).unwrap();
        writer.write_header().unwrap()
    };
    drop(GgufWriter::create(&path).unwrap());
    drop(begin());
    assert!(begin().finish().unwrap_err().to_string().contains("tensor a: expected 8 bytes"));
    let mut body = begin();
    assert!(body.tensor("b", &[0; 8]).unwrap_err().to_string().contains("expected tensor a"));
    assert!(body.tensor("a", &[0; 9]).unwrap_err().to_string().contains("expected 8 bytes, found 9"));
    body.tensor("a", &[0; 8]).unwrap();
    assert!(!path.exists());
    drop(body);
    assert!(folder_is_empty(&folder));

    // A file that is there stays as it was until the end.
    fs::write(&path, "old").unwrap();
    let mut body = begin();
    body.tensor("a", &[0; 8]).unwrap();
    body.tensor("b", &[0; 8]).unwrap();
    assert!(body.tensor("c", &[]).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    body.finish().unwrap();
    assert!(GgufFile::open(&path).is_ok());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_new_file_has_ordinary_permissions_and_links_are_followed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let [path, link, plain] = ["a.gguf", "link.gguf", "plain"].map(|name| folder.path().join(name));
    fs::write(&plain, "").unwrap();
    fs::write(&path, "").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    write(&link, None);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    check(&GgufFile::open(&path).unwrap());
}

#[test]
fn output_that_is_no_file_is_refused() {
    let folder = TempDir::new().unwrap();
    assert!(GgufWriter::create(folder.path()).unwrap_err().to_string().contains("is a folder"));
    assert!(matches!(GgufWriter::create(&folder.path().join("no/such.gguf")), Err(Error::Io { .. })));
    #[cfg(unix)]
    assert!(GgufWriter::create(Path::new("/dev/null")).unwrap_err().to_string().contains("device"));
}

#[test]
fn declarations_that_no_reader_takes_are_refused() {
    let folder = TempDir::new().unwrap();
    let mut writer = GgufWriter::create(&folder.path().join("a.gguf")).unwrap();
    writer.declare("a", &[32], 8).unwrap();
    for (name, shape, ggml_type, words) in [
        ("a", vec![32], 8, "second"),
        ("b", vec![33], 8, "whole q8_0 blocks of 32"),
        ("b", vec![32, 0], 8, "none of them 0"),
        ("b", vec![1; 5], 0, "4 dimensions"),
        ("b", vec![usize::MAX, 2], 0, "rows of whole f32"),
        ("b", vec![1], 4, "known ggml type"),
        ("", vec![1], 0, "name"),
        (&"n".repeat(64), vec![1], 0, "name of 1 to 63 bytes"),
    ] {
        let message = writer.declare(name, &shape, ggml_type).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    writer.set_alignment(24);
    assert!(writer.write_header().unwrap_err().to_string().contains("power of two"));
    assert!(folder_is_empty(&folder));
}

#[test]
fn every_shorter_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    write(&path, None);
    let bytes = fs::read(&path).unwrap();
    // The last tensor's padding may be missing, all else not.
    let needed = bytes.len() - (32 - 14);
    for end in 0..needed {
        assert!(parse(bytes[..end].to_vec()).is_err(), "{end} bytes");
    }
    check(&parse(bytes[..needed].to_vec()).unwrap());
}

#[test]
fn a_changed_byte_never_panics() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    write(&path, None);
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        for change in [1, 0x40, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            if let Ok(file) = parse(bytes) {
                file.tensors().keys().for_each(|name| assert!(file.bytes(name).is_ok()));
            }
        }
    }
}

#[test]
fn what_is_no_gguf_file_is_said_to_be_none() {
    for bytes in [b"".as_slice(), b"GGU", b"<!DOCTYPE html>", b"FUGG\x03\0\0\0"] {
        assert!(matches!(parse(bytes.to_vec()), Err(Error::NotAModel { .. })));
    }
    let version = |v: u32| [b"GGUF".as_slice(), &v.to_le_bytes(), &[0; 16]].concat();
    assert!(parse(version(3)).is_ok());
    assert!(parse(version(2)).is_ok());
    refused(version(1), "GGUF version 1");
    refused(version(4), "GGUF version 4");
    refused(version(3 << 24), "big-endian");
}

#[test]
fn hostile_keys_are_refused() {
    let value = |kind: u32| Raw::new(0, 1).string("k").u32(kind);
    refused(Raw::new(u64::MAX, 0).data(64), "number of tensors");
    refused(Raw::new(0, 1 << 60).data(64), "number of keys");
    refused(Raw::new(0, 2).key("k", 1).key("k", 1).data(0), "each key once");
    refused(Raw::new(0, 1).key("", 1).data(0), "a name, found an empty one");
    refused(Raw::new(0, 1).u64(u64::MAX).data(64), "1 GiB");
    refused(Raw::new(0, 1).u64(1 << 20).data(64), "end of file");
    refused(value(13).u64(0).data(0), "from 0 to 12, found 13");
    refused(value(7).u32(2).data(0), "a bool, 0 or 1");
    refused(value(9).u32(9).u64(1).u32(4).u64(0).data(0), "array of arrays");
    refused(value(9).u32(99).u64(0).data(0), "element type");
    refused(value(9).u32(0).u64(u64::MAX).data(0), "at most");
    refused(value(9).u32(12).u64(1 << 61).data(0), "at most");
    refused(value(9).u32(8).u64(1).u64(1 << 40).data(0), "1 GiB");
    refused(value(9).u32(8).u64(3).string("a").u64(5).data(0), "key k");
    let mut not_utf8 = Raw::new(0, 1).key("kk", 1).data(0);
    not_utf8[33] = 0xff;
    refused(not_utf8, "UTF-8, found another byte sequence 1 bytes in");
    refused(Raw::new(0, 1).key("general.alignment", 24).data(0), "power of two");
    refused(Raw::new(0, 1).key("general.alignment", 0).data(0), "power of two");
    refused(Raw::new(0, 1).string("general.alignment").u32(10).u64(32).data(0), "a u32");
    refused(Raw::new(0, 1).string("line\nbreak").u32(13).data(64), "line\\nbreak");
}

#[test]
fn hostile_tensors_are_refused() {
    let one = |ne: &[u64], kind, offset| Raw::new(1, 0).tensor("t", ne, kind, offset).data(256);
    assert!(parse(one(&[8, 8], 0, 0)).is_ok());
    refused(one(&[8, 9], 0, 0), "end of file");
    refused(one(&[8], 0, 32), "offset 32");
    refused(one(&[8], 0, u64::MAX), "offset 18446744073709551615");
    refused(one(&[8, 0], 0, 0), "dimensions of at least 1, found 0");
    refused(one(&[u64::MAX], 0, 0), "dimensions of at least 1, found -1");
    refused(one(&[1 << 32, 1 << 32], 0, 0), "2^63 elements");
    refused(one(&[1 << 62], 0, 0), "2^64 bytes");
    refused(one(&[1 << 61], 0, 0), "end of file");
    refused(one(&[1 << 60], 0, 0), "end of file");
    refused(one(&[1; 5], 0, 0), "4 dimensions, found 5");
    refused(one(&[33], 8, 0), "whole q8_0 blocks of 32");
    refused(one(&[16, 2], 8, 0), "whole q8_0 blocks of 32, found rows of 16");
    refused(one(&[8], 4, 0), "type 4");
    refused(one(&[8], 1000, 0), "type 1000");
    let two = |a: &str, b: &str, offset| Raw::new(2, 0).tensor(a, &[9], 0, 0).tensor(b, &[9], 0, offset).data(128);
    assert!(parse(two("a", "b", 64)).is_ok());
    refused(two("a", "a", 64), "second one of this name");
    refused(two("a", "b", 36), "offset 64, where the tensor before it ends");
    refused(two("a", "b", 96), "offset 64, where the tensor before it ends");
    refused(two("a", "b", 0), "offset 64, where the tensor before it ends");
    refused(two("a", &"n".repeat(64), 64), "fewer than 64 bytes");
    let wide = Raw::new(1, 1).key("general.alignment", 1 << 31).tensor("t", &[1], 0, 0).data(64);
    refused(wide, "end of file");
}

fn shard(folder: &TempDir, name: &str, no: u16, count: u16, total: i32, tensor: &str) -> PathBuf {
    let path = folder.path().join(name);
    let mut writer = GgufWriter::create(&path).unwrap();
    if no == 0 {
        writer.metadata.insert("general.architecture", "samba");
    }
    writer.metadata.insert("split.no", no);
    writer.metadata.insert("split.count", count);
    writer.metadata.insert("split.tensors.count", total);
    writer.declare(tensor, &[2], 0).unwrap();
    let mut body = writer.write_header().unwrap();
    body.tensor(tensor, &[no as u8; 8]).unwrap();
    body.finish().unwrap();
    path
}

#[test]
fn split_files_open_as_one_from_any_shard() {
    let folder = TempDir::new().unwrap();
    let paths: Vec<PathBuf> = (0..3)
        .map(|no| shard(&folder, &format!("m-{:05}-of-00003.gguf", no + 1), no, 3, 3, ["a", "b", "c"][usize::from(no)]))
        .collect();
    for path in &paths {
        let file = GgufFile::open(path).unwrap();
        assert!(file.tensors().keys().eq(["a", "b", "c"]));
        assert_eq!((file.shards(), file.path()), (3, path.as_path()));
        assert_eq!(file.metadata().required::<&str>("general.architecture").unwrap(), "samba");
        assert_eq!(file.bytes("c").unwrap(), [2; 8]);
        assert_eq!(file.tensors()["b"].shard, 1);
    }
    let message = |path: &Path| GgufFile::open(path).unwrap_err().to_string();
    fs::copy(&paths[0], folder.path().join("renamed.gguf")).unwrap();
    assert!(message(&folder.path().join("renamed.gguf")).contains("-00001-of-00003.gguf"));
    shard(&folder, "m-00003-of-00003.gguf", 2, 3, 3, "a");
    assert!(message(&paths[0]).contains("each tensor in one shard"));
    fs::copy(&paths[1], &paths[2]).unwrap();
    assert!(message(&paths[0]).contains("shard 2 of 3"));
    fs::remove_file(&paths[2]).unwrap();
    assert!(message(&paths[0]).contains("m-00003-of-00003.gguf"));
    let short = shard(&folder, "s-00001-of-00002.gguf", 0, 2, 5, "a");
    shard(&folder, "s-00002-of-00002.gguf", 1, 2, 5, "b");
    assert!(message(&short).contains("5 tensors, found 2 in 2 shards"));
    assert!(message(&shard(&folder, "t-00006-of-00002.gguf", 5, 2, 2, "a")).contains("file name"));
}

fn demo_tokenizer() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/samba-7m/tokenizer.model");
    Tokenizer::from_sentencepiece(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_tokenizer_survives_gguf() {
    let tokenizer = demo_tokenizer();
    let mut metadata = Metadata::new(Path::new("m.gguf"));
    assert!(read_tokenizer(&metadata).unwrap().is_none());
    // Padded to a multiple of 128 rows and more; reading takes the padding away again.
    write_tokenizer(&mut metadata, &tokenizer, 4224).unwrap();
    let tokens = metadata.required::<&[String]>("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[4223].as_str()), (4224, "[PAD4223]"));
    assert_eq!(metadata.required::<&str>("tokenizer.ggml.model").unwrap(), "llama");
    assert!(!metadata.required::<bool>("tokenizer.ggml.add_bos_token").unwrap());
    let again = read_tokenizer(&metadata).unwrap().unwrap();
    assert_eq!(again.pieces(), tokenizer.pieces());
    assert!(write_tokenizer(&mut metadata, &tokenizer, 4095).unwrap_err().to_string().contains("4096 pieces"));
}

#[test]
fn foreign_tokenizer_keys() {
    let mut metadata = Metadata::new(Path::new("m.gguf"));
    metadata.insert("tokenizer.ggml.model", "t5");
    metadata.insert("tokenizer.ggml.tokens", vec!["<unk>".to_owned(), "a".to_owned()]);
    let message = |metadata: &Metadata| read_tokenizer(metadata).unwrap_err().to_string();
    assert!(message(&metadata).contains("key tokenizer.ggml.scores"));
    metadata.insert("tokenizer.ggml.scores", vec![0.0f32, -1.0]);
    // Without types, piece 0 is the unknown one.
    let tokenizer = read_tokenizer(&metadata).unwrap().unwrap();
    assert_eq!(tokenizer.pieces().kind, Kind::Unigram);
    assert_eq!(tokenizer.pieces().types, [PieceType::Unknown, PieceType::Normal]);
    metadata.insert("tokenizer.ggml.precompiled_charsmap", Array::I8(vec![-1; 3]));
    assert!(message(&metadata).contains("character map"));
    metadata.insert("tokenizer.ggml.token_type", vec![2i32, 9]);
    assert!(message(&metadata).contains("type 9"));
    metadata.insert("tokenizer.ggml.model", "bert");
    assert!(message(&metadata).contains("SentencePiece"));
}

#[test]
fn tokenizers_of_the_descendants_survive_in_keys() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(project.join(path)).expect("a file of the repository");
    let folder = "tests/fixtures/descendants/plamo2_step3_mqa_bf16";
    let plamo2 = Tokenizer::from_plamo2(
        &read(&format!("{folder}/tokenizer.jsonl")),
        Some(&read(&format!("{folder}/tokenizer_config.json"))),
    );
    let file = read("model/tests/goldens/byte_level.tokenizer.json");
    let byte_level = Tokenizer::from_hugging_face(&file, Some(r#"{"eos_token": {"content": "<|end|>"}}"#));
    for (tokenizer, model, pre) in [(plamo2, "plamo2", "default"), (byte_level, "gpt2", "gpt-4o")] {
        let tokenizer = tokenizer.expect("a tokenizer");
        let mut metadata = Metadata::new(Path::new("m.gguf"));
        write_tokenizer(&mut metadata, &tokenizer, tokenizer.vocab_size() + 10).unwrap();
        assert_eq!(metadata.required::<&str>("tokenizer.ggml.model").unwrap(), model);
        assert_eq!(metadata.required::<&str>("tokenizer.ggml.pre").unwrap(), pre);
        assert_eq!(read_tokenizer(&metadata).unwrap().unwrap().pieces(), tokenizer.pieces());
    }
    // A pattern that llama.cpp has no name for is kept as it is; none at all is no tokenizer.
    let file = file.replace("{1,3}", "{1,2}");
    let mut metadata = Metadata::new(Path::new("m.gguf"));
    let odd = Tokenizer::from_hugging_face(&file, None).expect("a tokenizer");
    write_tokenizer(&mut metadata, &odd, odd.vocab_size()).unwrap();
    assert_eq!(read_tokenizer(&metadata).unwrap().unwrap().pieces(), odd.pieces());
    metadata.insert("tamborim.tokenizer.pattern", "(");
    assert!(read_tokenizer(&metadata).unwrap_err().to_string().contains("pattern"));
}

/// Python with gguf-py, from `TAMBORIM_PYTHON`.
fn python(script: &str, path: &Path) -> Option<String> {
    let Ok(python) = std::env::var("TAMBORIM_PYTHON") else {
        eprintln!("skipped: set TAMBORIM_PYTHON to a Python that has gguf and numpy");
        return None;
    };
    let output = Command::new(python).args(["-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn gguf_py_reads_what_we_write() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    write(&path, None);
    let listing = python(
        "import sys\nfrom gguf import GGUFReader\nr = GGUFReader(sys.argv[1])\n\
         for t in r.tensors: print(t.name, int(t.tensor_type), [int(n) for n in t.shape], t.data.tobytes().hex())\n\
         for k in ('i32', 'f32', 'true', 'general.architecture', 'list string'): print(k, r.get_field(k).contents())",
        &path,
    );
    let Some(listing) = listing else { return };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut expected = String::new();
    for (name, mut shape, ggml_type, bytes) in some_tensors() {
        shape.reverse();
        expected += &format!("{name} {ggml_type} {shape:?} {}\n", hex(&bytes));
    }
    expected += "i32 -2147483648\nf32 1.5\ntrue True\ngeneral.architecture samba\nlist string ['a', '', '三']\n";
    assert_eq!(listing, expected);
}

#[test]
fn we_read_what_gguf_py_writes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    let script = "import sys, numpy as np, gguf\nw = gguf.GGUFWriter(sys.argv[1], 'samba')\n\
                  w.add_uint32('samba.block_count', 6)\nw.add_array('samba.attention.head_count_kv', [0, 12, 0])\n\
                  w.add_bool('b', True)\nw.add_token_list(['<unk>', 'é'])\nw.add_float32('eps', 1e-5)\n\
                  w.add_tensor('m', np.arange(6, dtype=np.float32).reshape(2, 3))\n\
                  w.add_tensor('h', np.arange(3, dtype=np.float16))\n\
                  q = gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)\n\
                  w.add_tensor('q', q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)\n\
                  w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()";
    if python(script, &path).is_none() {
        return;
    }
    let file = GgufFile::open(&path).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.required::<&str>("general.architecture").unwrap(), "samba");
    assert_eq!(metadata.required::<u32>("samba.block_count").unwrap(), 6);
    assert_eq!(metadata.required::<Vec<u32>>("samba.attention.head_count_kv").unwrap(), [0, 12, 0]);
    assert_eq!(metadata.required::<&[String]>("tokenizer.ggml.tokens").unwrap(), ["<unk>", "é"]);
    assert_eq!(file.tensors()["m"].shape, [2, 3]);
    assert_eq!(file.bytes("m").unwrap(), [0f32, 1., 2., 3., 4., 5.].map(f32::to_le_bytes).concat());
    assert_eq!(
        (file.tensors()["q"].shape.as_slice(), file.tensors()["q"].ggml_type.name),
        ([2, 64].as_slice(), "q8_0")
    );
    assert_eq!(file.bytes("q").unwrap().len(), 4 * 34);
}
