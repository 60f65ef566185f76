//! Models whose graphs users brought: exporters chose other element types than ours, other ranks for a timestep, and names for
//! what they give. What goes in is made as the graph takes it, what comes out is 32-bit floats as everywhere.

pub(super) mod text;
pub(super) mod unet;
pub(super) mod vae;

use std::borrow::Cow;

use half::{bf16, f16};

use crate::{
    error::EngineError,
    graph::{Emitted, Port, Side, fixed},
    runtime::Outcome,
    tensor::{ElementType, Tensor, TensorData},
};

/// The inputs whose rows are those of a run, of whatever model.
const COUNTED: [&str; 3] = ["sample", "latent_sample", "input_ids"];

/// Runs a graph; of a user's, with its own types at both ends. Fewer rows than its only number of them are filled up with the
/// last one, and what comes of those is left away.
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
    let rows = inputs.iter().find(|(name, _)| COUNTED.contains(name));
    let rows = rows.and_then(|(_, counted)| counted.shape.first().copied());
    let filled = rows.zip(counted(&emitted.inputs).and_then(|port| fixed(port, 0)));
    let filled = filled.filter(|(rows, only)| (1..*only).contains(rows));
    let taken = inputs.iter().map(|(name, tensor)| {
        let taken = taken(&emitted.inputs, name, tensor, filled.map(|(_, only)| only).or(rows))?;
        Ok(match filled {
            Some((rows, only)) if taken.shape.len() > 1 => Cow::Owned(with_rows(&taken, rows, only)),
            _ => taken,
        })
    });
    let taken = taken.collect::<Result<Vec<_>, EngineError>>()?;
    let given: Vec<(&str, &Tensor)> = inputs.iter().zip(&taken).map(|((name, _), tensor)| (*name, &**tensor)).collect();
    let Outcome { outputs, peak_bytes } = run(&given)?;
    let outputs = outputs.into_iter().map(floats).collect::<Result<Vec<_>, _>>()?;
    let cut = |tensor: Tensor| match filled {
        Some((rows, only)) => with_rows(&tensor, only, rows),
        None => tensor,
    };
    Ok(Outcome { outputs: outputs.into_iter().map(cut).collect(), peak_bytes })
}

/// The port whose rows are those of a run.
fn counted(ports: &[Port]) -> Option<&Port> {
    ports.iter().find(|port| COUNTED.contains(&port.name.as_str()))
}

/// A tensor of `rows` rows with so many: filled up with its last one, or cut. Others stay as they are.
fn with_rows(tensor: &Tensor, rows: usize, wanted: usize) -> Tensor {
    let Some(each) = tensor.data.len().checked_div(rows).filter(|_| tensor.shape.first() == Some(&rows)) else {
        return tensor.clone();
    };
    let shape = [wanted].iter().chain(tensor.shape.iter().skip(1)).copied().collect();
    Tensor { shape, data: reworked(&tensor.data, &Rows { each, wanted }) }
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
                let repeated = reworked(&taken.data, &Rows { each: 1, wanted: count });
                *taken.to_mut() = Tensor { shape: vec![count], data: repeated };
            }
            _ => {}
        }
    }
    Ok(taken)
}

/// How many times a lone number is given: once for each row where the input has the rows' own side.
fn count(ports: &[Port], side: &Side, rows: usize) -> usize {
    let of_counted = counted(ports).and_then(|port| port.dims.first());
    match side {
        Side::Fixed(count) => *count,
        Side::Free(name) if !name.is_empty() && of_counted == Some(side) => rows,
        Side::Free(_) => 1,
    }
}

/// So many rows of `each` values: filled up with the last one, or cut.
struct Rows {
    each: usize,
    wanted: usize,
}

impl Rows {
    fn of<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let wanted = self.each.saturating_mul(self.wanted);
        let last = values.get(values.len().saturating_sub(self.each)..).unwrap_or_default();
        values.iter().chain(last.iter().cycle()).take(wanted).copied().collect()
    }
}

fn reworked(data: &TensorData, rows: &Rows) -> TensorData {
    match data {
        TensorData::F32(values) => TensorData::F32(rows.of(values)),
        TensorData::F16(values) => TensorData::F16(rows.of(values)),
        TensorData::Bf16(values) => TensorData::Bf16(rows.of(values)),
        TensorData::F64(values) => TensorData::F64(rows.of(values)),
        TensorData::I64(values) => TensorData::I64(rows.of(values)),
        TensorData::I32(values) => TensorData::I32(rows.of(values)),
        TensorData::U8(values) => TensorData::U8(rows.of(values)),
        TensorData::Bool(values) => TensorData::Bool(rows.of(values)),
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
    fn fewer_rows_than_the_graph_takes_are_filled_up_and_left_away_again() {
        let graph = crate::graph::test_graph(
            &[("sample", &[3, 2]), ("timestep", &[3]), ("encoder_hidden_states", &[3, 1, 2])],
            &[],
            &[("out_sample", &[3, 2]), ("other", &[5])],
            &[],
        );
        let sample = Tensor::f32(&[2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let states = Tensor::f32(&[2, 1, 2], vec![5.0, 6.0, 7.0, 8.0]).unwrap();
        let step = Tensor::f32(&[1], vec![9.0]).unwrap();
        let given = [("sample", &sample), ("timestep", &step), ("encoder_hidden_states", &states)];
        let run = |inputs: &[(&str, &Tensor)]| {
            assert_eq!(*inputs[0].1, Tensor::f32(&[3, 2], vec![1.0, 2.0, 3.0, 4.0, 3.0, 4.0]).unwrap());
            assert_eq!(*inputs[1].1, Tensor::f32(&[3], vec![9.0; 3]).unwrap());
            assert_eq!(inputs[2].1.shape, [3, 1, 2]);
            let other = Tensor::f32(&[5], vec![0.0; 5]).unwrap();
            Ok(Outcome { outputs: vec![inputs[0].1.clone(), other], peak_bytes: None })
        };
        let outcome = adapted(graph.emitted(), &given, run).unwrap();
        assert_eq!((&outcome.outputs[0], outcome.outputs[1].shape.as_slice()), (&sample, &[5][..]));
        // as many as it takes are given as they are, and more are for the run to refuse
        for rows in [3, 4] {
            let many = Tensor::zeros(&[rows, 2]);
            let run = |inputs: &[(&str, &Tensor)]| {
                assert_eq!(*inputs[0].1, many);
                Ok(Outcome { outputs: Vec::new(), peak_bytes: None })
            };
            adapted(graph.emitted(), &[("sample", &many)], run).unwrap();
        }
    }

    #[test]
    fn what_comes_out_is_32_bit_floats() {
        let half = Tensor::new(&[2], TensorData::F16(vec![f16::from_f32(0.5), f16::ONE])).unwrap();
        assert_eq!(floats(half).unwrap(), Tensor::f32(&[2], vec![0.5, 1.0]).unwrap());
        let whole = Tensor::i64(&[1], vec![3]).unwrap();
        assert_eq!(floats(whole.clone()).unwrap(), whole);
    }
}
