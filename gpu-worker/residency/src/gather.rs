//! Tensors that are put together from parts of files, some of them in another order of elements: the canonical form of
//! fused, transposed and strided tensors. Pure over bytes; the loader brings the bytes.

/// A tensor made of parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatheredTensor {
    /// Name, unique within the request.
    pub name: String,
    /// Element type as the format writes it.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Bytes of one element; dtypes of less than a byte cannot be gathered.
    pub element_bytes: u64,
    /// The parts whose elements, one part after the other, are the tensor in row-major order.
    pub parts: Vec<Part>,
}

/// A run of elements of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index into the request's sources.
    pub file_index: usize,
    /// First byte in the file.
    pub begin: u64,
    /// One past the last byte in the file.
    pub end: u64,
    /// The order of the elements in these bytes.
    pub order: PartOrder,
}

/// How a part's elements follow from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartOrder {
    /// As they are stored.
    RowMajor,
    /// Element `[i, j, …]` is element `i·strides[0] + j·strides[1] + …` from the begin.
    Strided {
        /// Shape of the part.
        shape: Vec<u64>,
        /// Strides in elements.
        strides: Vec<u64>,
    },
}

impl GatheredTensor {
    /// Bytes of the tensor; none when that overflows or its parts do not add up to it, or reach beyond their bytes.
    pub fn checked_bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim))?;
        let bytes = elements.checked_mul(self.element_bytes)?;
        let mut sum = 0_u64;
        for part in &self.parts {
            sum = sum.checked_add(part.checked_bytes(self.element_bytes)?)?;
        }
        (self.element_bytes > 0 && sum == bytes).then_some(bytes)
    }
}

impl Part {
    /// Bytes that it gives to the tensor.
    fn checked_bytes(&self, element_bytes: u64) -> Option<u64> {
        let stored = self.end.checked_sub(self.begin)?;
        let PartOrder::Strided { shape, strides } = &self.order else { return Some(stored) };
        if shape.len() != strides.len() {
            return None;
        }
        let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim))?;
        if elements == 0 {
            return Some(0);
        }
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(0_u64, |sum, (dim, stride)| sum.checked_add(dim.checked_sub(1)?.checked_mul(*stride)?))?;
        let reach = last.checked_add(1)?.checked_mul(element_bytes)?;
        (reach <= stored).then_some(elements.checked_mul(element_bytes)?)
    }

    /// Appends its elements in the tensor's order; `stored` are its bytes in the file. For a checked part.
    pub fn append(&self, stored: &[u8], element_bytes: usize, to: &mut Vec<u8>) {
        match &self.order {
            PartOrder::RowMajor => to.extend_from_slice(stored),
            PartOrder::Strided { shape, strides } => walk(stored, element_bytes, shape, strides, to),
        }
    }
}

/// Copies a strided view; an index counts through the outer dimensions, the innermost is a plain loop.
fn walk(stored: &[u8], element_bytes: usize, shape: &[u64], strides: &[u64], to: &mut Vec<u8>) {
    let (Some((inner, outer)), Some((inner_stride, outer_strides))) = (shape.split_last(), strides.split_last()) else {
        to.extend_from_slice(stored.get(..element_bytes).unwrap_or_default());
        return;
    };
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0_u64; outer.len()];
    loop {
        let base: u64 = index.iter().zip(outer_strides).map(|(at, stride)| at * stride).sum();
        for at in 0..*inner {
            let begin = (base + at * inner_stride) as usize * element_bytes;
            to.extend_from_slice(stored.get(begin..begin + element_bytes).unwrap_or_default());
        }
        if !advance(&mut index, outer) {
            return;
        }
    }
}

/// The next index in row-major order; false after the last.
fn advance(index: &mut [u64], shape: &[u64]) -> bool {
    for (at, dim) in index.iter_mut().zip(shape).rev() {
        *at += 1;
        if *at < *dim {
            return true;
        }
        *at = 0;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: u64, shape: &[u64], strides: &[u64]) -> Part {
        let order = PartOrder::Strided { shape: shape.to_vec(), strides: strides.to_vec() };
        Part { file_index: 0, begin: 0, end: bytes, order }
    }

    #[test]
    fn a_transpose_is_a_walk() {
        let stored: Vec<u8> = (0..6).collect();
        let mut to = Vec::new();
        part(6, &[3, 2], &[1, 3]).append(&stored, 1, &mut to);
        assert_eq!(to, [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn wide_elements_scalars_and_empty_views() {
        let stored: Vec<u8> = (0..8).collect();
        let mut to = Vec::new();
        part(8, &[2, 2], &[1, 2]).append(&stored, 2, &mut to);
        assert_eq!(to, [0, 1, 4, 5, 2, 3, 6, 7]);
        to.clear();
        part(8, &[], &[]).append(&stored, 4, &mut to);
        assert_eq!(to, [0, 1, 2, 3]);
        to.clear();
        part(8, &[0, 2], &[1, 1]).append(&stored, 4, &mut to);
        assert!(to.is_empty());
    }

    #[test]
    fn what_reaches_too_far_or_does_not_add_up_is_refused() {
        assert_eq!(part(6, &[3, 2], &[1, 3]).checked_bytes(1), Some(6));
        assert_eq!(part(5, &[3, 2], &[1, 3]).checked_bytes(1), None);
        assert_eq!(part(6, &[3], &[u64::MAX]).checked_bytes(1), None);
        let tensor = |dim| GatheredTensor {
            name: "t".into(),
            dtype: "U8".into(),
            shape: vec![dim],
            element_bytes: 1,
            parts: vec![part(6, &[3, 2], &[1, 3])],
        };
        assert_eq!((tensor(6).checked_bytes(), tensor(7).checked_bytes()), (Some(6), None));
    }
}
