//! Models whose graphs users brought: exporters chose other element types than ours, other ranks for a timestep, and names for
//! what they give. What goes in is made as the graph takes it, what comes out is 32-bit floats as everywhere.

pub(super) mod text;
pub(super) mod unet;
pub(super) mod vae;

use std::borrow::Cow;

use half::{bf16, f16};

use crate::{
    error::EngineError,
    graph::{Emitted, Port, Side},
    runtime::Outcome,
    tensor::{ElementType, Tensor, TensorData},
};

/// The input whose rows are those of a run.
const SAMPLE: &str = "sample";

/// Runs a graph; of a user's, with its own types at both ends.
///
/// # Errors
/// [`EngineError::Input`] for numbers that the graph's types do not hold; what the run answers.
pub(super) fn adapted(
    emitted: &Emitted,
    inputs: &[(&str, &Tensor)],
    run: impl FnOnce(&[(&str, &Tensor)]) -> Result<Outcome, EngineError>,
) -> Result<Outcome, EngineError> {
    if !emitted.is_users {
        return run(inputs);
    }
    let rows = inputs.iter().find(|(name, _)| *name == SAMPLE).and_then(|(_, sample)| sample.shape.first().copied());
    let taken = inputs.iter().map(|(name, tensor)| taken(&emitted.inputs, name, tensor, rows));
    let taken = taken.collect::<Result<Vec<_>, _>>()?;
    let given: Vec<(&str, &Tensor)> = inputs.iter().zip(&taken).map(|((name, _), tensor)| (*name, &**tensor)).collect();
    let Outcome { outputs, peak_bytes } = run(&given)?;
    Ok(Outcome { outputs: outputs.into_iter().map(floats).collect::<Result<_, _>>()?, peak_bytes })
}

/// A tensor as the input of this name takes it. One that the graph does not have is left: the run names it.
fn taken<'t>(
    ports: &[Port],
    name: &str,
    tensor: &'t Tensor,
    rows: Option<usize>,
) -> Result<Cow<'t, Tensor>, EngineError> {
    let Some(port) = ports.iter().find(|port| port.name == name) else { return Ok(Cow::Borrowed(tensor)) };
    let mut taken = if tensor.data.element() == port.dtype {
        Cow::Borrowed(tensor)
    } else {
        Cow::Owned(Tensor { shape: tensor.shape.clone(), data: cast(name, tensor, port.dtype)? })
    };
    if tensor.shape == [1] {
        match port.dims.as_slice() {
            [] => taken.to_mut().shape.clear(),
            [side] => {
                let count = count(ports, side, rows.unwrap_or(1));
                let repeated = repeated(&taken.data, count);
                *taken.to_mut() = Tensor { shape: vec![count], data: repeated };
            }
            _ => {}
        }
    }
    Ok(taken)
}

/// How many times a lone number is given: once for each row where the input has the rows' own side.
fn count(ports: &[Port], side: &Side, rows: usize) -> usize {
    let of_sample = ports.iter().find(|port| port.name == SAMPLE).and_then(|port| port.dims.first());
    match side {
        Side::Fixed(count) => *count,
        Side::Free(name) if !name.is_empty() && of_sample == Some(side) => rows,
        Side::Free(_) => 1,
    }
}

fn repeated(data: &TensorData, count: usize) -> TensorData {
    fn of<T: Copy>(values: &[T], count: usize) -> Vec<T> {
        values.first().map(|value| vec![*value; count]).unwrap_or_default()
    }
    match data {
        TensorData::F32(values) => TensorData::F32(of(values, count)),
        TensorData::F16(values) => TensorData::F16(of(values, count)),
        TensorData::Bf16(values) => TensorData::Bf16(of(values, count)),
        TensorData::F64(values) => TensorData::F64(of(values, count)),
        TensorData::I64(values) => TensorData::I64(of(values, count)),
        TensorData::I32(values) => TensorData::I32(of(values, count)),
        TensorData::U8(values) => TensorData::U8(of(values, count)),
        TensorData::Bool(values) => TensorData::Bool(of(values, count)),
    }
}

/// Numbers in another type. A fraction is never cut off: a graph that counts timesteps in whole numbers cannot take one.
#[expect(clippy::cast_possible_truncation, reason = "whole numbers in range, which is looked at before")]
fn cast(name: &str, tensor: &Tensor, dtype: ElementType) -> Result<TensorData, EngineError> {
    let refused = || EngineError::Input {
        name: name.to_owned(),
        found: format!("{} {:?}", tensor.data.element(), tensor.shape),
        expected: format!("values that {dtype} holds"),
    };
    let whole = |value: f64| value.fract() == 0.0 && value.abs() <= f64::from(i32::MAX);
    let values: Vec<f64> = match &tensor.data {
        TensorData::I64(values) => values.iter().map(|value| *value as f64).collect(),
        TensorData::I32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        _ => tensor.to_f32().ok_or_else(refused)?.into_iter().map(f64::from).collect(),
    };
    Ok(match dtype {
        ElementType::F32 => TensorData::F32(values.into_iter().map(|value| value as f32).collect()),
        ElementType::F16 => TensorData::F16(values.into_iter().map(f16::from_f64).collect()),
        ElementType::Bf16 => TensorData::Bf16(values.into_iter().map(bf16::from_f64).collect()),
        ElementType::F64 => TensorData::F64(values),
        ElementType::I64 if values.iter().all(|value| whole(*value)) => {
            TensorData::I64(values.into_iter().map(|value| value as i64).collect())
        }
        ElementType::I32 if values.iter().all(|value| whole(*value)) => {
            TensorData::I32(values.into_iter().map(|value| value as i32).collect())
        }
        _ => return Err(refused()),
    })
}

/// A result as 32-bit floats where it is of another length.
fn floats(tensor: Tensor) -> Result<Tensor, EngineError> {
    match tensor.data {
        TensorData::F16(_) | TensorData::Bf16(_) | TensorData::F64(_) => {
            Tensor::f32(&tensor.shape, tensor.to_f32().unwrap_or_default())
        }
        _ => Ok(tensor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, dtype: ElementType, dims: Vec<Side>) -> Port {
        Port { name: name.to_owned(), dtype, dims }
    }

    fn free(name: &str) -> Side {
        Side::Free(name.to_owned())
    }

    #[test]
    fn a_timestep_is_given_in_the_type_and_as_often_as_the_graph_takes_it() {
        let one = Tensor::f32(&[1], vec![981.0]).unwrap();
        let with = |dtype, dims| {
            let ports = [port("sample", ElementType::F32, vec![free("batch")]), port("timestep", dtype, dims)];
            taken(&ports, "timestep", &one, Some(3)).map(Cow::into_owned)
        };
        let scalar = with(ElementType::I64, vec![]).unwrap();
        assert_eq!((scalar.shape.as_slice(), scalar.data), (&[][..], TensorData::I64(vec![981])));
        let each = with(ElementType::F16, vec![free("batch")]).unwrap();
        assert_eq!((each.shape.as_slice(), each.data.element(), each.data.len()), (&[3][..], ElementType::F16, 3));
        assert_eq!(with(ElementType::F32, vec![free("steps")]).unwrap(), one);
        assert_eq!(with(ElementType::I32, vec![Side::Fixed(2)]).unwrap().data, TensorData::I32(vec![981, 981]));
        let between = Tensor::f32(&[1], vec![980.5]).unwrap();
        let ports = [port("timestep", ElementType::I64, vec![])];
        let refused = taken(&ports, "timestep", &between, None);
        assert!(matches!(refused, Err(EngineError::Input { name, .. }) if name == "timestep"));
    }

    #[test]
    fn what_comes_out_is_32_bit_floats() {
        let half = Tensor::new(&[2], TensorData::F16(vec![f16::from_f32(0.5), f16::ONE])).unwrap();
        assert_eq!(floats(half).unwrap(), Tensor::f32(&[2], vec![0.5, 1.0]).unwrap());
        let whole = Tensor::i64(&[1], vec![3]).unwrap();
        assert_eq!(floats(whole.clone()).unwrap(), whole);
    }
}
