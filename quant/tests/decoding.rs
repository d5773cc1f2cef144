//! Decoders against gguf-py, bit for bit. `goldens/make.py` wrote the file.

use tamborim_quant::{Format, Tensor};

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn decodes_what_gguf_py_decodes() {
    let golden = include_bytes!("goldens/golden.bin");
    let (mut at, mut seen) = (0, Vec::new());
    while at < golden.len() {
        let format = Format::from_gguf_type(u32_at(golden, at)).expect("a format of ours");
        let blocks = u32_at(golden, at + 4) as usize;
        at += 8;
        let elements = blocks * format.block_len();
        let bytes = &golden[at..at + blocks * format.block_bytes()];
        at += bytes.len();
        let mut got = vec![0.0; elements];
        format.decode(bytes, &mut got);
        for (i, got) in got.iter().enumerate() {
            assert_eq!(got.to_bits(), u32_at(golden, at + 4 * i), "{format} element {i}: {got}");
        }
        at += 4 * elements;
        let tensor = Tensor::new(format, vec![blocks, format.block_len()], bytes).unwrap();
        assert!(tensor.to_f32().iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()), "{format} in parallel");
        seen.push(format);
    }
    assert_eq!(seen.len(), Format::ALL.len(), "goldens cover {seen:?}");
}
