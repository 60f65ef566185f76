//! The element types of GGUF tensors: their names and how many bytes a block of them takes.

use crate::dtype::Dtype;

/// One element type: blocks of `elements` values in `bytes` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// Name as the tools show it.
    pub name: &'static str,
    /// Values in a block.
    pub elements: u64,
    /// Bytes of a block.
    pub bytes: u64,
    /// The plain type, where it is not quantised.
    pub dtype: Option<Dtype>,
}

const fn plain(name: &'static str, bytes: u64, dtype: Dtype) -> GgmlType {
    GgmlType { name, elements: 1, bytes, dtype: Some(dtype) }
}

const fn blocks(name: &'static str, elements: u64, bytes: u64) -> GgmlType {
    GgmlType { name, elements, bytes, dtype: None }
}

/// The type with this number; none for numbers that were never or are no longer given out.
pub(super) const fn by_number(number: u32) -> Option<GgmlType> {
    Some(match number {
        0 => plain("F32", 4, Dtype::F32),
        1 => plain("F16", 2, Dtype::F16),
        2 => blocks("Q4_0", 32, 18),
        3 => blocks("Q4_1", 32, 20),
        6 => blocks("Q5_0", 32, 22),
        7 => blocks("Q5_1", 32, 24),
        8 => blocks("Q8_0", 32, 34),
        9 => blocks("Q8_1", 32, 36),
        10 => blocks("Q2_K", 256, 84),
        11 => blocks("Q3_K", 256, 110),
        12 => blocks("Q4_K", 256, 144),
        13 => blocks("Q5_K", 256, 176),
        14 => blocks("Q6_K", 256, 210),
        15 => blocks("Q8_K", 256, 292),
        16 => blocks("IQ2_XXS", 256, 66),
        17 => blocks("IQ2_XS", 256, 74),
        18 => blocks("IQ3_XXS", 256, 98),
        19 => blocks("IQ1_S", 256, 50),
        20 => blocks("IQ4_NL", 32, 18),
        21 => blocks("IQ3_S", 256, 110),
        22 => blocks("IQ2_S", 256, 82),
        23 => blocks("IQ4_XS", 256, 136),
        24 => plain("I8", 1, Dtype::I8),
        25 => plain("I16", 2, Dtype::I16),
        26 => plain("I32", 4, Dtype::I32),
        27 => plain("I64", 8, Dtype::I64),
        28 => plain("F64", 8, Dtype::F64),
        29 => blocks("IQ1_M", 256, 56),
        30 => plain("BF16", 2, Dtype::Bf16),
        34 => blocks("TQ1_0", 256, 54),
        35 => blocks("TQ2_0", 256, 66),
        39 => blocks("MXFP4", 32, 17),
        _ => return None,
    })
}
