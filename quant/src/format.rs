use crate::grid::Grid;
use crate::simd::Level;
use crate::{Error, Result, formats};
use rayon::prelude::*;
use std::fmt;
use std::str::FromStr;

/// What there is to know about a [`Format`]: one line of the table.
#[derive(Debug)]
pub struct FormatInfo {
    /// Name on the command line, lower case.
    pub name: &'static str,
    /// `ggml_type` in a GGUF tensor description (ggml.h).
    pub gguf_type: u32,
    /// `general.file_type` of a GGUF file in which this format dominates (`llama_ftype`, llama.h).
    pub file_type: u32,
    /// Elements of a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    pub(crate) decode: Decode,
    pub(crate) encode: Encode,
    /// What its blocks can hold; none of a float.
    pub(crate) grid: Option<&'static Grid>,
}

/// Blocks to numbers.
pub(crate) type Decode = fn(Level, &[u8], &mut [f32]);
/// Numbers to blocks, importance as [`normalize`] leaves it.
pub(crate) type Encode = fn(Level, &[f32], Option<&[f32]>, &mut [u8]);

/// The table: `Variant = module of formats/, name, ggml_type, file_type`.
macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident = $module:ident, $name:literal, $gguf_type:literal, $file_type:literal;)*) => {
        /// How a tensor's numbers are stored: blocks of a fixed number of elements, each block in its own bytes.
        ///
        /// Layouts are those of ggml, drawn in the files of `formats/`.
        #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
        #[allow(non_camel_case_types, reason = "Q8_0 and its like are the field's names")]
        #[non_exhaustive]
        pub enum Format {
            $($(#[$doc])* $variant,)*
        }

        impl Format {
            /// Every format, in the order of the table.
            pub const ALL: &[Format] = &[$(Format::$variant),*];

            /// This format's line of the table.
            pub fn info(self) -> &'static FormatInfo {
                match self {
                    $(Format::$variant => &FormatInfo {
                        name: $name,
                        gguf_type: $gguf_type,
                        file_type: $file_type,
                        block_len: formats::$module::BLOCK_LEN,
                        block_bytes: formats::$module::BLOCK_BYTES,
                        decode: formats::$module::decode,
                        encode: formats::$module::encode,
                        grid: formats::$module::GRID,
                    },)*
                }
            }
        }
    };
}

formats! {
    /// 32-bit float.
    F32 = f32, "f32", 0, 0;
    /// IEEE half precision.
    F16 = f16, "f16", 1, 1;
    /// Upper half of an `f32`.
    Bf16 = bf16, "bf16", 30, 32;
    /// 8-bit levels, a scale per 32 elements: 8.5 bits per weight.
    Q8_0 = q8_0, "q8_0", 8, 7;
    /// 4-bit levels, a scale per 32 elements: 4.5 bits per weight.
    Q4_0 = q4_0, "q4_0", 2, 2;
    /// 4-bit levels, a scale and a minimum per 32 elements: 5 bits per weight.
    Q4_1 = q4_1, "q4_1", 3, 3;
    /// 5-bit levels, a scale per 32 elements: 5.5 bits per weight.
    Q5_0 = q5_0, "q5_0", 6, 8;
    /// 4-bit levels, a 6-bit scale and minimum per 32 elements: 4.5 bits per weight.
    Q4K = q4_k, "q4_k", 12, 14;
    /// 5-bit levels, a 6-bit scale and minimum per 32 elements: 5.5 bits per weight.
    Q5K = q5_k, "q5_k", 13, 16;
    /// 6-bit levels, an 8-bit scale per 16 elements: 6.5625 bits per weight.
    Q6K = q6_k, "q6_k", 14, 18;
    /// 16 levels denser around zero, a scale per 32 elements: 4.5 bits per weight.
    Iq4Nl = iq4_nl, "iq4_nl", 20, 25;
    /// 16 levels denser around zero, a 6-bit scale per 32 elements: 4.25 bits per weight.
    Iq4Xs = iq4_xs, "iq4_xs", 23, 30;
}

/// Elements that one parallel task encodes or decodes, about: large against a task's cost, small against a cache.
pub(crate) const TASK_LEN: usize = 1 << 15;

impl Format {
    /// The format of this name, as [`Format::name`] gives it; any case.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(name))
    }

    /// The format with this `ggml_type`.
    pub fn from_gguf_type(gguf_type: u32) -> Option<Format> {
        Format::ALL.iter().copied().find(|f| f.gguf_type() == gguf_type)
    }

    /// Name on the command line, such as `q4_k`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// `ggml_type` in a GGUF tensor description.
    pub fn gguf_type(self) -> u32 {
        self.info().gguf_type
    }

    /// `general.file_type` of a GGUF file in which this format dominates.
    pub fn file_type(self) -> u32 {
        self.info().file_type
    }

    /// Elements of a block; rows are whole blocks.
    pub fn block_len(self) -> usize {
        self.info().block_len
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.info().block_bytes
    }

    /// Whether rows of `cols` elements are whole blocks.
    pub fn fits(self, cols: usize) -> bool {
        cols.is_multiple_of(self.block_len())
    }

    /// Bytes of a row of `cols` elements; `None` if it is not whole blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if self.fits(cols) { (cols / self.block_len()).checked_mul(self.block_bytes()) } else { None }
    }

    /// Stored bits per element, scales included.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// Whether elements are integer levels under a scale, rather than floats.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Blocks to numbers, bit for bit what ggml's and gguf-py's decoders give. Runs on the calling thread.
    ///
    /// # Panics
    /// If `bytes` are not exactly the blocks of `out.len()` elements.
    pub fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "bytes of {} {self} elements", out.len());
        (self.info().decode)(Level::best(), bytes, out);
    }

    /// [`Format::decode`] on all threads.
    ///
    /// # Panics
    /// As [`Format::decode`].
    pub fn decode_parallel(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "bytes of {} {self} elements", out.len());
        // Every block length divides the task length.
        let task_bytes = TASK_LEN / self.block_len() * self.block_bytes();
        let level = Level::best();
        out.par_chunks_mut(TASK_LEN)
            .zip(bytes.par_chunks(task_bytes))
            .for_each(|(out, bytes)| (self.info().decode)(level, bytes, out));
    }

    /// Numbers of one row to blocks, on the calling thread, searching for scales of least squared error. Without
    /// importance `values` may be several rows: blocks do not depend on each other.
    ///
    /// `importance` holds one weight for each column, such as the mean square of what multiplies it; only ratios matter.
    /// It is used as ggml uses an importance matrix (each format file says how), and by no format that ggml ignores it
    /// for. Columns of no, negative, or not finite weight count as a millionth of the mean.
    ///
    /// Any values are accepted. Finite ones always decode to finite ones: magnitudes beyond what the format holds become
    /// its largest, blocks too small for an f16 scale become zero. NaN and infinities, which callers should have refused,
    /// are kept by the float formats and become arbitrary finite numbers in the others.
    ///
    /// # Panics
    /// If `out` is not exactly the blocks of `values`, or `importance` has another length than `values`.
    pub fn encode(&self, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        assert_eq!(Some(out.len()), self.row_bytes(values.len()), "bytes of {} {self} elements", values.len());
        let importance = importance.map(|a| {
            assert_eq!(a.len(), values.len(), "one importance for each column");
            normalize(a)
        });
        (self.info().encode)(Level::best(), values, importance.as_deref(), out);
    }

    /// Rows of `cols` numbers to blocks, on all threads, with the bytes that [`Format::encode`] gives row by row.
    ///
    /// # Panics
    /// If `cols` is zero or not whole blocks, `values` not whole rows, `out` not exactly their blocks, or `importance` has
    /// another length than `cols`.
    pub fn encode_rows(&self, values: &[f32], cols: usize, importance: Option<&[f32]>, out: &mut [u8]) {
        assert!(cols > 0 && values.len().is_multiple_of(cols), "{} values in rows of {cols}", values.len());
        assert!(self.fits(cols), "rows of {cols} in {self} blocks");
        assert_eq!(Some(out.len()), self.row_bytes(values.len()), "bytes of {} {self} elements", values.len());
        let importance = importance.map(|a| {
            assert_eq!(a.len(), cols, "one importance for each column");
            normalize(a)
        });
        let task_rows = (TASK_LEN / cols).max(1);
        let level = Level::best();
        values
            .par_chunks(task_rows * cols)
            .zip(out.par_chunks_mut(self.size_of(task_rows * cols)))
            .for_each(|(values, out)| self.encode_prepared(level, values, cols, importance.as_deref(), out));
    }

    /// Some rows, with importance as [`normalize`] leaves it.
    pub(crate) fn encode_prepared(
        &self,
        level: Level,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        let encode = self.info().encode;
        // Importance repeats with each row; without it the rows are one long run of blocks.
        if importance.is_none() {
            return encode(level, values, None, out);
        }
        for (values, out) in values.chunks(cols).zip(out.chunks_mut(self.size_of(cols))) {
            encode(level, values, importance, out);
        }
    }

    /// Bytes of a number of elements known to be whole blocks that fit in memory.
    pub(crate) fn size_of(&self, elements: usize) -> usize {
        elements / self.block_len() * self.block_bytes()
    }
}

/// Importance over its mean, at least a millionth: sums of weights neither overflow nor vanish, and a column that
/// calibration never touched still gets its nearest level.
pub(crate) fn normalize(importance: &[f32]) -> Vec<f32> {
    let good = |a: f32| if a.is_finite() && a > 0.0 { a as f64 } else { 0.0 };
    let mean = importance.iter().map(|&a| good(a)).sum::<f64>() / importance.len() as f64;
    if mean > 0.0 {
        importance.iter().map(|&a| (good(a) / mean).max(1e-6) as f32).collect()
    } else {
        vec![1.0; importance.len()]
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Format> {
        Format::from_name(name).ok_or_else(|| Error::UnknownFormat { name: name.to_owned() })
    }
}
