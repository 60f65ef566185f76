//! The tensors of a variant: what each is made of, and how they are made in host memory.

use std::{num::NonZeroUsize, ops::Range};

use shared::error::{Classify, ErrorCode};

use super::{
    change::{Added, Stored, of_bias, of_weight},
    file::{LoraError, Module},
    index::LoraIndex,
    merge::MergeError,
    parallel::{Failed, Prepare, Sink, Task},
};
use crate::{Cancel, DeviceError, ElementType, SlabView};

/// A tensor of a variant.
#[derive(Debug, Clone)]
pub struct VariantTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type, as in the base.
    pub element: ElementType,
    /// Its dimensions, as in the base.
    pub shape: &'a [usize],
    /// Where in the slab it goes.
    pub to: Range<u64>,
    /// What it is made of.
    pub made: Made<'a>,
}

impl<'a> VariantTensor<'a> {
    /// Where the bytes are that it is made of.
    fn place(&self) -> Place<'a> {
        match &self.made {
            Made::Taken(place) | Made::Changed(place, _) => *place,
        }
    }

    /// Its bytes; none when it begins behind its end.
    pub(crate) fn length(&self) -> Option<usize> {
        self.to.end.checked_sub(self.to.start).and_then(|bytes| usize::try_from(bytes).ok())
    }

    pub(crate) fn outside(&self) -> VariantError {
        VariantError::outside(self.name)
    }
}

/// What a tensor of a variant is made of.
#[derive(Debug, Clone)]
pub enum Made<'a> {
    /// Bytes that are there already, from this place on.
    Taken(Place<'a>),
    /// The base's tensor with changes, in their order.
    Changed(Place<'a>, Vec<Change<'a>>),
}

/// Where bytes are that a tensor is made of.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In another slab, from this byte on.
    Slab(&'a SlabView, u64),
    /// Where the tensor goes.
    Here,
}

/// A module's change of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The LoRA.
    pub lora: &'a LoraIndex<'a>,
    /// The module in it.
    pub stem: &'a str,
    /// Weight of the user, blocks and all.
    pub strength: f64,
}

/// Who hears of a merge, and who may stop it.
#[expect(missing_debug_implementations, reason = "holds a function")]
#[derive(Clone, Copy)]
pub struct MergeControl<'a> {
    /// Threads that work on it.
    pub threads: NonZeroUsize,
    /// Hears how many bytes are made with each block.
    pub done: &'a (dyn Fn(u64) + Sync),
    /// Stops it between two blocks.
    pub cancel: &'a Cancel,
}

/// Why a variant was not made.
#[derive(Debug, thiserror::Error)]
pub enum VariantError {
    /// A tensor cannot be changed.
    #[error(transparent)]
    Tensor(#[from] Failed),
    /// A tensor, or what it is made of, lies outside its slab or over another one.
    #[error("`{tensor}`, or what it is made of, does not lie within its slab, or lies over another tensor")]
    Layout {
        /// The tensor.
        tensor: String,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl VariantError {
    pub(crate) fn outside(tensor: &str) -> Self {
        Self::Layout { tensor: tensor.to_owned() }
    }
}

impl Classify for VariantError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Tensor(failed) => failed.error.code(),
            Self::Layout { .. } | Self::Device(_) => ErrorCode::Internal,
        }
    }
}

/// What is to be done for the tensors that go into so many bytes of host memory, which `map` is where this process has it mapped.
///
/// # Errors
/// [`VariantError::Layout`] for one that lies outside, or over another.
pub(crate) fn tasks_on_host<'a>(
    sink: &'a dyn Sink,
    bytes: u64,
    mut map: Option<&'a mut [u8]>,
    mut tensors: Vec<VariantTensor<'a>>,
) -> Result<Vec<Task<'a>>, VariantError> {
    tensors.sort_by_key(|tensor| tensor.to.start);
    let mut end = 0;
    let mut tasks = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        if tensor.to.start < end || tensor.to.end < tensor.to.start || tensor.to.end > bytes {
            return Err(tensor.outside());
        }
        let place = cut(&mut map, tensor.to.start - end, tensor.to.end - tensor.to.start);
        end = tensor.to.end;
        tasks.push(Task { place, ..task(sink, tensor)? });
    }
    Ok(tasks)
}

/// So many bytes behind a gap, which are no more in the rest then.
fn cut<'a>(rest: &mut Option<&'a mut [u8]>, gap: u64, length: u64) -> Option<&'a mut [u8]> {
    let (gap, length) = (usize::try_from(gap).ok()?, usize::try_from(length).ok()?);
    let (_, behind) = rest.take()?.split_at_mut_checked(gap)?;
    let (found, behind) = behind.split_at_mut_checked(length)?;
    *rest = Some(behind);
    Some(found)
}

fn task<'a>(sink: &'a dyn Sink, tensor: VariantTensor<'a>) -> Result<Task<'a>, VariantError> {
    let (place, length) = (tensor.place(), tensor.length());
    let VariantTensor { name, element, shape, to, made } = tensor;
    let from = match place {
        Place::Here => None,
        Place::Slab(view, begin) => {
            let begin = usize::try_from(begin).ok();
            let range = begin.zip(length).and_then(|(begin, length)| Some(begin..begin.checked_add(length)?));
            let bytes = view.as_slice().zip(range).and_then(|(bytes, range)| bytes.get(range));
            Some(bytes.ok_or_else(|| VariantError::outside(name))?)
        }
    };
    let prepare = match made {
        Made::Taken(_) => None,
        Made::Changed(_, changes) => Some(summands(name, changes)),
    };
    Ok(Task { sink, name, element, shape, from, to, place: None, prepare })
}

/// Reads the modules and makes what they add to the tensor: to a bias what stands in the file for it, to a weight the rest.
fn summands<'a>(name: &'a str, changes: Vec<Change<'a>>) -> Prepare<'a> {
    Box::new(move |stored| {
        let modules = modules(&changes)?;
        let added = modules.iter().map(|(module, strength)| added(name, stored, module, *strength));
        added.filter_map(Result::transpose).map(|added| added.map(Added::packed)).collect()
    })
}

/// The modules of the changes that do something, read from their files.
pub(crate) fn modules(changes: &[Change<'_>]) -> Result<Vec<(Module, f64)>, LoraError> {
    let active = changes.iter().filter(|change| change.strength != 0.0);
    active.map(|change| Ok((change.lora.module(change.stem)?, change.strength))).collect()
}

/// What a module adds to the tensor of this name; none when it does not change it.
pub(crate) fn added(
    name: &str,
    stored: Stored<'_>,
    module: &Module,
    strength: f64,
) -> Result<Option<Added>, MergeError> {
    if name.ends_with(".bias") { of_bias(stored, module, strength) } else { of_weight(stored, module, strength) }
}
