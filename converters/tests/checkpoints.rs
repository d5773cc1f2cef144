//! Every form that weights are stored in gives the same weights; every damaged or hostile file is refused by name.
//!
//! The small subset in `tests/fixtures` is always tested. The full set of fixtures lies outside the repository, in
//! `shared/fixtures/lit`; where it is present, it is tested too, and the tables below must cover its manifests.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tamborim_converters::{Checkpoint, Error, Result, checkpoint::Scalar, fuzz, open_checkpoint};

fn committed(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(folder)
}

/// The full fixtures, or nothing and a note.
fn shared(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/lit").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

/// The keys of a folder's manifest.
fn manifest(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("manifest.json")).expect("the manifest");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json.as_object().expect("an object").keys().cloned().collect()
}

/// How a file's weights differ from the original float32 ones.
#[derive(Clone, Copy)]
enum Rounded {
    No,
    Bf16,
    F16,
    /// To bfloat16, all but `A_log` and `D`.
    Bf16ButScan,
}

const FORMS: [(&str, Rounded); 36] = [
    ("train.pth", Rounded::No),
    ("raw_state_dict.pth", Rounded::No),
    ("legacy.pth", Rounded::No),
    ("legacy_raw.pth", Rounded::No),
    ("bf16.pth", Rounded::Bf16),
    ("fp16.pth", Rounded::F16),
    ("bf16_legacy.pth", Rounded::Bf16),
    ("mixed_dtype.pth", Rounded::Bf16ButScan),
    ("float64.pth", Rounded::No),
    ("prefix_module.pth", Rounded::No),
    ("prefix_orig_mod.pth", Rounded::No),
    ("prefix_module__orig_mod.pth", Rounded::No),
    ("prefix_forward_module.pth", Rounded::No),
    ("prefix_model.pth", Rounded::No),
    ("tied_no_lm_head.pth", Rounded::No),
    ("tied_no_wte.pth", Rounded::No),
    ("lightning_state_dict_key.pth", Rounded::No),
    ("views.pth", Rounded::No),
    ("views_legacy.pth", Rounded::No),
    ("parameters.pth", Rounded::No),
    ("pickle_protocol5.pth", Rounded::No),
    ("pickle_protocol4.pth", Rounded::No),
    ("hparams_path_numpy.pth", Rounded::No),
    ("namespace_arg.pth", Rounded::No),
    ("weird name ünï.pth", Rounded::No),
    ("cuda_location.pth", Rounded::No),
    ("rezipped_unaligned.pth", Rounded::No),
    ("rezipped_deflate.pth", Rounded::No),
    ("other_root.pth", Rounded::No),
    ("big_endian.pth", Rounded::No),
    ("model.safetensors", Rounded::No),
    ("model_bf16.safetensors", Rounded::Bf16),
    ("model_untied.safetensors", Rounded::No),
    ("sharded", Rounded::No),
    ("sharded_bin", Rounded::No),
    ("dcp", Rounded::No),
];

/// The original weights, as another implementation wrote and the safetensors crate alone reads them.
fn original() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(committed("formats/model_untied.safetensors")).expect("the original weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), values(view.data())))).collect()
}

fn rounded(rounding: Rounded, name: &str, value: f32) -> f64 {
    let scan = name.ends_with(".A_log") || name.ends_with(".D");
    f64::from(match rounding {
        Rounded::Bf16 => half::bf16::from_f32(value).to_f32(),
        Rounded::Bf16ButScan if !scan => half::bf16::from_f32(value).to_f32(),
        Rounded::F16 => half::f16::from_f32(value).to_f32(),
        _ => value,
    })
}

fn widened(scalar: Scalar, bytes: &[u8]) -> Vec<f64> {
    fn all<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, rest) = bytes.as_chunks::<N>();
        assert!(rest.is_empty());
        chunks.iter().map(|chunk| f(*chunk)).collect()
    }
    match scalar {
        Scalar::F64 => all(bytes, f64::from_le_bytes),
        Scalar::F32 => all(bytes, |b| f32::from_le_bytes(b).into()),
        Scalar::F16 => all(bytes, |b| half::f16::from_le_bytes(b).into()),
        Scalar::Bf16 => all(bytes, |b| half::bf16::from_le_bytes(b).into()),
    }
}

fn check_form(path: &Path, rounding: Rounded) {
    let original = original();
    let shown = path.display();
    let checkpoint = open_checkpoint(path).unwrap_or_else(|e| panic!("{e}"));
    for (name, entry) in checkpoint.entries() {
        let (shape, values) = original.get(name).unwrap_or_else(|| panic!("{shown}: {name} is no weight"));
        assert_eq!(&entry.shape, shape, "{shown}: {name}");
        let found = widened(entry.scalar, &checkpoint.read(name).unwrap_or_else(|e| panic!("{e}")));
        let expected: Vec<f64> = values.iter().map(|&v| rounded(rounding, name, v)).collect();
        assert_eq!(found, expected, "{shown}: {name}");
    }
    let absent: Vec<_> = original.keys().filter(|name| !checkpoint.entries().contains_key(*name)).collect();
    let one_of_the_tied = ["lm_head.weight", "transformer.wte.weight"];
    assert!(absent.len() <= 1 && absent.iter().all(|n| one_of_the_tied.contains(&n.as_str())), "{shown}: {absent:?}");
}

#[test]
fn every_storage_form_gives_the_same_weights() {
    let rounding: BTreeMap<_, _> = FORMS.into_iter().collect();
    let mut checked = 0;
    for entry in std::fs::read_dir(committed("formats")).expect("the committed fixtures") {
        let path = entry.expect("an entry").path();
        if let Some(&rounding) = path.file_name().and_then(|n| n.to_str()).and_then(|n| rounding.get(n)) {
            check_form(&path, rounding);
            checked += 1;
        }
    }
    assert_eq!(checked, 9, "committed fixtures went missing");
    let Some(folder) = shared("formats") else { return };
    for name in manifest(&folder) {
        check_form(
            &folder.join(&name),
            *rounding.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in FORMS")),
        );
    }
}

#[test]
fn tied_tensors_have_one_identity_and_untied_ones_two() {
    let tied = |name: &str| {
        let checkpoint = open_checkpoint(&committed("formats").join(name)).expect("a sound file");
        let identity = |tensor: &str| checkpoint.entries()[tensor].identity.clone();
        identity("lm_head.weight") == identity("transformer.wte.weight")
    };
    assert!(tied("train.pth"));
    assert!(tied("legacy.pth"));
    assert!(tied("rezipped_deflate.pth"));
    assert!(!tied("model_untied.safetensors"));
    assert!(!tied("dcp"));
}

#[test]
fn tensors_are_copied_only_where_their_bytes_are_not_in_order() {
    let borrowed = |name: &str| {
        let checkpoint = open_checkpoint(&committed("formats").join(name)).expect("a sound file");
        let read = |tensor: &String| checkpoint.read(tensor).map(|bytes| matches!(bytes, Cow::Borrowed(_)));
        let borrowed: Result<Vec<bool>> = checkpoint.entries().keys().map(read).collect();
        borrowed.expect("sound tensors").into_iter().filter(|&b| b).count()
    };
    assert_eq!(borrowed("train.pth"), 24);
    assert_eq!(borrowed("legacy.pth"), 24);
    assert_eq!(borrowed("sharded"), 23);
    assert_eq!(borrowed("dcp"), 24);
    assert_eq!(borrowed("views.pth"), 21);
    assert_eq!(borrowed("rezipped_deflate.pth"), 0);
}

#[test]
fn facts_beside_the_weights_are_kept() {
    let checkpoint = open_checkpoint(&committed("formats/train.pth")).expect("a sound file");
    let extras = checkpoint.extras();
    assert_eq!(extras.model_name.as_deref(), Some("Samba_421M"));
    assert_eq!(extras.scalars.get("iter_num").map(String::as_str), Some("8000"));
    assert_eq!(extras.scalars.get("hparams.learning_rate").map(String::as_str), Some("0.0004"));
    assert_eq!(extras.container, "torch zip archive");
    let extras = open_checkpoint(&committed("formats/dcp")).expect("a sound folder").extras().clone();
    assert_eq!(extras.scalars.get("step_count").map(String::as_str), Some("1000"));
    assert_eq!(extras.container, "torch distributed checkpoint, 1 file");
}

/// What becomes of a file in `broken/`.
enum Fate {
    /// Refused here, with a message that holds these words.
    Refused(&'static [&'static str]),
    /// Sound as a container; what is wrong (if anything is) shows against a configuration, or in the numbers.
    Read,
}
use Fate::{Read, Refused};

const NORM: &str = "tensor transformer.h.0.norm_1.weight: ";
const PROJ: &str = "tensor transformer.h.1.attn.proj.weight: ";
const A_LOG: &str = "tensor transformer.h.0.attn.A_log: ";

const BROKEN: [(&str, Fate); 92] = [
    ("evil_os_system.pth", Refused(&["data.pkl", "`posix.system`"])),
    ("evil_eval.pth", Refused(&["data.pkl", "eval`"])),
    ("evil_exec_legacy.pth", Refused(&["object pickle", "exec`"])),
    ("evil_getattr.pth", Refused(&["data.pkl", "getattr`"])),
    ("evil_popen.pth", Refused(&["data.pkl", "Popen`"])),
    ("evil_plain_pickle.pth", Refused(&["`posix.system`"])),
    ("evil_model_entry.pth", Refused(&["data.pkl", "`posix.system`"])),
    ("control_ok.pth", Read),
    ("huge_numel.pth", Refused(&[NORM, "1099511627776 elements", "found 128 bytes"])),
    ("huge_shape.pth", Refused(&[NORM, "1099511627776"])),
    ("shape_overflow.pth", Refused(&[NORM, "[8589934592, 8589934592]"])),
    ("stride_escape.pth", Refused(&[NORM, "strides [1000]"])),
    ("offset_escape.pth", Refused(&[NORM, "offset 31"])),
    ("negative_offset.pth", Refused(&[NORM, "[-8]"])),
    ("negative_stride.pth", Refused(&[NORM, "[-1]"])),
    ("negative_size.pth", Refused(&[NORM, "[-16]"])),
    ("size_stride_rank.pth", Refused(&[NORM, "2 strides, found 1"])),
    ("missing_record.pth", Refused(&[NORM, "storage 7", "none"])),
    ("traversal_key.pth", Refused(&[NORM, "../../../etc/hostname", "none"])),
    ("traversal_record.pth", Read),
    ("complex_storage.pth", Refused(&[NORM, "complex64"])),
    ("int_storage.pth", Refused(&[NORM, "int64"])),
    ("pickle_empty.pth", Refused(&["data.pkl, byte 0"])),
    ("pickle_no_stop.pth", Refused(&["data.pkl", "the pickle ends"])),
    ("pickle_stack_underflow.pth", Refused(&["data.pkl", "values on the stack"])),
    ("pickle_bad_memo.pth", Refused(&["data.pkl", "slot 255"])),
    ("pickle_huge_string.pth", Refused(&["data.pkl", "2147483647 more bytes"])),
    ("pickle_huge_string8.pth", Refused(&["data.pkl", "9223372036854775807 more bytes"])),
    ("pickle_deep.pth", Refused(&["root object", "a list of 1"])),
    ("pickle_billion_laughs.pth", Refused(&["root object", "a list of 10"])),
    ("pickle_self_reference.pth", Refused(&["`model`", "dicts in dicts"])),
    ("pickle_not_dict.pth", Refused(&["root object", "a list of 3"])),
    ("pickle_int_keys.pth", Refused(&["`model`", "the integer 3"])),
    ("pickle_build_attack.pth", Refused(&["data.pkl", "`__class__`"])),
    ("truncated_60.pth", Refused(&["zip archive", "is the file cut?"])),
    ("truncated_tail.pth", Refused(&["zip archive", "is the file cut?"])),
    ("truncated_legacy.pth", Refused(&["storage 94019331379360", "the end of the file"])),
    ("empty.pth", Refused(&["not a model: an empty file"])),
    ("text.pth", Refused(&["not a model: a text file", "hello"])),
    ("html.pth", Refused(&["not a model: an HTML page"])),
    ("git_lfs_pointer.pth", Refused(&["git-lfs pointer", "`git lfs pull`"])),
    ("bad_crc.pth", Refused(&["data/5", "CRC-32"])),
    ("bad_crc_pickle.pth", Refused(&["data.pkl", "CRC-32"])),
    ("zip_garbage_after.pth", Read),
    ("zip_bad_directory_offset.pth", Refused(&["zip archive"])),
    ("zip_many_entries.pth", Refused(&["zip archive"])),
    ("zip_classic_vs_zip64.pth", Refused(&["zip archive"])),
    ("zip_bomb.pth", Refused(&["`model`", "none"])),
    ("wrong_shape.pth", Read),
    ("transposed_shape.pth", Read),
    ("flat_shape.pth", Read),
    ("missing_tensor.pth", Read),
    ("missing_norm.pth", Read),
    ("extra_tensor.pth", Read),
    ("extra_bias.pth", Read),
    ("nan.pth", Read),
    ("inf.pth", Read),
    ("wrong_vocab.pth", Read),
    ("untied_conflict.pth", Read),
    ("int8_weight.pth", Refused(&[PROJ, "int8"])),
    ("scalar_weight.pth", Refused(&[PROJ, "a scalar"])),
    ("empty_weight.pth", Refused(&[PROJ, "[0, 16]"])),
    ("string_weight.pth", Refused(&[PROJ, "a string"])),
    ("meta_weight.pth", Refused(&[PROJ, "a meta tensor"])),
    ("sparse_weight.pth", Refused(&[PROJ, "a sparse tensor"])),
    ("no_model_key.pth", Refused(&["root object", "`optimizer`"])),
    ("empty_model.pth", Refused(&["`model`", "none"])),
    ("st_huge_header.safetensors", Refused(&["header", "4611686018427387904"])),
    ("st_header_past_end.safetensors", Refused(&["header", "33658"])),
    ("st_not_json.safetensors", Refused(&["header", "JSON"])),
    ("st_deep_json.safetensors", Refused(&["header", "JSON"])),
    ("st_offsets_past_end.safetensors", Refused(&[A_LOG, "35264"])),
    ("st_offsets_reversed.safetensors", Refused(&["tensor transformer.h.0.attn.D: "])),
    ("st_size_mismatch.safetensors", Refused(&[A_LOG])),
    ("st_shape_overflow.safetensors", Refused(&[A_LOG])),
    ("st_negative_shape.safetensors", Refused(&[A_LOG, "-1"])),
    ("st_float_shape.safetensors", Refused(&[A_LOG, "1.5"])),
    ("st_unknown_dtype.safetensors", Refused(&[A_LOG, "F7"])),
    ("st_overlap.safetensors", Refused(&["tensor transformer.h.0.attn.conv1d.bias: "])),
    ("st_duplicate_key.safetensors", Refused(&["transformer.h.0.attn.A_log", "twice"])),
    ("st_truncated.safetensors", Refused(&["tensor transformer."])),
    ("st_seven_bytes.safetensors", Refused(&["header", "7 bytes"])),
    ("st_empty.safetensors", Refused(&["an empty file"])),
    ("st_invalid_utf8.safetensors", Refused(&["header", "UTF-8"])),
    ("index_traversal", Refused(&["index", "hostname"])),
    ("index_absolute", Refused(&["index", "/etc/hostname"])),
    ("index_missing_shard", Refused(&["model-00009-of-00003.safetensors"])),
    ("index_wrong_shard", Refused(&["tensor transformer.", "index.json"])),
    ("index_shard_is_pickle", Refused(&["model-00001-of-00003.safetensors", "a pickle"])),
    ("a_directory.pth", Refused(&["not a model: a folder without"])),
    ("dcp_evil_metadata", Refused(&[".metadata", "`posix.system`"])),
    ("dcp_truncated", Refused(&["__0_0.distcp", "model.lm_head.weight", "2500 bytes"])),
];

/// Opens a checkpoint and reads every tensor.
fn read_all(path: &Path) -> Result<Box<dyn Checkpoint>> {
    let checkpoint = open_checkpoint(path)?;
    for name in checkpoint.entries().keys() {
        checkpoint.read(name)?;
    }
    Ok(checkpoint)
}

fn check_fate(path: &Path, fate: &Fate) {
    let begin = Instant::now();
    let result = read_all(path);
    assert!(begin.elapsed() < Duration::from_secs(1), "{}: took {:?}", path.display(), begin.elapsed());
    match (fate, result) {
        (Read, Ok(_)) => {}
        (Refused(words), Err(error)) => {
            let message = error.to_string();
            assert!(!message.contains('\n') && message.len() < 1000, "{message:?}");
            let file = path.file_name().and_then(|n| n.to_str()).expect("a name");
            assert!(message.contains(file), "{message}: does not name {file}");
            for word in *words {
                assert!(message.contains(word), "{message}: lacks {word}");
            }
            let hostile = file.contains("evil");
            assert_eq!(matches!(error, Error::Forbidden { .. }), hostile, "{message}");
        }
        (Read, Err(error)) => panic!("{error}: should be read"),
        (Refused(_), Ok(_)) => panic!("{}: should be refused", path.display()),
    }
    for folder in [Some(Path::new(".")), path.parent(), path.parent().and_then(Path::parent)].into_iter().flatten() {
        assert!(!folder.join("pwned").exists(), "{} ran its payload", path.display());
    }
}

#[test]
fn damaged_and_hostile_files_are_refused_by_name() {
    let mut checked = 0;
    for (name, fate) in &BROKEN {
        let path = committed("broken").join(name);
        if path.exists() {
            check_fate(&path, fate);
            checked += 1;
        }
    }
    assert_eq!(checked, 32, "committed fixtures went missing");
    let Some(folder) = shared("broken") else { return };
    let fates: BTreeMap<_, _> = BROKEN.iter().map(|(name, fate)| (*name, fate)).collect();
    // configs/ are configurations, which say nothing about reading checkpoints.
    for name in manifest(&folder).iter().filter(|name| !name.starts_with("configs/")) {
        check_fate(&folder.join(name), fates.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in BROKEN")));
    }
}

#[test]
fn indexes_and_shards_must_agree() {
    let from = committed("formats/sharded");
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(from).expect("the shards") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    let index = folder.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).expect("the index");
    let refusal = |text: String| {
        std::fs::write(&index, text).expect("an index");
        open_checkpoint(folder.path()).err().expect("a refusal").to_string()
    };
    let key = "\"transformer.ln_f.weight\"";
    assert!(refusal(text.replace(key, "\"transformer.ln_g.weight\"")).contains("tensor transformer.ln_g.weight"));
    assert!(refusal(text.replace(key, "\"transformer.wte.weight\"")).contains("twice"));
    let listed = text.find(key).expect("the key");
    let end = listed + text[listed..].find([',', '}']).expect("the end");
    let without = format!("{}\"metadata2\": \"\"{}", &text[..listed], &text[end..]);
    assert!(refusal(without).contains("index"));
    std::fs::write(&index, text).expect("an index");
    read_all(&index).expect("the index itself opens as well");
}

#[test]
fn a_safetensors_header_cannot_wrap_around() {
    // 2^64 - 1 bytes: the end of the data, counted from the beginning of the file, passes 2^64.
    let header = br#"{"a":{"dtype":"F32","shape":[4611686018427387902],"data_offsets":[0,18446744073709551608]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    let message = fuzz::safetensors(&file).expect_err("a refusal").to_string();
    assert!(message.contains("tensor a: "), "{message}");
}

#[test]
fn archives_saved_without_checksums_are_read() {
    // What torch.serialization.set_crc32_options(False) leaves: zeros in local headers, descriptors and directory.
    let mut bytes = std::fs::read(committed("formats/train.pth")).expect("a fixture");
    for (magic, at) in [(b"PK\x03\x04", 14), (b"PK\x07\x08", 4), (b"PK\x01\x02", 16)] {
        for start in 0..bytes.len() - 20 {
            if bytes[start..].starts_with(magic) {
                bytes[start + at..start + at + 4].fill(0);
            }
        }
    }
    fuzz::torch(&bytes).expect("a sound file");
}

/// Small random damage, the same in every run.
struct Damage(u64);

impl Damage {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn to(&mut self, sound: &[u8], within: usize) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        for _ in 0..1 + self.next(4) {
            let at = self.next(within.min(bytes.len()));
            match self.next(4) {
                0 => bytes[at] ^= 1 << self.next(8),
                1 => bytes[at] = self.next(256) as u8,
                2 => bytes[at] = [0, 0x7f, 0x80, 0xff, b'.', b'('][self.next(6)],
                _ => {
                    let from = self.next(within.min(bytes.len()));
                    bytes[at] = bytes[from];
                }
            }
        }
        if self.next(8) == 0 {
            bytes.truncate(1 + self.next(sound.len()));
        }
        bytes
    }
}

#[test]
fn random_damage_is_refused_or_read_but_never_panics() {
    let read = |name: &str| std::fs::read(committed("formats").join(name)).expect("a fixture");
    let mut damage = Damage(0x5a3b_a515_7a11);
    // In the legacy format no checksum hides the pickles from the damage; in a zip the directory comes last.
    let legacy = read("legacy.pth");
    let safetensors = read("model_untied.safetensors");
    let metadata = read("dcp/.metadata");
    let zip: Vec<u8> = read("train.pth");
    let reversed: Vec<u8> = zip.iter().rev().copied().collect();
    let mut refused = 0;
    for _ in 0..4000 {
        refused += usize::from(fuzz::torch(&damage.to(&legacy, 6000)).is_err());
        refused += usize::from(fuzz::safetensors(&damage.to(&safetensors, 2500)).is_err());
        refused += usize::from(fuzz::pickle(&damage.to(&metadata, usize::MAX)).is_err());
        let mut zip = damage.to(&reversed, 4000);
        zip.reverse();
        refused += usize::from(fuzz::torch(&zip).is_err());
    }
    assert!(refused > 8000, "damage went unnoticed: {refused} of 16000 refused");
}
