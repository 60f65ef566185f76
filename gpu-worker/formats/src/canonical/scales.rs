//! The scales that 8-bit files keep beside their weights: they go wherever their weight goes.

use std::collections::BTreeMap;

use super::{Naming, place::Place};
use crate::inspection::TensorFacts;

/// Endings of scales, by the weight of the same module.
const ENDINGS: [&str; 4] = [".scale_weight", ".scale_input", ".weight_scale", ".input_scale"];
/// An empty tensor that says that a file has scales.
const MARKER: &str = "scaled_fp8";
const WEIGHT: &str = ".weight";

/// The module of a scale and what of it the scale is, if the name is a scale's.
pub(crate) fn split(name: &str) -> Option<(&str, &'static str)> {
    ENDINGS.into_iter().find_map(|ending| Some((name.strip_suffix(ending)?, ending)))
}

/// The place of a scale, derived from that of its weight; none for anything else, and for a scale without a weight.
pub(super) fn place(
    name: &str,
    tensor: &TensorFacts,
    weights: &BTreeMap<&str, &TensorFacts>,
    naming: &dyn Naming,
) -> Option<Place> {
    if name == MARKER || name.ends_with(".scaled_fp8") {
        return Some(Place::Ignored);
    }
    let (module, ending) = split(name)?;
    let weight = format!("{module}{WEIGHT}");
    let place = naming.place(&weight, weights.get(weight.as_str())?)?;
    beside(place, ending, tensor.elements() == 1)
}

/// One number is the scale of every part that its weight is cut into; several are cut as the rows are.
fn beside(place: Place, ending: &str, is_one: bool) -> Option<Place> {
    let scale = |weight: String| Some(format!("{}{ending}", weight.strip_suffix(WEIGHT)?));
    Some(match place {
        Place::Same(name) | Place::Matrix(name) | Place::Projection(name, _) => Place::Same(scale(name)?),
        Place::Transposed(name) | Place::Swapped(name) if is_one => Place::Same(scale(name)?),
        Place::Rows(parts) if is_one => {
            Place::Copies(parts.into_iter().map(|(name, _)| scale(name)).collect::<Option<_>>()?)
        }
        Place::Equal(names) if is_one => Place::Copies(names.into_iter().map(scale).collect::<Option<_>>()?),
        Place::Rows(parts) => {
            let parts = parts.into_iter().map(|(name, rows)| Some((scale(name)?, rows)));
            Place::Rows(parts.collect::<Option<_>>()?)
        }
        Place::Equal(names) => Place::Equal(names.into_iter().map(scale).collect::<Option<_>>()?),
        Place::Swapped(name) => Place::Swapped(scale(name)?),
        Place::Ignored => Place::Ignored,
        Place::Transposed(_) | Place::Copies(_) => return None,
    })
}
