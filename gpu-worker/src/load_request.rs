//! From a catalogue row and an inspection to what the RAM tier reads: a component's tensors in canonical form, so that
//! equal components have equal bytes and one digest whatever file and naming they come from.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use model_formats::{CanonicalTensor, Component, FileFacts, Inspection, Order, Piece, TensorFacts, onnx, storable};
use residency::{FileIdentity, GatheredTensor, LoadRequest, Part, PartOrder, SourceFile, TensorRange};
use shared::db::models::{ComponentRow, TensorRow};

/// A component's load; none when the inspection has no such part.
pub fn load_request(row: &ComponentRow, inspection: &Inspection) -> Option<LoadRequest> {
    let component = inspection.components.iter().find(|component| component.kind.as_str() == row.kind)?;
    // only the files that hold tensors of this component are opened and compared
    let mut used: Vec<usize> = component.tensors.iter().map(|tensor| tensor.file).collect();
    used.sort_unstable();
    used.dedup();
    let sources = used.iter().map(|index| inspection.files.get(*index).map(source)).collect::<Option<Vec<_>>>()?;
    let (tensors, gathered) = tensors(component, inspection, &used)?;
    Some(LoadRequest {
        key: Arc::from(row.id.to_string()),
        sources,
        tensors,
        gathered,
        expected_digest: row.digest.as_deref().and_then(|digest| digest.parse().ok()),
        wanted_by: None,
        io: residency::IoOptions { follow_symlinks: true, ..residency::IoOptions::default() },
    })
}

/// The disks that a component is read from, by device number; none when the inspection has no such part.
pub fn disks(row: &ComponentRow, inspection: &Inspection) -> BTreeSet<u64> {
    let component = inspection.components.iter().find(|component| component.kind.as_str() == row.kind);
    let files = component.into_iter().flat_map(|component| &component.tensors).map(|tensor| tensor.file);
    files.filter_map(|file| inspection.files.get(file)).map(|file| file.dev).collect()
}

type Tensors = (Vec<TensorRange>, Vec<GatheredTensor>);

fn tensors(component: &Component, inspection: &Inspection, used: &[usize]) -> Option<Tensors> {
    if onnx::graph_file(inspection, component.kind.as_str()).is_some() {
        return as_stored(component, used);
    }
    let canonical = model_formats::canonicalise(component.kind, inspection.base, &component.tensors);
    let (mut plain, mut gathered) = (Vec::new(), Vec::new());
    for tensor in &canonical.tensors {
        match tensor.pieces.as_slice() {
            [Piece { order: Order::RowMajor, file, begin, end, .. }] => plain.push(TensorRange {
                name: tensor.name.clone(),
                dtype: tensor.dtype.as_str().to_owned(),
                shape: tensor.shape.clone(),
                file_index: used.binary_search(file).ok()?,
                begin: *begin,
                end: *end,
            }),
            // elements of less than a byte cannot be put in another order: such a component stays as its file has it
            _ if tensor.dtype.bits() % 8 != 0 => return as_stored(component, used),
            pieces => gathered.push(gather(tensor, pieces, used)?),
        }
    }
    // a tensor that nobody knows belongs to the component all the same, under a name that is nobody else's
    for tensor in component.tensors.iter().filter(|tensor| canonical.unmapped.contains(&tensor.name)) {
        let name =
            if canonical.get(&tensor.name).is_some() { format!("file:{}", tensor.name) } else { tensor.name.clone() };
        match &tensor.strides {
            None => plain.push(TensorRange { name, ..range(tensor, used)? }),
            Some(strides) => gathered.push(strided(name, tensor, strides, used)?),
        }
    }
    Some((plain, gathered))
}

fn as_stored(component: &Component, used: &[usize]) -> Option<Tensors> {
    let plain = component.tensors.iter().map(|tensor| range(tensor, used)).collect::<Option<_>>()?;
    Some((plain, Vec::new()))
}

fn range(tensor: &TensorFacts, used: &[usize]) -> Option<TensorRange> {
    Some(TensorRange {
        name: tensor.name.clone(),
        dtype: tensor.dtype.as_str().to_owned(),
        shape: tensor.shape.clone(),
        file_index: used.binary_search(&tensor.file).ok()?,
        begin: tensor.begin,
        end: tensor.end,
    })
}

/// A tensor whose elements lie apart in the file, as PyTorch's views do.
fn strided(name: String, tensor: &TensorFacts, strides: &[u64], used: &[usize]) -> Option<GatheredTensor> {
    let order = PartOrder::Strided { shape: tensor.shape.clone(), strides: strides.to_vec() };
    let file_index = used.binary_search(&tensor.file).ok()?;
    Some(GatheredTensor {
        name,
        dtype: tensor.dtype.as_str().to_owned(),
        shape: tensor.shape.clone(),
        element_bytes: tensor.dtype.bits() / 8,
        parts: vec![Part { file_index, begin: tensor.begin, end: tensor.end, order }],
    })
}

fn gather(tensor: &CanonicalTensor, pieces: &[Piece], used: &[usize]) -> Option<GatheredTensor> {
    let part = |piece: &Piece| {
        let order = match &piece.order {
            Order::RowMajor => PartOrder::RowMajor,
            // element [i, j] of the transpose is element j·cols + i as stored
            Order::Transposed { rows, cols } => {
                PartOrder::Strided { shape: vec![*cols, *rows], strides: vec![1, *cols] }
            }
            Order::Strided { shape, strides } => PartOrder::Strided { shape: shape.clone(), strides: strides.clone() },
        };
        Some(Part { file_index: used.binary_search(&piece.file).ok()?, begin: piece.begin, end: piece.end, order })
    };
    Some(GatheredTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.as_str().to_owned(),
        shape: tensor.shape.clone(),
        element_bytes: tensor.dtype.bits() / 8,
        parts: pieces.iter().map(part).collect::<Option<_>>()?,
    })
}

/// The tensors of a component as its files have them, each with the canonical tensors that are made of it.
pub fn tensor_rows(kind: &str, inspection: &Inspection) -> Vec<TensorRow> {
    let Some(component) = inspection.components.iter().find(|component| component.kind.as_str() == kind) else {
        return Vec::new();
    };
    let mut names: Vec<Vec<String>> = vec![Vec::new(); component.tensors.len()];
    if onnx::graph_file(inspection, kind).is_some() {
        names = component.tensors.iter().map(|tensor| vec![tensor.name.clone()]).collect();
    } else {
        let canonical = model_formats::canonicalise(component.kind, inspection.base, &component.tensors);
        for (tensor, piece) in
            canonical.tensors.iter().flat_map(|tensor| tensor.pieces.iter().map(move |piece| (tensor, piece)))
        {
            if let Some(names) = names.get_mut(piece.tensor) {
                names.push(tensor.name.clone());
            }
        }
    }
    let row = |(tensor, canonical): (&TensorFacts, Vec<String>)| TensorRow {
        name: storable(&tensor.name),
        canonical: canonical.iter().map(|name| storable(name)).collect(),
        dtype: tensor.dtype.as_str().to_owned(),
        shape: tensor.shape.clone(),
        file: inspection.files.get(tensor.file).map(|file| file.rel_path.clone()).unwrap_or_default(),
        begin: tensor.begin,
        end: tensor.end,
    };
    component.tensors.iter().zip(names).map(row).collect()
}

fn source(file: &FileFacts) -> SourceFile {
    let expected = FileIdentity { size: file.size, mtime_ns: file.mtime_ns, inode: file.inode, dev: file.dev };
    SourceFile { path: PathBuf::from(&file.path), expected }
}
