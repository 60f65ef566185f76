//! The tensors of the files that come out: under their own names, original ones, or canonical ones.

use std::collections::{BTreeMap, HashSet};

use super::{
    ConvertError, Layout, Model, OutFile, OutTensor, Request, config,
    dropped::{Dropped, grouped},
    goal::Goal,
    original::originals,
    parts::Part,
    plan::MARKERS,
};
use crate::{
    canonical::{CanonicalTensor, Order, Piece},
    dtype::Dtype,
    inspection::TensorFacts,
    vocab::{Base, ComponentKind},
};

/// Where the files of the model that gives its VAE begin.
pub(super) struct Shift {
    pub(super) offset: usize,
}

impl Shift {
    fn of(&self, part: &Part, tensor: &CanonicalTensor) -> CanonicalTensor {
        let mut tensor = tensor.clone();
        for piece in tensor.pieces.iter_mut().filter(|_| part.model == 1) {
            piece.file = piece.file.saturating_add(self.offset);
        }
        tensor
    }
}

/// A tensor of a file as a source.
fn stored(tensor: &TensorFacts) -> CanonicalTensor {
    let order = match &tensor.strides {
        None => Order::RowMajor,
        Some(strides) => Order::Strided { shape: tensor.shape.clone(), strides: strides.clone() },
    };
    let piece = Piece { tensor: 0, file: tensor.file, begin: tensor.begin, end: tensor.end, order };
    CanonicalTensor { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone(), pieces: vec![piece] }
}

/// The type of a tensor that is made of these: theirs, or where it differs the narrowest that holds the values of all exactly.
fn widest(name: &str, from: &[CanonicalTensor]) -> Result<Dtype, ConvertError> {
    let Some(first) = from.first() else { return Ok(Dtype::F32) };
    let together = |found: Dtype, next: &CanonicalTensor| found.holding(next.dtype);
    from.iter().try_fold(first.dtype, together).ok_or_else(|| ConvertError::Types {
        tensor: name.to_owned(),
        parts: from.iter().map(|part| format!("`{}` is {}", part.name, part.dtype)).collect::<Vec<_>>().join(", "),
    })
}

fn out(
    name: String,
    shape: Vec<u64>,
    component: Option<ComponentKind>,
    from: Vec<CanonicalTensor>,
    request: &Request,
) -> Result<OutTensor, ConvertError> {
    let found = widest(&name, &from)?;
    let precision = request.precision_of(component);
    let dtype = precision.of(found).ok_or_else(|| ConvertError::Dtype { tensor: name.clone(), found })?;
    Ok(OutTensor { name, dtype, shape, component, from, is_transposed: false })
}

/// Every tensor under the name that it has.
pub(super) fn same_file(
    model: &Model,
    parts: &[Part],
    request: &Request,
    shift: &Shift,
) -> Result<OutFile, ConvertError> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for part in parts {
        for tensor in &part.stored {
            let from = vec![shift.of(part, &stored(tensor))];
            tensors.push(out(tensor.name.clone(), tensor.shape.clone(), Some(part.kind), from, request)?);
            names.insert(tensor.name.as_str());
        }
    }
    let all = !request.prune || parts.is_empty();
    for tensor in &model.tensors {
        if (all || MARKERS.contains(&tensor.name.as_str())) && names.insert(&tensor.name) {
            tensors.push(out(tensor.name.clone(), tensor.shape.clone(), None, vec![stored(tensor)], request)?);
        }
    }
    Ok(OutFile { path: String::new(), tensors, metadata: BTreeMap::new() })
}

/// All parts in one file under original names.
pub(super) fn original_file(
    model: &Model,
    parts: &[Part],
    alone: bool,
    request: &Request,
    shift: &Shift,
) -> Result<OutFile, ConvertError> {
    let mut tensors = Vec::new();
    for part in parts {
        part.must_be_known()?;
        for original in originals(part.kind, model.inspection.base, &part.canonical, alone)? {
            let from = original.from.iter().filter_map(|index| part.canonical.tensors.get(*index));
            let from = from.map(|tensor| shift.of(part, tensor)).collect();
            let made = out(original.name, original.shape, Some(part.kind), from, request)?;
            tensors.push(OutTensor { is_transposed: original.is_transposed, ..made });
        }
    }
    let names: HashSet<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let kept = |tensor: &&TensorFacts| {
        let marks = MARKERS.contains(&tensor.name.as_str());
        // what the operator says goes before the mark
        let is_wrong = tensor.name == MARKERS[0] && model.said_prediction().is_some_and(|said| said != "v_prediction");
        !is_wrong && (marks || !request.prune) && !names.contains(&tensor.name) && !is_of_part(tensor, parts)
    };
    // of a folder, all tensors are of a part
    for tensor in model.tensors.iter().filter(kept) {
        tensors.push(out(tensor.name.clone(), tensor.shape.clone(), None, vec![stored(tensor)], request)?);
    }
    let is_v = model.prediction() == "v_prediction";
    if is_v && model.inspection.base == Base::Sdxl && !alone && !tensors.iter().any(|tensor| tensor.name == MARKERS[0])
    {
        tensors.push(out(MARKERS[0].to_owned(), vec![0], None, Vec::new(), request)?);
    }
    Ok(OutFile { path: String::new(), tensors, metadata: BTreeMap::new() })
}

/// A part in the folder of its own.
pub(super) fn folder_file(
    part: &Part,
    lone: bool,
    raw: bool,
    request: &Request,
    shift: &Shift,
) -> Result<OutFile, ConvertError> {
    let mut tensors = Vec::new();
    if raw {
        for tensor in &part.stored {
            let from = vec![shift.of(part, &stored(tensor))];
            tensors.push(out(tensor.name.clone(), tensor.shape.clone(), Some(part.kind), from, request)?);
        }
    } else {
        part.must_be_known()?;
        for tensor in &part.canonical.tensors {
            let from = vec![shift.of(part, tensor)];
            tensors.push(out(tensor.name.clone(), tensor.shape.clone(), Some(part.kind), from, request)?);
        }
    }
    let file = config::weights_file(part.kind);
    let path = if lone { file.to_owned() } else { format!("{}/{file}", part.kind) };
    Ok(OutFile { path, tensors, metadata: BTreeMap::new() })
}

/// Wide elements first, then by name: every tensor begins at a multiple of its elements.
pub(super) fn in_order(tensors: &mut [OutTensor]) {
    tensors.sort_by(|a, b| b.dtype.bits().cmp(&a.dtype.bits()).then_with(|| a.name.cmp(&b.name)));
}

fn is_of_part(tensor: &TensorFacts, parts: &[Part]) -> bool {
    let of = |part: &&Part| part.model == 0 && part.stored.iter().any(|stored| stored.name == tensor.name);
    parts.iter().find(of).is_some()
}

/// The tensors of the model that no tensor is made of.
pub(super) fn dropped(model: &Model, parts: &[Part], goal: Goal, request: &Request) -> Vec<Dropped> {
    let own = || parts.iter().filter(|part| part.model == 0);
    let ignored: HashSet<&str> = match goal {
        Goal::SameFile | Goal::SameFolder => HashSet::new(),
        _ => own().flat_map(|part| part.canonical.ignored.iter().map(String::as_str)).collect(),
    };
    let place = |tensor: &TensorFacts| (tensor.file, tensor.begin, tensor.end);
    let used: HashSet<(usize, u64, u64)> = own().flat_map(|part| &part.stored).map(place).collect();
    let keeps_rest = (!request.prune || parts.is_empty()) && matches!(goal, Goal::SameFile | Goal::Original { .. });
    let is_left = |tensor: &&TensorFacts| {
        let is_marker = MARKERS.contains(&tensor.name.as_str()) && goal.layout() != Layout::Diffusers;
        let unused = !used.contains(&place(tensor)) && !keeps_rest && !is_marker;
        unused || ignored.contains(tensor.name.as_str())
    };
    grouped(model.tensors.iter().filter(is_left))
}
