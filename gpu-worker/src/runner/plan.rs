//! What an order for a variant comes to: which sheets are there already, which tensors are computed, which are taken over, and
//! where each goes.

use std::{collections::BTreeMap, sync::Arc};

use engine::{
    ALIGN, ElementType,
    lora::{AdapterSettings, Change, LoraIndex, Made, Place, VariantTensor},
};
use shared::{error::ErrorCode, ids::ComponentId};

use super::{
    ApplyOrder, DeviceTensor, TensorChange, Term,
    copies::{Copies, Copy, CopyError},
    sheets::{Layer, Sheet},
    variants::refused,
};

/// Bytes of a sheet in host memory: the system lets one thread at a time write to a memory file, so a variant is made in several.
pub(super) const SHEET: u64 = 256 << 20;

/// What a tensor of a variant was made of: equal for equal bytes over one base.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Origin(Vec<OriginTerm>);

/// The origins of a sheet's tensors by name.
pub(super) type Origins = BTreeMap<String, Origin>;

#[derive(Debug, Clone, PartialEq)]
struct OriginTerm {
    lora: String,
    settings: Arc<BTreeMap<String, AdapterSettings>>,
    stem: String,
    strength: f64,
}

impl Origin {
    /// Whether the same LoRAs change it with the same weights, whatever its modules are called.
    fn is_of_the_set_of(&self, other: &Self) -> bool {
        let same = |(a, b): (&OriginTerm, &OriginTerm)| {
            a.strength.to_bits() == b.strength.to_bits()
                && a.lora == b.lora
                && (Arc::ptr_eq(&a.settings, &b.settings) || a.settings == b.settings)
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
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
    /// This sheet of the earlier variant, at this byte.
    Earlier(usize, u64),
    /// The base at this byte, and the changes.
    Base(u64, TensorChange),
}

/// What is to be done, and where the tensors of the variant lie.
pub(super) struct Plan {
    /// Sheets of other variants that hold what is wanted.
    pub(super) shared: Vec<Arc<Sheet>>,
    /// Sheets that are to be made.
    pub(super) sheets: Vec<PlannedSheet>,
    /// The earlier variant, where something of it is copied.
    pub(super) earlier: Option<ComponentId>,
    /// Bytes of a sheet that begins no other.
    limit: u64,
}

/// A sheet to be made: tensors that one set of LoRAs changes, each with one weight.
#[derive(Default)]
pub(super) struct PlannedSheet {
    pub(super) tensors: Vec<Planned>,
    /// The tensors of its slab.
    pub(super) layout: Vec<DeviceTensor>,
    pub(super) origins: Origins,
    /// Bytes of a slab of its own.
    pub(super) bytes: u64,
    /// What one of its tensors was made of.
    sample: Option<Origin>,
}

impl Copies {
    /// Compares an order with what is on the device; changes nothing.
    pub(super) fn plan(&self, order: &ApplyOrder) -> Result<Plan, CopyError> {
        let base = self.copy(order.base)?;
        if base.shown.variant.is_some() {
            let message = format!("{} is a variant itself: LoRAs are applied to what is loaded", order.base);
            return Err(refused(ErrorCode::Conflict, message));
        }
        let there: BTreeMap<&str, &DeviceTensor> =
            base.tensors().map(|(_, tensor)| (tensor.name.as_str(), tensor)).collect();
        let wanted = self.wanted(order, &there)?;
        let digest = base.shown.digest.as_str();
        let shares = order.reuse.is_some() && !order.in_place;
        let shared = if shares { self.sheets_for(digest, &wanted) } else { Vec::new() };
        let earlier = order.reuse.filter(|earlier| *earlier != order.base).and_then(|earlier| {
            let copy = self.copies.get(&earlier)?;
            let facts = copy.shown.variant.as_ref()?;
            (facts.base_digest == digest).then_some((earlier, copy))
        });
        let mut plan = Plan { shared, sheets: Vec::new(), earlier: None, limit: self.sheet_bytes };
        for change in &order.changes {
            if plan.has(&change.tensor) {
                continue;
            }
            let found = there.get(change.tensor.as_str()).zip(wanted.get(change.tensor.as_str()));
            let Some((tensor, origin)) = found else { continue };
            let taken = earlier.and_then(|(id, copy)| Some((id, taken_from(copy, &change.tensor, origin)?)));
            plan.earlier = plan.earlier.or(taken.as_ref().map(|(id, _)| *id));
            let from = taken.map_or_else(|| From::Base(tensor.offset, change.clone()), |(_, from)| from);
            plan.sheet(origin, tensor.len, order.in_place).add(tensor, origin, from, order.in_place)?;
        }
        if plan.sheets.is_empty() && plan.shared.is_empty() {
            plan.sheets.push(PlannedSheet::default());
        }
        if order.in_place {
            // the whole slab is the variant's then
            let whole = || base.tensors().map(|(_, tensor)| tensor.clone()).collect();
            plan.sheets.iter_mut().for_each(|sheet| sheet.layout = whole());
        }
        Ok(plan)
    }

    /// What each tensor that changes is to be made of.
    fn wanted<'o>(
        &self,
        order: &'o ApplyOrder,
        there: &BTreeMap<&str, &DeviceTensor>,
    ) -> Result<BTreeMap<&'o str, Origin>, CopyError> {
        let sources = order
            .loras
            .iter()
            .map(|source| Ok((self.copy(source.component)?.shown.digest.as_str(), Arc::new(source.settings.clone()))));
        let sources: Vec<_> = sources.collect::<Result<_, CopyError>>()?;
        let mut wanted = BTreeMap::new();
        for change in &order.changes {
            if !there.contains_key(change.tensor.as_str()) {
                let message = format!("the base has no tensor `{}`", change.tensor);
                return Err(refused(ErrorCode::InvalidArgument, message));
            }
            if wanted.insert(change.tensor.as_str(), origin(change, &sources)?).is_some() {
                return Err(refused(ErrorCode::InvalidArgument, format!("`{}` is changed twice", change.tensor)));
            }
        }
        Ok(wanted)
    }
}

/// Where the earlier variant has this tensor, if it is made of the same there.
fn taken_from(earlier: &Copy, tensor: &str, origin: &Origin) -> Option<From> {
    let sheet = earlier.sheets.iter().position(|sheet| sheet.origins.get(tensor) == Some(origin))?;
    let there = earlier.sheets.get(sheet)?.tensors.iter().find(|there| there.name == tensor)?;
    Some(From::Earlier(sheet, there.offset))
}

impl Plan {
    fn has(&self, tensor: &str) -> bool {
        self.shared.iter().any(|sheet| sheet.origins.contains_key(tensor))
    }

    /// The sheet that such a tensor belongs to; all to the one of the base when that is changed.
    fn sheet(&mut self, origin: &Origin, len: u64, in_place: bool) -> &mut PlannedSheet {
        let limit = self.limit;
        let is_it = |sheet: &PlannedSheet| {
            let alike = sheet.sample.as_ref().is_some_and(|sample| sample.is_of_the_set_of(origin));
            in_place || alike && sheet.bytes.saturating_add(len) <= limit
        };
        let at = self.sheets.iter().position(is_it).unwrap_or(self.sheets.len());
        if at == self.sheets.len() {
            self.sheets.push(PlannedSheet { sample: Some(origin.clone()), ..PlannedSheet::default() });
        }
        &mut self.sheets[at]
    }

    /// Tensors that are computed, and those that are taken over.
    pub(super) fn counts(&self) -> (usize, usize) {
        let planned = || self.sheets.iter().flat_map(|sheet| &sheet.tensors);
        let copied = planned().filter(|tensor| matches!(tensor.from, From::Earlier(..))).count();
        let shared: usize = self.shared.iter().map(|sheet| sheet.origins.len()).sum();
        (planned().count() - copied, copied + shared)
    }
}

impl PlannedSheet {
    fn add(&mut self, tensor: &DeviceTensor, origin: &Origin, from: From, in_place: bool) -> Result<(), CopyError> {
        let no_type = || {
            let message = format!("`{}` is stored as {}, which cannot be changed", tensor.name, tensor.dtype);
            refused(ErrorCode::Unsupported, message)
        };
        let element = ElementType::parse(&tensor.dtype).ok_or_else(no_type)?;
        let to = if in_place { tensor.offset } else { self.bytes.next_multiple_of(ALIGN) };
        let shape = tensor.shape.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect();
        self.tensors.push(Planned { name: tensor.name.clone(), element, shape, to, len: tensor.len, from });
        self.origins.insert(tensor.name.clone(), origin.clone());
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
    /// As the engine takes it.
    pub(super) fn made<'a>(
        &'a self,
        base: Option<&'a Layer>,
        earlier: &'a [Layer],
        loras: &'a [LoraIndex<'a>],
    ) -> VariantTensor<'a> {
        let at = |layer: Option<&'a Layer>, offset| layer.map_or(Place::Here, |layer| Place::Slab(&layer.view, offset));
        let made = match &self.from {
            From::Earlier(sheet, offset) => Made::Taken(at(earlier.get(*sheet), *offset)),
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
