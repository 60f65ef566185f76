//! Where each tensor of a component goes in its extent: pure arithmetic over the request.

use serde::{Deserialize, Serialize};

use crate::{arena::extent_len, request::LoadRequest};

/// Alignment of every tensor in an extent: what CUDA and SIMD kernels ask for.
pub const TENSOR_ALIGN: u64 = 256;

/// A tensor inside an extent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedTensor {
    /// Name.
    pub name: String,
    /// Element type as the format writes it.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// First byte, relative to the extent; a multiple of [`TENSOR_ALIGN`].
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A component's tensors placed, in the order in which the files hold them (so that reading is sequential).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The tensors by ascending offset: the plain ones, then the gathered ones as the request has them.
    pub tensors: Vec<PlacedTensor>,
    /// For each placed plain tensor its index in the request.
    pub order: Vec<usize>,
    /// Bytes of the extent that holds them, as the arena rounds.
    pub extent_bytes: u64,
    /// Bytes of the tensors alone.
    pub tensor_bytes: u64,
}

impl Layout {
    /// Places the tensors of a checked request; `None` when the sum exceeds what can be addressed.
    pub fn plan(request: &LoadRequest) -> Option<Self> {
        let mut order: Vec<usize> = (0..request.tensors.len()).collect();
        order.sort_by_key(|index| {
            let tensor = &request.tensors[*index];
            (tensor.file_index, tensor.begin, tensor.end, *index)
        });
        let plain = order
            .iter()
            .filter_map(|index| request.tensors.get(*index))
            .map(|tensor| (&tensor.name, &tensor.dtype, &tensor.shape, tensor.end.checked_sub(tensor.begin)));
        let gathered = request.gathered.iter();
        let gathered = gathered.map(|tensor| (&tensor.name, &tensor.dtype, &tensor.shape, tensor.checked_bytes()));
        let mut tensors = Vec::with_capacity(order.len() + request.gathered.len());
        let (mut offset, mut tensor_bytes) = (0_u64, 0_u64);
        for (name, dtype, shape, len) in plain.chain(gathered) {
            let len = len?;
            tensors.push(PlacedTensor { name: name.clone(), dtype: dtype.clone(), shape: shape.clone(), offset, len });
            offset = offset.checked_add(len)?.checked_next_multiple_of(TENSOR_ALIGN)?;
            tensor_bytes = tensor_bytes.checked_add(len)?;
        }
        let extent_bytes = extent_len(offset)?;
        usize::try_from(extent_bytes).ok()?;
        Some(Self { tensors, order, extent_bytes, tensor_bytes })
    }
}
