//! Arbitrary names, shapes and configs through everything that reasons about them: detection, the cut into components,
//! canonical names and architecture tables.

use std::path::Path;

use serde_json::Value;

use crate::{
    architecture::{compare, expected},
    canonical::{Canonical, Order, Piece, canonicalise},
    components::split,
    detect::{Hints, detect},
    dtype::Dtype,
    inspection::TensorFacts,
    keys::Keys,
    vocab::{Base, ComponentKind},
};

/// Most tensors of one input: the rules are made for thousands, the fuzzer learns more from fewer.
const TENSORS: usize = 256;
const BASES: [Base; 7] = [Base::Sd15, Base::Sd21, Base::Sdxl, Base::SdxlRefiner, Base::Sd3, Base::Flux, Base::Unknown];
const KINDS: [ComponentKind; 9] = [
    ComponentKind::Unet,
    ComponentKind::Transformer,
    ComponentKind::Vae,
    ComponentKind::TextEncoder,
    ComponentKind::TextEncoder2,
    ComponentKind::TextEncoder3,
    ComponentKind::ControlNet,
    ComponentKind::T2iAdapter,
    ComponentKind::IpAdapter,
];

/// A config of a component, compared with nothing.
pub fn architecture_config(_: &Path, bytes: &[u8]) {
    let Ok(config) = serde_json::from_slice::<Value>(bytes) else { return };
    let nothing = Canonical::default();
    for kind in KINDS {
        if let Some(table) = expected(kind, Base::Unknown, Some(&config), &nothing) {
            let differences = compare(&table, &nothing).len();
            assert_eq!(differences, table.tensors.len(), "every tensor of {} is missing", table.class);
        }
    }
}

/// Lines of a name and a shape (`a.weight 4x8`) as the tensors of a model.
pub fn tensor_names(_: &Path, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut tensors: Vec<TensorFacts> = Vec::new();
    for line in text.lines().take(TENSORS) {
        let begin = tensors.last().map_or(0, |last| last.end);
        if let Some(tensor) = tensor(line, begin).filter(|new| tensors.iter().all(|known| known.name != new.name)) {
            tensors.push(tensor);
        }
    }
    let verdict = detect(&Keys::new(&tensors), &Hints::default());
    let parts = split(verdict.model_type, verdict.base, tensors.clone());
    let placed: usize = parts.components.iter().map(|part| part.tensors.len()).sum();
    assert_eq!(placed.saturating_add(parts.ignored_tensors), tensors.len(), "a tensor got lost in the cut");
    for kind in KINDS {
        BASES.into_iter().for_each(|base| check(kind, base, &tensors));
    }
}

fn tensor(line: &str, begin: u64) -> Option<TensorFacts> {
    let (name, sides) = line.rsplit_once(' ')?;
    let shape: Vec<u64> = sides.split('x').map(|side| side.parse().ok()).collect::<Option<_>>()?;
    let elements = shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side))?;
    let end = begin.checked_add(elements.checked_mul(2)?)?;
    Some(TensorFacts { name: name.to_owned(), dtype: Dtype::F16, shape, file: 0, begin, end, strides: None })
}

/// Whatever the names: no name twice, no tensor outside of where its bytes are, and as many bytes as its shape needs.
fn check(kind: ComponentKind, base: Base, tensors: &[TensorFacts]) {
    let canonical = canonicalise(kind, base, tensors);
    for pair in canonical.tensors.windows(2) {
        assert!(matches!(pair, [a, b] if a.name < b.name), "canonical names are not sorted: {pair:?}");
    }
    for tensor in &canonical.tensors {
        let elements = tensor.shape.iter().fold(1_u64, |product, side| product.saturating_mul(*side));
        let bytes = tensor.pieces.iter().map(piece_bytes).fold(0, u64::saturating_add);
        assert_eq!(bytes, elements.saturating_mul(2), "{} has other bytes than its shape", tensor.name);
        let inside = |piece: &Piece| {
            let source = tensors.get(piece.tensor);
            source.is_some_and(|source| piece.begin >= source.begin && piece.end <= source.end)
        };
        assert!(tensor.pieces.iter().all(inside), "{} reaches out of its source", tensor.name);
    }
    if let Some(table) = expected(kind, base, None, &canonical) {
        let differences = compare(&table, &canonical);
        assert!(differences.len() <= table.tensors.len().saturating_add(tensors.len()), "more differences than names");
    }
}

fn piece_bytes(piece: &Piece) -> u64 {
    match &piece.order {
        Order::Strided { shape, .. } => shape.iter().fold(2, |product, side| product.saturating_mul(*side)),
        Order::RowMajor | Order::Transposed { .. } => piece.end.saturating_sub(piece.begin),
    }
}
