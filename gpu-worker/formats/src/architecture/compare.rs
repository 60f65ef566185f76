//! A component against its architecture's table.

use std::collections::BTreeSet;

use super::{distance::nearest, table::Table};
use crate::canonical::{Canonical, scales};

/// Unexpected tensors that a near name is looked for; with more, the table is the wrong one anyhow.
const NEAREST_LIMIT: usize = 64;

/// One way in which a component is not what its architecture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A tensor is not there.
    Missing {
        /// Canonical name.
        name: String,
        /// Its shape.
        expected: Vec<u64>,
    },
    /// A tensor is there that the architecture does not have.
    Unexpected {
        /// Canonical name, or the name in the file where there is none.
        name: String,
        /// Its shape; none where the name could not be mapped.
        found: Option<Vec<u64>>,
        /// The missing tensor with the nearest name, if one is near.
        nearest: Option<String>,
    },
    /// A tensor has another shape.
    WrongShape {
        /// Canonical name.
        name: String,
        /// The architecture's shape.
        expected: Vec<u64>,
        /// The shape in the file.
        found: Vec<u64>,
    },
}

/// All differences: wrong shapes, then missing tensors, then unexpected ones, each by name.
#[must_use]
pub fn compare(table: &Table, canonical: &Canonical) -> Vec<Difference> {
    let found: BTreeSet<&str> = canonical.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let missing: Vec<(&String, &Vec<u64>)> =
        table.tensors.iter().filter(|(name, _)| !found.contains(name.as_str())).collect();
    let mut differences: Vec<Difference> = shapes(table, canonical).collect();
    let gone =
        missing.iter().map(|(name, shape)| Difference::Missing { name: (*name).clone(), expected: (*shape).clone() });
    differences.extend(gone);
    let strange = canonical.tensors.iter().filter(|tensor| !belongs(table, &tensor.name));
    let strange = strange.map(|tensor| (&tensor.name, Some(tensor.shape.clone())));
    let unmapped = canonical.unmapped.iter().map(|name| (name, None));
    for (number, (name, found)) in strange.chain(unmapped).enumerate() {
        let near = (number < NEAREST_LIMIT).then(|| nearest(name, missing.iter().map(|(name, _)| name.as_str())));
        let nearest = near.flatten().map(str::to_owned);
        differences.push(Difference::Unexpected { name: name.clone(), found, nearest });
    }
    differences
}

fn shapes<'a>(table: &'a Table, canonical: &'a Canonical) -> impl Iterator<Item = Difference> + 'a {
    canonical.tensors.iter().filter_map(|tensor| {
        let expected = table.tensors.get(&tensor.name)?;
        let wrong = !is_same(expected, &tensor.shape);
        wrong.then(|| Difference::WrongShape {
            name: tensor.name.clone(),
            expected: expected.clone(),
            found: tensor.shape.clone(),
        })
    })
}

/// Whether the architecture has the tensor, or the weight that it is a scale of.
fn belongs(table: &Table, name: &str) -> bool {
    let weight = || scales::split(name).map(|(module, _)| format!("{module}.weight"));
    table.tensors.contains_key(name) || weight().is_some_and(|weight| table.tensors.contains_key(&weight))
}

/// A linear layer and a 1×1 convolution are the same to every reader: converters write either.
fn is_same(expected: &[u64], found: &[u64]) -> bool {
    let matrix = |shape: &[u64]| -> Option<[u64; 2]> {
        let (head, ones) = shape.split_first_chunk::<2>()?;
        ones.iter().all(|side| *side == 1).then_some(*head)
    };
    expected == found || matrix(expected).is_some_and(|expected| matrix(found) == Some(expected))
}
