//! Canonical components under the names of single-file checkpoints: the inverse of [`crate::canonicalise`], and its proof. What is
//! made here is read back by the same rules that read foreign files, and must lead to the tensors that it was made of.

mod autoencoder;
mod encoder;
mod unet;

use crate::{
    canonical::{Canonical, Order, Piece, canonicalise},
    convert::ConvertError,
    inspection::TensorFacts,
    vocab::{Base, ComponentKind},
};

/// A tensor of a single file and the canonical tensors that it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Original {
    /// Name in the file.
    pub(super) name: String,
    /// Shape in the file.
    pub(super) shape: Vec<u64>,
    /// The canonical tensors, by index: their rows one after the other.
    pub(super) from: Vec<usize>,
    /// The one canonical tensor is a matrix, and the file has its transpose.
    pub(super) is_transposed: bool,
}

impl Original {
    /// A tensor that has only another name.
    fn renamed(name: String, index: usize, shape: &[u64]) -> Self {
        Self { name, shape: shape.to_vec(), from: vec![index], is_transposed: false }
    }
}

/// The tensors of a component under original names, in the order of the canonical ones. A component that is `alone` in its file has
/// the prefix that such files have.
pub(super) fn originals(
    kind: ComponentKind,
    base: Base,
    canonical: &Canonical,
    alone: bool,
) -> Result<Vec<Original>, ConvertError> {
    let unnamed = |name: &str| ConvertError::NoOriginalName { component: kind, tensor: name.to_owned() };
    let made = match kind {
        ComponentKind::Unet => unet::originals(canonical),
        ComponentKind::Vae => autoencoder::originals(canonical, alone),
        ComponentKind::TextEncoder | ComponentKind::TextEncoder2 => encoder::originals(kind, base, canonical, alone),
        _ => return Err(unnamed("")),
    };
    let made = made.map_err(|name| unnamed(&name))?;
    match unproven(kind, base, canonical, &made) {
        None => Ok(made),
        Some(name) => Err(unnamed(&name)),
    }
}

/// The first canonical tensor that reading `made` does not give back with its shape and every element in its place.
fn unproven(kind: ComponentKind, base: Base, canonical: &Canonical, made: &[Original]) -> Option<String> {
    let facts = laid_out(canonical, made);
    let read = canonicalise(kind, base, &facts);
    let stray = read.unmapped.first().or(read.ignored.first());
    if let Some(name) = stray {
        return Some(name.clone());
    }
    let mut wanted: Vec<Option<Piece>> = vec![None; canonical.tensors.len()];
    for (number, (original, facts)) in made.iter().zip(&facts).enumerate() {
        let mut begin = facts.begin;
        for index in &original.from {
            let tensor = canonical.tensors.get(*index)?;
            // in the file all of its rows have one type
            let end = begin.saturating_add(bytes(facts.dtype.bits(), &tensor.shape));
            let order = match (original.is_transposed, tensor.shape.as_slice()) {
                (true, [rows, cols]) => Order::Transposed { rows: *cols, cols: *rows },
                _ => Order::RowMajor,
            };
            if let Some(place) = wanted.get_mut(*index) {
                *place = Some(Piece { tensor: number, file: 0, begin, end, order });
            }
            begin = end;
        }
    }
    let is_same = |(index, tensor): &(usize, &crate::canonical::CanonicalTensor)| {
        let found = read.get(&tensor.name);
        let piece = wanted.get(*index).and_then(Option::as_ref);
        found.is_some_and(|found| {
            found.shape == tensor.shape && found.pieces.as_slice() == piece.map_or(&[][..], std::slice::from_ref)
        })
    };
    let differs = canonical.tensors.iter().enumerate().find(|each| !is_same(each));
    differs.map(|(_, tensor)| tensor.name.clone())
}

/// The tensors as they would lie in a file.
fn laid_out(canonical: &Canonical, made: &[Original]) -> Vec<TensorFacts> {
    let mut at = 0_u64;
    let facts = |original: &Original| {
        let first = original.from.first().and_then(|index| canonical.tensors.get(*index));
        let dtype = first.map_or(crate::Dtype::F32, |tensor| tensor.dtype);
        let begin = at;
        at = at.saturating_add(bytes(dtype.bits(), &original.shape));
        let (name, shape) = (original.name.clone(), original.shape.clone());
        TensorFacts { name, dtype, shape, file: 0, begin, end: at, strides: None }
    };
    made.iter().map(facts).collect()
}

fn bytes(bits: u64, shape: &[u64]) -> u64 {
    shape.iter().fold(1_u64, |product, side| product.saturating_mul(*side)).saturating_mul(bits) / 8
}

/// The largest number after `prefix` in any name, plus one.
fn count(canonical: &Canonical, prefix: &str) -> u64 {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<u64>().ok();
    let last = canonical.tensors.iter().filter_map(|tensor| number(&tensor.name)).max();
    last.map_or(0, |last| last.saturating_add(1))
}

/// Whether any name begins so.
fn has(canonical: &Canonical, prefix: &str) -> bool {
    canonical.tensors.iter().any(|tensor| tensor.name.starts_with(prefix))
}

#[cfg(test)]
mod tests;
