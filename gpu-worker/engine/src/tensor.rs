//! Host tensors: what goes into a run and what comes out of it.

use std::fmt;

use half::{bf16, f16};

use crate::error::EngineError;

/// Element types that weights, inputs and outputs may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the types' own names")]
pub enum ElementType {
    F32,
    F16,
    Bf16,
    F64,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl ElementType {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::F64,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U8,
        Self::Bool,
    ];

    /// The name that safetensors gives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F64 => "F64",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// The type with exactly this safetensors name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.as_str() == name)
    }

    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether weights can be stored in it.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::F64 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// Its number in ONNX (`TensorProto.DataType`).
    #[must_use]
    pub const fn onnx(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I8 => 3,
            Self::I16 => 5,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::Bool => 9,
            Self::F16 => 10,
            Self::F64 => 11,
            Self::Bf16 => 16,
            Self::F8E4M3 => 17,
            Self::F8E5M2 => 19,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A dense row-major tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Sides, outermost first.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: TensorData,
}

/// The elements of a tensor.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types' own names")]
pub enum TensorData {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

impl TensorData {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::U8(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }

    /// True without elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    #[must_use]
    pub fn element(&self) -> ElementType {
        match self {
            Self::F32(_) => ElementType::F32,
            Self::F16(_) => ElementType::F16,
            Self::Bf16(_) => ElementType::Bf16,
            Self::F64(_) => ElementType::F64,
            Self::I64(_) => ElementType::I64,
            Self::I32(_) => ElementType::I32,
            Self::U8(_) => ElementType::U8,
            Self::Bool(_) => ElementType::Bool,
        }
    }
}

impl Tensor {
    /// A tensor of 32-bit floats.
    ///
    /// # Errors
    /// When the number of values is not the product of the shape.
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Result<Self, EngineError> {
        Self::new(shape, TensorData::F32(values))
    }

    /// A tensor of 64-bit integers.
    ///
    /// # Errors
    /// When the number of values is not the product of the shape.
    pub fn i64(shape: &[usize], values: Vec<i64>) -> Result<Self, EngineError> {
        Self::new(shape, TensorData::I64(values))
    }

    /// A tensor of `data`.
    ///
    /// # Errors
    /// When the number of values is not the product of the shape.
    pub fn new(shape: &[usize], data: TensorData) -> Result<Self, EngineError> {
        let wanted = elements(shape);
        if wanted != Some(data.len()) {
            return Err(EngineError::Input {
                name: "tensor".to_owned(),
                found: format!("{} values", data.len()),
                expected: format!("as many as the shape {shape:?} has"),
            });
        }
        Ok(Self { shape: shape.to_vec(), data })
    }

    /// Zeros.
    #[must_use]
    pub fn zeros(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: TensorData::F32(vec![0.0; elements(shape).unwrap_or(0)]) }
    }

    /// The values as 32-bit floats, where they are.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(values) => Some(values),
            _ => None,
        }
    }

    /// The values as 32-bit floats, converted from any float type.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match &self.data {
            TensorData::F32(values) => Some(values.clone()),
            TensorData::F16(values) => Some(values.iter().map(|value| value.to_f32()).collect()),
            TensorData::Bf16(values) => Some(values.iter().map(|value| value.to_f32()).collect()),
            #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest 32-bit float is wanted")]
            TensorData::F64(values) => Some(values.iter().map(|value| *value as f32).collect()),
            _ => None,
        }
    }
}

/// The product of a shape; none when it does not fit.
#[must_use]
pub fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_has_as_many_values_as_its_shape() {
        assert!(Tensor::f32(&[2, 3], vec![0.0; 6]).is_ok());
        assert!(Tensor::f32(&[2, 3], vec![0.0; 5]).is_err());
        assert!(Tensor::f32(&[usize::MAX, 2], vec![]).is_err());
        assert_eq!(Tensor::f32(&[], vec![1.0]).unwrap().shape, Vec::<usize>::new());
    }

    #[test]
    fn names_lead_back_to_their_types() {
        for element in ElementType::ALL {
            assert_eq!(ElementType::parse(element.as_str()), Some(element));
        }
    }
}
