//! Batches: tensors behind each other along the first side, and apart again.

use crate::{
    error::EngineError,
    tensor::{Tensor, TensorData},
};

/// `first` and then `second`; both F32, alike in all sides but the first.
///
/// # Errors
/// [`EngineError::Input`] if they are not.
pub(super) fn join(first: &Tensor, second: &Tensor) -> Result<Tensor, EngineError> {
    let wrong = || EngineError::Input {
        name: "batch".to_owned(),
        found: format!("{} {:?}", second.data.element(), second.shape),
        expected: format!("sides like {} {:?}", first.data.element(), first.shape),
    };
    let ([rows, sides @ ..], [more, others @ ..]) = (first.shape.as_slice(), second.shape.as_slice()) else {
        return Err(wrong());
    };
    match (first.as_f32(), second.as_f32()) {
        (Some(values), Some(others_values)) if sides == others => {
            let shape: Vec<usize> = [rows.saturating_add(*more)].iter().chain(sides).copied().collect();
            Tensor::f32(&shape, [values, others_values].concat())
        }
        _ => Err(wrong()),
    }
}

/// The first `rows` rows and the rest.
///
/// # Errors
/// [`EngineError::Input`] if it is not F32 or has fewer rows.
pub(super) fn split(tensor: Tensor, rows: usize) -> Result<(Tensor, Tensor), EngineError> {
    let wrong = |shape: &[usize]| EngineError::Input {
        name: "batch".to_owned(),
        found: format!("{shape:?}"),
        expected: format!("F32 with at least {rows} rows"),
    };
    let Tensor { mut shape, data } = tensor;
    let (TensorData::F32(mut values), Some(all)) = (data, shape.first().copied()) else { return Err(wrong(&shape)) };
    let (Some(rest), Some(each)) = (all.checked_sub(rows), values.len().checked_div(all)) else {
        return Err(wrong(&shape));
    };
    let tail = values.split_off(each.saturating_mul(rows));
    let mut with = |rows: usize, values| {
        if let Some(first) = shape.first_mut() {
            *first = rows;
        }
        Tensor::f32(&shape, values)
    };
    Ok((with(rows, values)?, with(rest, tail)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_joined_comes_apart_again() {
        let first = Tensor::f32(&[1, 2], vec![1.0, 2.0]).unwrap();
        let second = Tensor::f32(&[2, 2], vec![3.0, 4.0, 5.0, 6.0]).unwrap();
        let both = join(&first, &second).unwrap();
        assert_eq!(both.shape, [3, 2]);
        assert_eq!(split(both, 1).unwrap(), (first.clone(), second));
        assert!(join(&first, &Tensor::zeros(&[1, 3])).is_err());
        assert!(split(first, 2).is_err());
    }
}
