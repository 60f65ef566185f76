//! The reader of GGUF headers: every count, length and offset is checked before it is used.

use std::{collections::HashSet, path::Path};

use serde_json::{Map, Value, json};

use super::{Gguf, GgufTensor, types};
use crate::{
    cursor::Cursor,
    error::{FormatError, TensorProblem},
    probe::Probe,
    text::shown,
    vocab::Format,
};

/// Most tensors and most key-values of a file.
const TENSOR_LIMIT: u64 = 1 << 20;
const VALUE_LIMIT: u64 = 1 << 16;
/// Most elements of all arrays (vocabularies have some hundred thousand).
const ELEMENT_LIMIT: u64 = 1 << 24;
/// Longest name, longest text, and all text that is kept of one file.
const NAME_BYTES: u64 = 4 << 10;
const TEXT_BYTES: u64 = 1 << 20;
const TEXT_TOTAL_BYTES: u64 = 128 << 20;
/// Longest text that is kept of a value; chat templates and licences are longer.
const KEPT_CHARS: usize = 16 << 10;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 8;
/// Deepest array of arrays.
const MAX_DEPTH: u32 = 4;

/// Reads the header of the file at `path`. `rel_path` is noted in its facts.
///
/// # Errors
/// [`FormatError`] when it is unreadable or contradicts the format.
pub fn read(path: &Path, rel_path: &str) -> Result<Gguf, FormatError> {
    let probe = Probe::open(path, rel_path)?;
    let mut reader = Reader { cursor: Cursor::new(&probe, Format::Gguf, TEXT_TOTAL_BYTES), elements: 0 };
    let (version, tensors, values) = reader.counts()?;
    let values = reader.values(values)?;
    let tensors = reader.tensors(tensors, &values)?;
    probe.check_unchanged()?;
    Ok(Gguf { version, values, tensors, file: probe.facts })
}

struct Reader<'p> {
    cursor: Cursor<'p>,
    elements: u64,
}

impl Reader<'_> {
    fn counts(&mut self) -> Result<(u32, u64, u64), FormatError> {
        let magic = self.cursor.array::<4>()?;
        if &magic != b"GGUF" {
            return Err(self.cursor.problem("it does not begin with `GGUF` (a big-endian file begins with `FUGG`)"));
        }
        let version = self.cursor.u32()?;
        if !matches!(version, 2 | 3) {
            return Err(self.cursor.problem("its version is neither 2 nor 3"));
        }
        let (tensors, values) = (self.cursor.u64()?, self.cursor.u64()?);
        self.limit(tensors, TENSOR_LIMIT, "tensors")?;
        self.limit(values, VALUE_LIMIT, "key-values")?;
        Ok((version, tensors, values))
    }

    fn limit(&self, count: u64, limit: u64, what: &'static str) -> Result<(), FormatError> {
        if count > limit {
            return Err(FormatError::TooMany { path: self.cursor.path().to_owned(), what, limit });
        }
        Ok(())
    }

    fn text(&mut self, limit: u64) -> Result<String, FormatError> {
        let length = self.cursor.u64()?;
        self.cursor.text(length, limit)
    }

    fn values(&mut self, count: u64) -> Result<Map<String, Value>, FormatError> {
        let mut values = Map::new();
        for _ in 0..count {
            let key = self.text(NAME_BYTES)?;
            let kind = self.cursor.u32()?;
            let value = self.value(kind, 0)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(FormatError::DuplicateMetadata { path: self.cursor.path().to_owned(), key });
            }
        }
        Ok(values)
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, FormatError> {
        Ok(match kind {
            0 | 7 => json!(self.cursor.byte()?),
            1 => json!(i8::from_le_bytes(self.cursor.array()?)),
            2 => json!(u16::from_le_bytes(self.cursor.array()?)),
            3 => json!(i16::from_le_bytes(self.cursor.array()?)),
            4 => json!(self.cursor.u32()?),
            5 => json!(i32::from_le_bytes(self.cursor.array()?)),
            6 => json!(f32::from_le_bytes(self.cursor.array()?)),
            8 => Value::String(self.text(TEXT_BYTES)?.chars().take(KEPT_CHARS).collect()),
            9 => self.array(depth)?,
            10 => json!(self.cursor.u64()?),
            11 => json!(i64::from_le_bytes(self.cursor.array()?)),
            12 => json!(f64::from_le_bytes(self.cursor.array()?)),
            _ => return Err(self.cursor.problem("a value is of an unknown type")),
        })
    }

    /// Arrays are vocabularies and scores: their kind and length are worth keeping, their elements are not.
    fn array(&mut self, depth: u32) -> Result<Value, FormatError> {
        if depth >= MAX_DEPTH {
            return Err(self.cursor.problem("arrays are nested too deeply"));
        }
        let (kind, length) = (self.cursor.u32()?, self.cursor.u64()?);
        self.elements = self.elements.saturating_add(length);
        self.limit(self.elements, ELEMENT_LIMIT, "array elements")?;
        match element_bytes(kind) {
            Some(bytes) => self.cursor.skip(length.saturating_mul(bytes))?,
            None => {
                for _ in 0..length {
                    self.skip_element(kind, depth)?;
                }
            }
        }
        Ok(json!({ "array_of": kind_name(kind), "length": length }))
    }

    fn skip_element(&mut self, kind: u32, depth: u32) -> Result<(), FormatError> {
        if kind == 8 {
            let length = self.cursor.u64()?;
            return self.cursor.skip(length);
        }
        self.value(kind, depth.saturating_add(1)).map(drop)
    }

    fn tensors(&mut self, count: u64, values: &Map<String, Value>) -> Result<Vec<GgufTensor>, FormatError> {
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..count {
            let entry = self.entry()?;
            if !names.insert(entry.name.clone()) {
                return Err(FormatError::DuplicateTensor { path: self.cursor.path().to_owned(), tensor: entry.name });
            }
            entries.push(entry);
        }
        let alignment = values.get("general.alignment").map_or(Some(32), Value::as_u64);
        let alignment = alignment.filter(|value| value.is_power_of_two() && *value <= 1 << 16);
        let alignment = alignment.ok_or_else(|| self.cursor.problem("its alignment is not a power of two"))?;
        let data = self.cursor.at().div_ceil(alignment).saturating_mul(alignment);
        let placed =
            entries.into_iter().map(|entry| self.place(entry, data, alignment)).collect::<Result<Vec<_>, _>>()?;
        self.disjoint(&placed)?;
        Ok(placed)
    }

    /// One tensor, its offsets still relative to the data.
    fn entry(&mut self) -> Result<GgufTensor, FormatError> {
        let name = self.text(NAME_BYTES)?;
        let dimensions = self.cursor.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(self.cursor.problem("a tensor has too many dimensions"));
        }
        let mut shape = (0..dimensions).map(|_| self.cursor.u64()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let kind = types::by_number(self.cursor.u32()?);
        let kind = kind.ok_or_else(|| self.cursor.problem("a tensor is of an unknown element type"))?;
        let begin = self.cursor.u64()?;
        let tensor = GgufTensor { name, shape, kind, begin, end: begin };
        let end = tensor.bytes().map_err(|problem| self.refuse(&tensor.name, problem))?.checked_add(begin);
        let end = end.ok_or_else(|| self.refuse(&tensor.name, TensorProblem::Overflow))?;
        Ok(GgufTensor { end, ..tensor })
    }

    fn place(&self, tensor: GgufTensor, data: u64, alignment: u64) -> Result<GgufTensor, FormatError> {
        if !tensor.begin.is_multiple_of(alignment) {
            return Err(self.cursor.problem("a tensor's offset is not aligned"));
        }
        let available = self.cursor.size().saturating_sub(data);
        if tensor.end > available {
            return Err(self.refuse(&tensor.name, TensorProblem::BeyondFile { end: tensor.end, available }));
        }
        Ok(GgufTensor { begin: data.saturating_add(tensor.begin), end: data.saturating_add(tensor.end), ..tensor })
    }

    /// No two tensors share bytes.
    fn disjoint(&self, tensors: &[GgufTensor]) -> Result<(), FormatError> {
        let mut sorted: Vec<&GgufTensor> = tensors.iter().filter(|tensor| tensor.end > tensor.begin).collect();
        sorted.sort_by_key(|tensor| tensor.begin);
        let mut expected = 0;
        for tensor in sorted {
            if tensor.begin < expected {
                return Err(self.refuse(&tensor.name, TensorProblem::Overlap { expected, found: tensor.begin }));
            }
            expected = tensor.end;
        }
        Ok(())
    }

    fn refuse(&self, tensor: &str, problem: TensorProblem) -> FormatError {
        FormatError::Tensor { path: self.cursor.path().to_owned(), tensor: shown(tensor), problem }
    }
}

impl GgufTensor {
    /// Bytes by shape and type: rows are whole blocks.
    fn bytes(&self) -> Result<u64, TensorProblem> {
        let row = self.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.kind.elements) {
            return Err(TensorProblem::PartialByte { bits: row });
        }
        let elements = self.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
        let blocks = elements.ok_or(TensorProblem::Overflow)? / self.kind.elements;
        blocks.checked_mul(self.kind.bytes).ok_or(TensorProblem::Overflow)
    }
}

/// Size of one array element where it is fixed.
const fn element_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

const fn kind_name(kind: u32) -> &'static str {
    match kind {
        0..=5 | 10 | 11 => "integer",
        6 | 12 => "float",
        7 => "bool",
        8 => "string",
        _ => "array",
    }
}
