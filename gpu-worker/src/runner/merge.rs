//! A merge, away from the device's thread: the LoRAs' tensors sorted into modules, the variant's made in its slabs.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use engine::{
    Cancel, ElementType, SlabWriter,
    lora::{AdapterSettings, LoraError, LoraIndex, LoraTensor, MergeControl, MergeError, VariantError},
    merge_all,
};
use shared::error::{Classify, ErrorBody};

use super::{
    DeviceTensor,
    copies::CopyError,
    plan::Planned,
    protocol::{Failure, Step},
    sheets::Layer,
};

/// Bytes between two words about how far a merge is.
const TOLD: u64 = 16 << 20;

/// A merge, for a thread of its own: it holds all that it reads and the slabs that it writes.
pub(super) struct Merge {
    /// Slabs and what goes into each.
    pub(super) sheets: Vec<(SlabWriter, Vec<Planned>)>,
    /// None when the base's own copy is changed.
    pub(super) base: Option<Layer>,
    /// The sheets of the earlier variant.
    pub(super) earlier: Vec<Layer>,
    pub(super) loras: Vec<Lora>,
    /// Bytes of its tensors that are there already, held by other variants as well.
    pub(super) there: u64,
}

/// A LoRA's memory.
pub(super) struct Lora {
    pub(super) layer: Layer,
    pub(super) settings: Arc<BTreeMap<String, AdapterSettings>>,
}

/// How a merge ended.
pub(super) type Merged = Result<(), CopyError>;

impl Merge {
    /// Makes the tensors; nothing holds memory of the device any more on return. `tell` hears how far it is,
    /// what was there included.
    pub(super) fn run(self, threads: NonZeroUsize, cancel: &Cancel, mut tell: impl FnMut(Step) + Send) -> Merged {
        let Self { mut sheets, base, earlier, loras, there } = self;
        tell(Step::Copied(there));
        let said = Mutex::new((there, tell));
        let done = |bytes: u64| {
            let (total, tell) = &mut *said.lock().unwrap_or_else(PoisonError::into_inner);
            let before = *total / TOLD;
            *total += bytes;
            if *total / TOLD > before {
                tell(Step::Copied(*total));
            }
        };
        if sheets.is_empty() {
            return Ok(());
        }
        let memory = loras.iter().map(|lora| lora.layer.view.to_host()).collect::<Result<Vec<_>, _>>()?;
        let named = loras.iter().zip(&memory).map(|(lora, bytes)| named(lora, bytes)).collect::<Result<Vec<_>, _>>()?;
        let files: Vec<Vec<LoraTensor<'_>>> =
            named.iter().map(|tensors| tensors.iter().map(Named::tensor).collect()).collect();
        let indices = files.iter().zip(&loras).map(|(tensors, lora)| LoraIndex::read(tensors, &lora.settings));
        let indices = indices.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))?;
        let control = MergeControl { threads, done: &done, cancel };
        let slabs = sheets.iter_mut().map(|(writer, tensors)| {
            let made = tensors.iter().map(|tensor| tensor.made(base.as_ref(), &earlier, &indices));
            (writer, made.collect())
        });
        merge_all(slabs.collect(), &control).map_err(told)
    }
}

fn told(error: VariantError) -> CopyError {
    match error {
        VariantError::Device(error) => error.into(),
        VariantError::Tensor(failed) if failed.error == MergeError::Cancelled => CopyError::Failed(Failure::Cancelled),
        other => failed(&other),
    }
}

fn failed(error: &(impl Classify + 'static)) -> CopyError {
    CopyError::Failed(Failure::Work { error: ErrorBody::of(error) })
}

/// A tensor of a LoRA with its bytes.
struct Named<'a> {
    name: &'a str,
    element: ElementType,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl Named<'_> {
    fn tensor(&self) -> LoraTensor<'_> {
        LoraTensor { name: self.name, element: self.element, shape: &self.shape, bytes: self.bytes }
    }
}

fn named<'a>(lora: &'a Lora, bytes: &'a [u8]) -> Result<Vec<Named<'a>>, CopyError> {
    let tensor = |tensor: &'a DeviceTensor| {
        let wrong =
            |reason: &str| failed(&LoraError::Tensor { tensor: tensor.name.clone(), reason: reason.to_owned() });
        let element = ElementType::parse(&tensor.dtype).ok_or_else(|| wrong("its type is none of a LoRA's"))?;
        let end = tensor.offset.checked_add(tensor.len).and_then(|end| usize::try_from(end).ok());
        let begin = usize::try_from(tensor.offset).ok();
        let bytes = begin.zip(end).and_then(|(begin, end)| bytes.get(begin..end));
        let shape = tensor.shape.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect();
        Ok(Named { name: &tensor.name, element, shape, bytes: bytes.ok_or_else(|| wrong("it lies outside its slab"))? })
    };
    lora.layer.tensors.iter().map(tensor).collect()
}
