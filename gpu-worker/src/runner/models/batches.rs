//! Chunks of text through an encoder, as many at once as memory holds, each of equal ones once.

use std::collections::HashMap;

use engine::{
    EngineError, Tensor, TensorData,
    models::{EncodeOptions, TextEncoder, TextStates},
    tokenize::Chunk,
};

use super::Bench;
use crate::runner::{engine_thread::RunFailure, protocol::RunPhase};

/// Chunks of one run: more of them gain nothing, and a stop is heard between two runs at the latest.
const AT_ONCE: usize = 32;

/// The states of all chunks, in their order, unweighed.
///
/// # Errors
/// `NoRoom` when not even one chunk fits; those of a run.
pub(super) fn encode(
    bench: &Bench<'_>,
    encoder: &TextEncoder,
    chunks: &[&Chunk],
    options: EncodeOptions,
) -> Result<TextStates, RunFailure> {
    let (ids, places) = distinct(chunks);
    let available_bytes = bench.room();
    let (mut rest, mut whole): (&[Vec<i64>], Option<TextStates>) = (&ids, None);
    loop {
        let rows = rows(rest.len().min(encoder.most_rows()), available_bytes, |rows| encoder.estimate(rows));
        let rows = rows.ok_or_else(|| RunFailure::NoRoom { needed_bytes: encoder.estimate(1), available_bytes })?;
        let (now, later) = rest.split_at_checked(rows).unwrap_or((rest, &[]));
        let part = encoder.encode(now, options, &bench.control(RunPhase::Encoding))?;
        let states = match whole.take() {
            None => part,
            Some(before) => followed(before, part)?,
        };
        if later.is_empty() {
            return Ok(picked(&states, &places)?);
        }
        (rest, whole) = (later, Some(states));
    }
}

/// The largest number of rows up to `left` whose estimate is within `bytes`; none when one is not. At least one is asked for.
fn rows(left: usize, bytes: u64, estimate: impl Fn(usize) -> u64) -> Option<usize> {
    (1..=left.clamp(1, AT_ONCE)).rev().find(|rows| estimate(*rows) <= bytes)
}

/// Ids without those that were there before, and for each chunk the place of its ids among them.
fn distinct(chunks: &[&Chunk]) -> (Vec<Vec<i64>>, Vec<usize>) {
    let (mut ids, mut known) = (Vec::new(), HashMap::new());
    let places = chunks.iter().map(|chunk| {
        *known.entry(chunk.ids.as_slice()).or_insert_with(|| {
            ids.push(chunk.ids.clone());
            ids.len() - 1
        })
    });
    let places = places.collect();
    (ids, places)
}

fn followed(before: TextStates, part: TextStates) -> Result<TextStates, EngineError> {
    Ok(TextStates {
        last: behind(before.last, part.last)?,
        hidden: behind(before.hidden, part.hidden)?,
        pooled: behind(before.pooled, part.pooled)?,
        projected: before.projected.zip(part.projected).map(|(before, part)| behind(before, part)).transpose()?,
    })
}

/// `part`'s rows behind those of `before`.
fn behind(before: Tensor, part: Tensor) -> Result<Tensor, EngineError> {
    let (Tensor { mut shape, data: TensorData::F32(mut values) }, TensorData::F32(more)) = (before, part.data) else {
        return Err(EngineError::Onnx { what: "encoding", answer: "states that are no 32-bit floats".to_owned() });
    };
    if let (Some(rows), Some(added)) = (shape.first_mut(), part.shape.first()) {
        *rows += added;
    }
    values.extend(more);
    Tensor::f32(&shape, values)
}

fn picked(states: &TextStates, places: &[usize]) -> Result<TextStates, EngineError> {
    Ok(TextStates {
        last: rows_at(&states.last, places)?,
        hidden: rows_at(&states.hidden, places)?,
        pooled: rows_at(&states.pooled, places)?,
        projected: states.projected.as_ref().map(|projected| rows_at(projected, places)).transpose()?,
    })
}

/// The rows at these places, one behind the other.
fn rows_at(tensor: &Tensor, places: &[usize]) -> Result<Tensor, EngineError> {
    let values = tensor.as_f32().unwrap_or_default();
    let mut shape = tensor.shape.clone();
    let each = values.len().checked_div(shape.first().copied().unwrap_or(0)).unwrap_or(0);
    let rows = places.iter().filter_map(|at| values.get(at * each..(at + 1) * each));
    let picked = rows.flatten().copied().collect();
    if let Some(rows) = shape.first_mut() {
        *rows = places.len();
    }
    Tensor::f32(&shape, picked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(id: i64) -> Chunk {
        Chunk { ids: vec![id, 9], weights: vec![1.0, 1.0], end: 1 }
    }

    #[test]
    fn as_many_run_at_once_as_fit_and_none_where_one_does_not() {
        let estimate = |rows: usize| 10 + 5 * rows as u64;
        assert_eq!(rows(100, u64::MAX, estimate), Some(AT_ONCE));
        assert_eq!(rows(3, u64::MAX, estimate), Some(3));
        assert_eq!(rows(100, 29, estimate), Some(3));
        assert_eq!(rows(100, 14, estimate), None);
    }

    proptest! {
        #[test]
        fn equal_chunks_are_encoded_once_and_stand_where_they_were(numbers in proptest::collection::vec(0_i64..5, 1..30)) {
            let chunks: Vec<Chunk> = numbers.iter().map(|number| chunk(*number)).collect();
            let (ids, places) = distinct(&chunks.iter().collect::<Vec<_>>());
            let mut expected = numbers.clone();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(ids.len(), expected.len());
            let states = Tensor::f32(&[ids.len(), 2], ids.iter().flatten().map(|id| *id as f32).collect()).unwrap();
            let all: Vec<f32> = chunks.iter().flat_map(|chunk| &chunk.ids).map(|id| *id as f32).collect();
            prop_assert_eq!(rows_at(&states, &places).unwrap(), Tensor::f32(&[numbers.len(), 2], all).unwrap());
        }
    }

    #[test]
    fn rows_stand_behind_each_other() {
        let (before, part) = (Tensor::f32(&[1, 2], vec![0.0, 1.0]), Tensor::f32(&[2, 2], vec![2.0, 3.0, 4.0, 5.0]));
        let whole = behind(before.unwrap(), part.unwrap()).unwrap();
        assert_eq!(whole, Tensor::f32(&[3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap());
    }
}
