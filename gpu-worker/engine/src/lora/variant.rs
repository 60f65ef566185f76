//! The tensors of a variant: what each is made of, and how they are made in host memory.

use std::{num::NonZeroUsize, ops::Range};

use shared::error::{Classify, ErrorCode};

use super::{
    change::{Stored, of_bias, of_weight},
    index::LoraIndex,
    parallel::{Failed, Prepare, Task, carry_out},
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

impl VariantTensor<'_> {
    /// Its bytes; none when it begins behind its end.
    pub(crate) fn length(&self) -> Option<usize> {
        self.to.end.checked_sub(self.to.start).and_then(|bytes| usize::try_from(bytes).ok())
    }

    /// The same tensor, made from what stands at this place of a buffer.
    pub(crate) fn here(self, range: Range<usize>) -> Self {
        let made = match self.made {
            Made::Taken(_) => Made::Taken(Place::Here),
            Made::Changed(_, changes) => Made::Changed(Place::Here, changes),
        };
        Self { to: range.start as u64..range.end as u64, made, ..self }
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

/// Makes the tensors of a variant in a slab of host memory.
///
/// # Errors
/// [`VariantError`]; what stands in the slab then is not to be used.
pub(crate) fn on_host(
    slab: &mut [u8],
    mut tensors: Vec<VariantTensor<'_>>,
    control: &MergeControl<'_>,
) -> Result<(), VariantError> {
    tensors.sort_by_key(|tensor| tensor.to.start);
    let (mut rest, mut at) = (slab, 0);
    let mut tasks = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let outside = || tensor.outside();
        let skip = tensor.to.start.checked_sub(at).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(outside)?;
        let (_, from_here) = rest.split_at_mut_checked(skip).ok_or_else(outside)?;
        let (to, behind) =
            tensor.length().and_then(|length| from_here.split_at_mut_checked(length)).ok_or_else(outside)?;
        (rest, at) = (behind, tensor.to.end);
        tasks.push(task(tensor, to)?);
    }
    let done = |bytes: usize| (control.done)(bytes as u64);
    Ok(carry_out(tasks, control.threads, &done, control.cancel)?)
}

fn task<'a>(tensor: VariantTensor<'a>, to: &'a mut [u8]) -> Result<Task<'a>, VariantError> {
    let VariantTensor { name, element, shape, made, .. } = tensor;
    let (place, changes) = match made {
        Made::Taken(place) => (place, None),
        Made::Changed(place, changes) => (place, Some(changes)),
    };
    let from = match place {
        Place::Here => None,
        Place::Slab(view, begin) => {
            let begin = usize::try_from(begin).ok();
            let range = begin.and_then(|begin| Some(begin..begin.checked_add(to.len())?));
            let bytes = view.as_slice().zip(range).and_then(|(bytes, range)| bytes.get(range));
            Some(bytes.ok_or_else(|| VariantError::outside(name))?)
        }
    };
    let prepare = changes.map(|changes| summands(name, changes));
    Ok(Task { name, element, shape, from, to, prepare })
}

/// Reads the modules and makes what they add to the tensor: to a bias what stands in the file for it, to a weight the rest.
fn summands<'a>(name: &'a str, changes: Vec<Change<'a>>) -> Prepare<'a> {
    let of = if name.ends_with(".bias") { of_bias } else { of_weight };
    Box::new(move |stored: Stored<'_>| {
        let active = changes.iter().filter(|change| change.strength != 0.0);
        let summand = |change: &Change<'_>| of(stored, &change.lora.module(change.stem)?, change.strength);
        active.map(summand).filter_map(Result::transpose).collect()
    })
}
