//! Files whose parts refer to each other so that a reader could be made to work for hours or fill any memory: a
//! pickle's values may be used any number of times, and what is copied or searched at each use must be short.

// The tests use a part of what the fuzz targets share.
#[allow(dead_code)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use tamborim_converters::{fuzz, open_checkpoint};
use tamborim_model::tokenizer::Tokenizer;
use targets::{run, seeds};

/// BINUNICODE.
fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A pickle of `{"0": x, "1": x, ..}`, where x is what the opcodes in `value` push.
fn one_value_by_many_names(value: &[u8], names: usize) -> Vec<u8> {
    let mut out = [b"\x80\x02", value, b"q\x000}("].concat();
    for name in 0..names {
        out.extend(text(&format!("{name}.weight")));
        out.extend(b"h\x00");
    }
    out.extend(b"u.");
    out
}

/// The opcodes that push the tensor of `pickle`, a dict of one tensor named `t`.
fn tensor_of(pickle: &[u8]) -> &[u8] {
    &pickle[b"\x80\x02}(X\x01\0\0\0t".len()..pickle.len() - b"u.".len()]
}

#[test]
fn a_shape_of_many_dimensions_is_refused_before_tensors_copy_it() {
    let ones = [1; 12_000];
    let pickle = seeds::pickle(&[("t", "0", &ones, &ones)]);
    let file = seeds::legacy_of(&one_value_by_many_names(tensor_of(&pickle), 3000), &["0"]);
    run("legacy", &file);
    let message = fuzz::torch(&file).expect_err("a refusal").to_string();
    assert!(message.contains("a shape of at most 64 integers"), "{message}");
}

#[test]
fn a_long_storage_key_is_refused_before_tensors_copy_it() {
    let key = "k".repeat(30_000);
    let pickle = seeds::pickle(&[("t", &key, &[1], &[1])]);
    let file = seeds::legacy_of(&one_value_by_many_names(tensor_of(&pickle), 3000), &[&key]);
    run("legacy", &file);
    let message = fuzz::torch(&file).expect_err("a refusal").to_string();
    assert!(message.contains("one of 30000 bytes"), "{message}");
}

#[test]
fn a_long_text_is_no_fact_however_many_keys_have_it() {
    let pickle = seeds::pickle(&[("t", "0", &[1], &[1])]);
    let mut object = [b"\x80\x02", &*text(&"long ".repeat(6000)), b"q\x000}("].concat();
    for name in 0..3000 {
        object.extend([text(&format!("note {name}")), b"h\x00".to_vec()].concat());
    }
    object.extend([&*text("model"), b"}(", &*text("t"), tensor_of(&pickle), b"uu."].concat());
    let file = seeds::legacy_of(&object, &["0"]);
    run("legacy", &file);
    fuzz::torch(&file).expect("a sound checkpoint");
}

#[test]
fn a_config_trusts_no_layer_number_of_a_tensor() {
    let json = r#"{"n_head":2,"_mlp_class":"LLaMAMLP","parallel_residual":false,"intermediate_size":8}"#;
    run("config", format!("{json}\0transformer.h.18446744073709551613.x 1\n").as_bytes());
}

#[test]
fn a_character_map_cannot_make_a_book_of_each_letter() {
    let map = seeds::character_map(&[b'a'; 257]);
    let unknown = [seeds::field(0x0a, b"<unk>"), vec![0x18, 2]].concat();
    let file = [seeds::field(0x0a, &unknown), seeds::field(0x1a, &seeds::field(0x12, &map))].concat();
    run("tokenizer", &file);
    let message = Tokenizer::from_sentencepiece(&file).expect_err("a refusal").to_string();
    assert!(message.contains("found one of 257"), "{message}");
}

/// An instance of a class of distributed checkpoints, with its fields.
fn instance(class: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let module = if class.starts_with('_') { "filesystem" } else { "metadata" };
    let mut out = format!("ctorch.distributed.checkpoint.{module}\n{class}\n)").into_bytes();
    out.extend(b"\x81}(");
    for (name, value) in fields {
        out.extend([text(name), value.to_vec()].concat());
    }
    out.extend(b"ub");
    out
}

/// The `.metadata` of a distributed checkpoint with one section, of which `names` tensors are said to be.
fn metadata_of_one_section(names: usize, length: usize) -> Vec<u8> {
    let chunk = instance("ChunkStorageMetadata", &[("offsets", b"(K\0K\0t"), ("sizes", b"(K\x03K\x04t")]);
    let chunks = [b"](", &*chunk, b"e"].concat();
    let described = instance("TensorStorageMetadata", &[("size", b"(K\x03K\x04t"), ("chunks", &chunks)]);
    let length = [b"J", &(length as i32).to_le_bytes()[..]].concat();
    let section =
        instance("_StorageInfo", &[("relative_path", &text("__0_0.distcp")), ("offset", b"K\0"), ("length", &length)]);
    let (mut tensors, mut sections) = (b"}(".to_vec(), b"}(".to_vec());
    for name in 0..names {
        let name = text(&format!("{name}.weight"));
        tensors.extend([&*name, b"h\0"].concat());
        let index = instance("MetadataIndex", &[("fqn", &name), ("offset", b"(K\0K\0t")]);
        sections.extend([&*index, b"h\x01"].concat());
    }
    tensors.extend(b"u");
    sections.extend(b"u");
    let root = instance("Metadata", &[("state_dict_metadata", &tensors), ("storage_data", &sections)]);
    [b"\x80\x02", &*described, b"q\x000", &section, b"q\x010", &root, b"."].concat()
}

#[test]
fn sections_of_a_distributed_checkpoint_lie_side_by_side() {
    // A section is what torch.save wrote for a tensor alone.
    let pickle = seeds::pickle(&[("t", "0", &[3, 4], &[4, 1])]);
    let pickle = [b"\x80\x02", tensor_of(&pickle), b"."].concat();
    let section = seeds::zip(&[("archive/data.pkl", &pickle), ("archive/data/0", &[0; 48])]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("__0_0.distcp"), &section).expect("written");
    let open = |names: usize| {
        let metadata = metadata_of_one_section(names, section.len());
        std::fs::write(folder.path().join(".metadata"), metadata).expect("written");
        open_checkpoint(folder.path()).map(|checkpoint| checkpoint.entries().len()).map_err(|e| e.to_string())
    };
    assert_eq!(open(1), Ok(1));
    let message = open(2).expect_err("a refusal");
    assert!(message.contains("so that some overlap"), "{message}");
}
