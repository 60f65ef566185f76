//! What an order for a variant comes to: which tensors are computed, which are taken over, and where each goes.

use std::{collections::BTreeMap, sync::Arc};

use engine::{
    ALIGN, ElementType, SlabView,
    lora::{AdapterSettings, Change, LoraIndex, Made, Place, VariantTensor},
};
use shared::{error::ErrorCode, ids::ComponentId};

use super::{
    ApplyOrder, DeviceTensor, TensorChange, Term,
    copies::{Copies, CopyError},
    variants::refused,
};

/// What a tensor of a variant was made of: equal for equal bytes over one base.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Origin(Vec<OriginTerm>);

/// The origins of a variant's tensors by name.
pub(super) type Origins = BTreeMap<String, Origin>;

#[derive(Debug, Clone, PartialEq)]
struct OriginTerm {
    lora: String,
    settings: Arc<BTreeMap<String, AdapterSettings>>,
    stem: String,
    strength: f64,
}

/// A tensor and what it is made of.
pub(super) struct Planned {
    name: String,
    element: ElementType,
    shape: Vec<usize>,
    to: u64,
    len: u64,
    from: From,
}

pub(super) enum From {
    /// The earlier variant, at this byte.
    Earlier(u64),
    /// The base at this byte, and the changes.
    Base(u64, TensorChange),
}

/// What is to be done, and where the tensors of the variant lie.
pub(super) struct Plan {
    pub(super) tensors: Vec<Planned>,
    /// The tensors of the variant.
    pub(super) layout: Vec<DeviceTensor>,
    pub(super) origins: Origins,
    /// The earlier variant, where something of it is taken over.
    pub(super) earlier: Option<ComponentId>,
    /// Bytes of a slab of its own.
    pub(super) bytes: u64,
}

impl Copies {
    /// Compares an order with what is on the device; changes nothing.
    pub(super) fn plan(&self, order: &ApplyOrder) -> Result<Plan, CopyError> {
        let base = self.copy(order.base)?;
        if base.shown.variant.is_some() {
            let message = format!("{} is a variant itself: LoRAs are applied to what is loaded", order.base);
            return Err(refused(ErrorCode::Conflict, message));
        }
        let sources = order
            .loras
            .iter()
            .map(|source| Ok((self.copy(source.component)?.shown.digest.as_str(), Arc::new(source.settings.clone()))));
        let sources: Vec<_> = sources.collect::<Result<_, CopyError>>()?;
        let earlier = order.reuse.filter(|earlier| *earlier != order.base).and_then(|earlier| {
            let copy = self.copies.get(&earlier)?;
            let facts = copy.shown.variant.as_ref()?;
            (facts.base_digest == base.shown.digest).then_some((earlier, copy))
        });
        let there: BTreeMap<&str, &DeviceTensor> =
            base.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut plan = Plan {
            tensors: Vec::with_capacity(order.changes.len()),
            layout: if order.in_place { base.tensors.clone() } else { Vec::with_capacity(order.changes.len()) },
            origins: BTreeMap::new(),
            earlier: None,
            bytes: 0,
        };
        for change in &order.changes {
            let missing = || refused(ErrorCode::InvalidArgument, format!("the base has no tensor `{}`", change.tensor));
            let tensor = there.get(change.tensor.as_str()).ok_or_else(missing)?;
            let origin = origin(change, &sources)?;
            let taken = earlier.filter(|(_, copy)| copy.origins.get(&change.tensor) == Some(&origin));
            plan.earlier = plan.earlier.or(taken.map(|(earlier, _)| earlier));
            let from = match taken.and_then(|(_, copy)| copy.tensors.iter().find(|there| there.name == tensor.name)) {
                Some(there) => From::Earlier(there.offset),
                None => From::Base(tensor.offset, change.clone()),
            };
            plan.add(tensor, from, order.in_place)?;
            if plan.origins.insert(change.tensor.clone(), origin).is_some() {
                return Err(refused(ErrorCode::InvalidArgument, format!("`{}` is changed twice", change.tensor)));
            }
        }
        Ok(plan)
    }
}

impl Plan {
    fn add(&mut self, tensor: &DeviceTensor, from: From, in_place: bool) -> Result<(), CopyError> {
        let no_type = || {
            let message = format!("`{}` is stored as {}, which cannot be changed", tensor.name, tensor.dtype);
            refused(ErrorCode::Unsupported, message)
        };
        let element = ElementType::parse(&tensor.dtype).ok_or_else(no_type)?;
        let to = if in_place { tensor.offset } else { self.bytes.next_multiple_of(ALIGN) };
        let shape = tensor.shape.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect();
        self.tensors.push(Planned { name: tensor.name.clone(), element, shape, to, len: tensor.len, from });
        if !in_place {
            self.bytes = to.saturating_add(tensor.len);
            self.layout.push(DeviceTensor { offset: to, ..tensor.clone() });
        }
        Ok(())
    }
}

type Source<'a> = (&'a str, Arc<BTreeMap<String, AdapterSettings>>);

fn origin(change: &TensorChange, sources: &[Source<'_>]) -> Result<Origin, CopyError> {
    let term = |term: &Term| {
        let missing = || refused(ErrorCode::InvalidArgument, format!("the order has no LoRA {}", term.lora));
        let (digest, settings) = sources.get(term.lora).ok_or_else(missing)?;
        let (lora, settings) = ((*digest).to_owned(), settings.clone());
        Ok(OriginTerm { lora, settings, stem: term.stem.clone(), strength: term.strength })
    };
    change.terms.iter().map(term).collect::<Result<_, _>>().map(Origin)
}

impl Planned {
    pub(super) fn is_taken_over(&self) -> bool {
        matches!(self.from, From::Earlier(_))
    }

    /// As the engine takes it.
    pub(super) fn made<'a>(
        &'a self,
        base: Option<&'a SlabView>,
        earlier: Option<&'a SlabView>,
        loras: &'a [LoraIndex<'a>],
    ) -> VariantTensor<'a> {
        let at = |view: Option<&'a SlabView>, offset| view.map_or(Place::Here, |view| Place::Slab(view, offset));
        let made = match &self.from {
            From::Earlier(offset) => Made::Taken(at(earlier, *offset)),
            From::Base(offset, change) => {
                let terms = change.terms.iter().filter_map(|term| {
                    Some(Change { lora: loras.get(term.lora)?, stem: &term.stem, strength: term.strength })
                });
                Made::Changed(at(base, *offset), terms.collect())
            }
        };
        let to = self.to..self.to.saturating_add(self.len);
        VariantTensor { name: &self.name, element: self.element, shape: &self.shape, to, made }
    }
}
