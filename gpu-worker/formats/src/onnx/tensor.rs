//! The weights of an ONNX graph: where their bytes are, in the file or in one beside it.

use super::{
    graph::pass,
    wire::{Field, Walker},
};
use crate::{
    dtype::Dtype,
    error::{FormatError, TensorProblem},
};

/// Most dimensions of a tensor.
pub(super) const MAX_DIMENSIONS: usize = 32;

/// Where a weight's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A range of the model's own file.
    Inline { begin: u64, end: u64 },
    /// Numbers in protobuf's own form, which are no range of bytes.
    Listed,
    /// A range of another file; without a length it is as long as the shape says.
    External { location: String, offset: u64, length: Option<u64> },
}

/// A weight as the graph lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Initializer {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    /// The element type, where it is one that can be loaded.
    pub(super) dtype: Option<Dtype>,
    pub(super) place: Place,
}

impl Initializer {
    /// Bytes by shape and type.
    pub(super) fn bytes(&self, dtype: Dtype) -> Result<u64, TensorProblem> {
        let elements = self.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
        let bits = elements.and_then(|count| count.checked_mul(dtype.bits())).ok_or(TensorProblem::Overflow)?;
        if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(TensorProblem::PartialByte { bits }) }
    }
}

/// Reads one weight's message; its bytes are passed over.
pub(super) fn initializer(walker: &mut Walker<'_>, length: u64) -> Result<Initializer, FormatError> {
    let end = walker.end_of(length);
    let mut found = Initializer { name: String::new(), shape: Vec::new(), dtype: None, place: Place::Listed };
    let (mut is_external, mut external) = (false, Vec::new());
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Number(1, dim) => dimension(walker, &mut found.shape, dim)?,
            Field::Bytes(1, length) => {
                let end = walker.end_of(length);
                while walker.cursor.at() < end {
                    let dim = walker.varint(end)?;
                    dimension(walker, &mut found.shape, dim)?;
                }
            }
            Field::Number(2, kind) => found.dtype = dtype(kind),
            Field::Bytes(8, length) => found.name = walker.text(length)?,
            Field::Bytes(9, length) => {
                found.place = Place::Inline { begin: walker.cursor.at(), end: walker.end_of(length) };
                walker.cursor.skip(length)?;
            }
            Field::Bytes(13, length) => {
                if external.len() >= 16 {
                    return Err(walker.cursor.problem("a weight has too many notes on where it is"));
                }
                external.push(entry(walker, length)?);
            }
            Field::Number(14, location) => is_external = location == 1,
            other => pass(walker, other)?,
        }
    }
    if is_external {
        found.place = place(walker, &external)?;
    }
    Ok(found)
}

fn dimension(walker: &Walker<'_>, shape: &mut Vec<u64>, dim: u64) -> Result<(), FormatError> {
    // a negative dimension is a number above the largest signed one
    if shape.len() >= MAX_DIMENSIONS || i64::try_from(dim).is_err() {
        return Err(walker.cursor.problem("a weight has an impossible shape"));
    }
    shape.push(dim);
    Ok(())
}

fn place(walker: &Walker<'_>, entries: &[(String, String)]) -> Result<Place, FormatError> {
    let find = |wanted: &str| entries.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
    let number = |key: &str| {
        let parsed = find(key).map(|text| text.trim().parse::<u64>()).transpose();
        parsed.map_err(|_| walker.cursor.problem("a weight's place is not a number"))
    };
    let location = find("location").ok_or_else(|| walker.cursor.problem("an external weight names no file"))?;
    Ok(Place::External {
        location: location.to_owned(),
        offset: number("offset")?.unwrap_or(0),
        length: number("length")?,
    })
}

/// A key and its value.
pub(super) fn entry(walker: &mut Walker<'_>, length: u64) -> Result<(String, String), FormatError> {
    let end = walker.end_of(length);
    let (mut key, mut value) = (String::new(), String::new());
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Bytes(1, length) => key = walker.text(length)?,
            Field::Bytes(2, length) => value = walker.text(length)?,
            other => pass(walker, other)?,
        }
    }
    Ok((key, value))
}

/// Element types that are loaded, with their numbers in ONNX.
const ELEMENTS: [(u64, Dtype); 18] = [
    (1, Dtype::F32),
    (2, Dtype::U8),
    (3, Dtype::I8),
    (4, Dtype::U16),
    (5, Dtype::I16),
    (6, Dtype::I32),
    (7, Dtype::I64),
    (9, Dtype::Bool),
    (10, Dtype::F16),
    (11, Dtype::F64),
    (12, Dtype::U32),
    (13, Dtype::U64),
    (14, Dtype::C64),
    (16, Dtype::Bf16),
    (17, Dtype::F8E4M3),
    (18, Dtype::F8E4M3Fnuz),
    (19, Dtype::F8E5M2),
    (20, Dtype::F8E5M2Fnuz),
];

fn dtype(kind: u64) -> Option<Dtype> {
    ELEMENTS.iter().find(|(number, _)| *number == kind).map(|(_, dtype)| *dtype)
}

/// ONNX's number of an element type.
pub(super) fn element_number(dtype: Dtype) -> Option<u64> {
    ELEMENTS.iter().find(|(_, known)| *known == dtype).map(|(number, _)| *number)
}

/// ONNX's own name of an element type.
pub(super) const fn element_name(kind: u64) -> &'static str {
    match kind {
        1 => "FLOAT",
        2 => "UINT8",
        3 => "INT8",
        4 => "UINT16",
        5 => "INT16",
        6 => "INT32",
        7 => "INT64",
        8 => "STRING",
        9 => "BOOL",
        10 => "FLOAT16",
        11 => "DOUBLE",
        12 => "UINT32",
        13 => "UINT64",
        14 => "COMPLEX64",
        15 => "COMPLEX128",
        16 => "BFLOAT16",
        17 => "FLOAT8E4M3FN",
        18 => "FLOAT8E4M3FNUZ",
        19 => "FLOAT8E5M2",
        20 => "FLOAT8E5M2FNUZ",
        21 => "UINT4",
        22 => "INT4",
        23 => "FLOAT4E2M1",
        _ => "UNDEFINED",
    }
}
