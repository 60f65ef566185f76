//! Tensors as files: safetensors to and from host tensors, for latents, states, predictions and noise.
//!
//! What comes in is a user's: types, shapes and values are checked before anything runs with them. What goes out has the same bytes
//! for the same tensors.

use std::collections::{BTreeMap, HashMap};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    error::EngineError,
    tensor::{Tensor, TensorData},
};

/// Most tensors of a file that is read.
const TENSOR_LIMIT: usize = 4096;
/// The file, in errors about all of it.
const FILE: &str = "safetensors file";

/// Writes tensors, with `note` as the only metadata.
///
/// # Errors
/// [`EngineError::Input`] for a type that the format does not have here, or a name that comes twice.
pub fn write(tensors: &[(&str, &Tensor)], note: Option<(&str, &str)>) -> Result<Vec<u8>, EngineError> {
    let bytes: Vec<(Dtype, Vec<u8>)> = tensors.iter().map(|(_, tensor)| to_bytes(&tensor.data)).collect();
    let mut views = BTreeMap::new();
    for ((name, tensor), (dtype, bytes)) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(*dtype, tensor.shape.clone(), bytes).map_err(|error| wrong(name, &error))?;
        if views.insert((*name).to_owned(), view).is_some() {
            return Err(EngineError::Input {
                name: (*name).to_owned(),
                found: "two tensors of this name".to_owned(),
                expected: "one".to_owned(),
            });
        }
    }
    let note = note.map(|(key, text)| HashMap::from([(key.to_owned(), text.to_owned())]));
    safetensors::serialize(views, note).map_err(|error| wrong(FILE, &error))
}

/// Reads every tensor of a file.
///
/// # Errors
/// [`EngineError::Input`] for a damaged file, a type that no input has, or floats that are no finite numbers.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, EngineError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(FILE, &error))?;
    if file.len() > TENSOR_LIMIT {
        return Err(EngineError::Input {
            name: FILE.to_owned(),
            found: format!("{} tensors", file.len()),
            expected: format!("at most {TENSOR_LIMIT}"),
        });
    }
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let tensor = Tensor::new(view.shape(), from_bytes(name, &view)?)?;
        check_finite(name, &tensor)?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// Takes the tensor `name` out of what was read, as F32 and of the shape that is needed; `None` there fits any side.
///
/// # Errors
/// [`EngineError::Input`] when it is not there, no float, or of another shape.
pub fn take(
    tensors: &mut BTreeMap<String, Tensor>,
    name: &str,
    shape: &[Option<usize>],
) -> Result<Tensor, EngineError> {
    let shown: Vec<String> =
        shape.iter().map(|side| side.map_or_else(|| "any".to_owned(), |side| side.to_string())).collect();
    let fail = |found: String| EngineError::Input {
        name: name.to_owned(),
        found,
        expected: format!("floats of shape [{}]", shown.join(", ")),
    };
    let tensor = tensors.remove(name).ok_or_else(|| fail("no tensor of this name".to_owned()))?;
    let fits = |(side, wanted): (&usize, &Option<usize>)| wanted.is_none_or(|wanted| wanted == *side);
    if tensor.shape.len() != shape.len() || !tensor.shape.iter().zip(shape).all(fits) {
        return Err(fail(format!("shape {:?}", tensor.shape)));
    }
    let values = tensor.to_f32().ok_or_else(|| fail(tensor.data.element().to_string()))?;
    Tensor::f32(&tensor.shape, values)
}

fn wrong(name: &str, error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Input {
        name: name.to_owned(),
        found: error.to_string(),
        expected: "a whole safetensors file".to_owned(),
    }
}

fn check_finite(name: &str, tensor: &Tensor) -> Result<(), EngineError> {
    let Some(values) = tensor.to_f32() else { return Ok(()) };
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(()),
        count => Err(EngineError::Input {
            name: name.to_owned(),
            found: format!("{count} values that are NaN or infinite"),
            expected: "finite numbers".to_owned(),
        }),
    }
}

fn to_bytes(data: &TensorData) -> (Dtype, Vec<u8>) {
    match data {
        TensorData::F32(values) => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorData::F16(values) => (Dtype::F16, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorData::Bf16(values) => (Dtype::BF16, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorData::F64(values) => (Dtype::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorData::I64(values) => (Dtype::I64, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorData::I32(values) => (Dtype::I32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorData::U8(values) => (Dtype::U8, values.clone()),
        TensorData::Bool(values) => (Dtype::BOOL, values.iter().map(|value| u8::from(*value)).collect()),
    }
}

fn from_bytes(name: &str, view: &TensorView<'_>) -> Result<TensorData, EngineError> {
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::F32 => TensorData::F32(numbers(bytes, f32::from_le_bytes)),
        Dtype::F16 => TensorData::F16(numbers(bytes, f16::from_le_bytes)),
        Dtype::BF16 => TensorData::Bf16(numbers(bytes, bf16::from_le_bytes)),
        Dtype::F64 => TensorData::F64(numbers(bytes, f64::from_le_bytes)),
        Dtype::I64 => TensorData::I64(numbers(bytes, i64::from_le_bytes)),
        Dtype::I32 => TensorData::I32(numbers(bytes, i32::from_le_bytes)),
        Dtype::U8 => TensorData::U8(bytes.to_vec()),
        Dtype::BOOL => TensorData::Bool(bytes.iter().map(|byte| *byte != 0).collect()),
        other => {
            return Err(EngineError::Input {
                name: name.to_owned(),
                found: format!("the type {other:?}"),
                expected: "F32, F16, BF16, F64, I64, I32, U8 or BOOL".to_owned(),
            });
        }
    })
}

fn numbers<T, const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input_error(result: Result<impl std::fmt::Debug, EngineError>) -> (String, String) {
        match result {
            Err(EngineError::Input { name, found, .. }) => (name, found),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_type_comes_back_as_it_was() {
        let data = [
            TensorData::F32(vec![1.5, -2.0]),
            TensorData::F16(vec![f16::from_f32(0.1), f16::ZERO]),
            TensorData::Bf16(vec![bf16::from_f32(0.1), bf16::ONE]),
            TensorData::F64(vec![0.1, 1e30]),
            TensorData::I64(vec![-1, i64::MAX]),
            TensorData::I32(vec![-1, 7]),
            TensorData::U8(vec![0, 255]),
            TensorData::Bool(vec![true, false]),
        ];
        for data in data {
            let tensor = Tensor::new(&[2], data).unwrap();
            let bytes = write(&[("x", &tensor)], Some(("parameters", "a cat"))).unwrap();
            assert_eq!(read(&bytes).unwrap(), BTreeMap::from([("x".to_owned(), tensor)]));
        }
    }

    #[test]
    fn what_a_user_gives_is_checked() {
        assert_eq!(input_error(read(b"junk")).0, FILE);
        let good = write(&[("x", &Tensor::zeros(&[4]))], None).unwrap();
        assert_eq!(input_error(read(&good[..good.len() - 1])).0, FILE);
        let bad = Tensor::f32(&[2], vec![f32::NAN, 1.0]).unwrap();
        let bytes = write(&[("x", &bad)], None).unwrap();
        assert_eq!(input_error(read(&bytes)), ("x".to_owned(), "1 values that are NaN or infinite".to_owned()));
        let complex = safetensors::serialize([("c", TensorView::new(Dtype::C64, vec![1], &[0; 8]).unwrap())], None);
        assert_eq!(input_error(read(&complex.unwrap())).1, "the type C64");
        let twice = Tensor::zeros(&[1]);
        assert_eq!(input_error(write(&[("x", &twice), ("x", &twice)], None)).0, "x");
    }

    #[test]
    fn a_tensor_is_taken_by_name_and_shape() {
        let half = Tensor::new(&[1, 2], TensorData::F16(vec![f16::ONE, f16::ZERO])).unwrap();
        let mut tensors = BTreeMap::from([
            ("noise".to_owned(), half),
            ("ids".to_owned(), Tensor::i64(&[1], vec![3]).unwrap()),
            ("flat".to_owned(), Tensor::zeros(&[2])),
        ]);
        assert_eq!(take(&mut tensors, "noise", &[Some(1), None]).unwrap().as_f32(), Some(&[1.0, 0.0][..]));
        assert_eq!(input_error(take(&mut tensors, "noise", &[None])).1, "no tensor of this name");
        assert_eq!(input_error(take(&mut tensors, "ids", &[None])).1, "I64");
        assert_eq!(input_error(take(&mut tensors, "flat", &[Some(3)])).1, "shape [2]");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0u64..200) {
            let mut file = length.to_le_bytes().to_vec();
            file.extend(bytes);
            let _ = read(&file);
        }
    }
}
