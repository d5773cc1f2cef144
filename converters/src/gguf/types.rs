//! Block geometry of every ggml type, so that any file can be listed, also one whose numbers are not decoded here.

/// One ggml type: `len` elements in `bytes` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// The number in a GGUF file.
    pub id: u32,
    /// The usual name, lower case.
    pub name: &'static str,
    /// Elements of a block; a row is whole blocks.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

impl GgmlType {
    /// The type with this number; numbers of removed types (4, 5, 31 to 33, 36 to 38) have none.
    pub fn from_id(id: u32) -> Option<&'static GgmlType> {
        TYPES.iter().find(|t| t.id == id)
    }

    /// Bytes of `elements` elements in rows of `row`; `None` where a row is not whole blocks, or beyond what fits memory.
    pub fn bytes(&self, row: usize, elements: usize) -> Option<usize> {
        if !row.is_multiple_of(self.block_len) || !elements.is_multiple_of(self.block_len) {
            return None;
        }
        (elements / self.block_len).checked_mul(self.block_bytes)
    }
}

const fn entry(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> GgmlType {
    GgmlType { id, name, block_len, block_bytes }
}

/// `ggml.h` (numbers) and `ggml-common.h` (block structures).
const TYPES: &[GgmlType] = &[
    entry(0, "f32", 1, 4),
    entry(1, "f16", 1, 2),
    entry(2, "q4_0", 32, 18),
    entry(3, "q4_1", 32, 20),
    entry(6, "q5_0", 32, 22),
    entry(7, "q5_1", 32, 24),
    entry(8, "q8_0", 32, 34),
    entry(9, "q8_1", 32, 40),
    entry(10, "q2_k", 256, 84),
    entry(11, "q3_k", 256, 110),
    entry(12, "q4_k", 256, 144),
    entry(13, "q5_k", 256, 176),
    entry(14, "q6_k", 256, 210),
    entry(15, "q8_k", 256, 292),
    entry(16, "iq2_xxs", 256, 66),
    entry(17, "iq2_xs", 256, 74),
    entry(18, "iq3_xxs", 256, 98),
    entry(19, "iq1_s", 256, 50),
    entry(20, "iq4_nl", 32, 18),
    entry(21, "iq3_s", 256, 110),
    entry(22, "iq2_s", 256, 82),
    entry(23, "iq4_xs", 256, 136),
    entry(24, "i8", 1, 1),
    entry(25, "i16", 1, 2),
    entry(26, "i32", 1, 4),
    entry(27, "i64", 1, 8),
    entry(28, "f64", 1, 8),
    entry(29, "iq1_m", 256, 56),
    entry(30, "bf16", 1, 2),
    entry(34, "tq1_0", 256, 54),
    entry(35, "tq2_0", 256, 66),
    entry(39, "mxfp4", 32, 17),
    entry(40, "nvfp4", 64, 36),
    entry(41, "q1_0", 128, 18),
];
