//! What a copy on the device is made of: sheets, each a slab with its tensors. A component has one. A variant has one for each
//! set of LoRAs with weights that changes tensors of it, and variants in which such a set is the same hold the same sheet.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use engine::{DeviceError, SlabId, SlabView};
use residency::policy::shared::SharedMemory;
use shared::{error::ErrorCode, ids::ComponentId};

use super::{
    DeviceTensor,
    copies::{Copies, Copy, CopyError},
    plan::{Origin, Origins},
    protocol::Failure,
    variants::refused,
};

/// A slab and its tensors; of a variant never written again once it is there.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) slab: SlabId,
    /// As the device measures them.
    pub(super) bytes: u64,
    pub(super) tensors: Arc<[DeviceTensor]>,
    /// Of a variant: what its tensors were made of.
    pub(super) origins: Origins,
}

/// A sheet's memory: it stays where it is while this lives, and so does the copy that it was asked of.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) tensors: Arc<[DeviceTensor]>,
    pub(super) view: SlabView,
    /// Counted by the copy.
    _user: Arc<()>,
}

impl Sheet {
    /// Whether it holds tensors that are wanted, each made of the same, and no others.
    fn serves(&self, wanted: &BTreeMap<&str, Origin>) -> bool {
        !self.origins.is_empty() && self.origins.iter().all(|(name, origin)| wanted.get(name.as_str()) == Some(origin))
    }
}

impl Copies {
    /// What is held under this id.
    pub(super) fn copy(&self, component: ComponentId) -> Result<&Copy, CopyError> {
        self.copies.get(&component).ok_or(CopyError::Failed(Failure::NotResident { component }))
    }

    /// The memory of a copy, sheet by sheet, which stays until whoever reads it lets go of it.
    pub(super) fn layers(&mut self, component: ComponentId) -> Result<Vec<Layer>, CopyError> {
        let copy = self.copies.get(&component).ok_or(CopyError::Failed(Failure::NotResident { component }))?;
        let (device, user) = (&mut self.device, &copy.user);
        let layer = |sheet: &Arc<Sheet>| {
            Ok(Layer { tensors: sheet.tensors.clone(), view: device.view(sheet.slab)?, _user: user.clone() })
        };
        copy.sheets.iter().map(layer).collect()
    }

    /// The memory of what has one sheet, as everything has that was loaded.
    pub(super) fn layer(&mut self, component: ComponentId) -> Result<Layer, CopyError> {
        self.single(component)?;
        let layer = self.layers(component)?.pop();
        layer.ok_or(CopyError::Failed(Failure::NotResident { component }))
    }

    /// The one sheet of a copy.
    pub(super) fn single(&self, component: ComponentId) -> Result<&Arc<Sheet>, CopyError> {
        match self.copy(component)?.sheets.as_slice() {
            [sheet] => Ok(sheet),
            sheets => {
                let message = format!("{component} lies in {} pieces, where one is needed", sheets.len());
                Err(refused(ErrorCode::Unsupported, message))
            }
        }
    }

    /// Sheets of variants over this base that hold nothing but what is wanted, no tensor twice, the largest first.
    pub(super) fn sheets_for(&self, base_digest: &str, wanted: &BTreeMap<&str, Origin>) -> Vec<Arc<Sheet>> {
        let over_it = self.copies.values().filter(|copy| {
            copy.shown.variant.as_ref().is_some_and(|facts| facts.base_digest == base_digest && !facts.whole)
        });
        let mut serving: Vec<&Arc<Sheet>> =
            over_it.flat_map(|copy| &copy.sheets).filter(|sheet| sheet.serves(wanted)).collect();
        serving.sort_by_key(|sheet| (std::cmp::Reverse(sheet.bytes), sheet.slab));
        let mut had = BTreeSet::new();
        let mut chosen = Vec::new();
        for sheet in serving {
            if sheet.origins.keys().all(|name| !had.contains(name)) {
                had.extend(sheet.origins.keys());
                chosen.push(sheet.clone());
            }
        }
        chosen
    }

    /// Lets go of a sheet that no copy has, not even this one any more: freed unless another holder is left. Bytes that came back.
    pub(super) fn let_go(&mut self, sheet: Arc<Sheet>) -> Result<u64, DeviceError> {
        Arc::into_inner(sheet).map_or(Ok(0), |sheet| self.free(sheet.slab))
    }

    /// Takes a copy off and frees the slabs that it alone holds: bytes that came back. Where a slab cannot be freed the copy is gone all
    /// the same, as what is left of it would serve runs and other variants with less than it had, and the slab is freed later.
    pub(super) fn take_off(&mut self, component: ComponentId) -> Result<u64, CopyError> {
        let copy = self.copies.remove(&component).ok_or(CopyError::Failed(Failure::NotResident { component }))?;
        let mut bytes = 0;
        for sheet in copy.sheets {
            match self.let_go(sheet) {
                Ok(freed) => bytes += freed,
                Err(lost @ DeviceError::Sticky { .. }) => return Err(lost.into()),
                Err(error) => tracing::warn!(%component, %error, "a copy has left, and not all of its memory"),
            }
        }
        self.recount();
        Ok(bytes)
    }

    /// Frees a slab that nothing has any more. One that cannot be freed is tried again, before memory is taken and whenever the device's
    /// memory is looked at.
    pub(super) fn free(&mut self, slab: SlabId) -> Result<u64, DeviceError> {
        let freed = self.device.free(slab);
        if let Err(error) = &freed
            && is_for_later(error)
        {
            tracing::error!(?slab, %error, "a slab that nothing has any more cannot be freed yet");
            self.unfreed.push(slab);
        }
        freed
    }

    /// The same for whoever goes on all the same: only that the device is lost is an error.
    pub(super) fn discard(&mut self, slab: SlabId) -> Result<(), DeviceError> {
        match self.free(slab) {
            Err(lost @ DeviceError::Sticky { .. }) => Err(lost),
            Err(_) | Ok(_) => Ok(()),
        }
    }

    /// Frees what could not be freed when its time had come; what still cannot be stays for the next time.
    pub(super) fn free_late(&mut self) -> Result<(), DeviceError> {
        for slab in std::mem::take(&mut self.unfreed) {
            match self.device.free(slab) {
                Err(lost @ DeviceError::Sticky { .. }) => return Err(lost),
                Err(error) if is_for_later(&error) => self.unfreed.push(slab),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Says of each copy how many bytes it takes: a sheet that several variants hold is counted with the one that came last, so
    /// that all together are what the device has given; and what of it comes back with which of them.
    pub(super) fn recount(&mut self) {
        let mut newest_first: Vec<&mut Copy> = self.copies.values_mut().collect();
        newest_first.sort_by_key(|copy| std::cmp::Reverse((copy.shown.since, copy.shown.component)));
        let mut counted = BTreeSet::new();
        for copy in newest_first {
            let own = copy.sheets.iter().filter(|sheet| counted.insert(sheet.slab));
            copy.shown.bytes = own.map(|sheet| sheet.bytes).sum();
            let (alone, shared): (Vec<_>, Vec<_>) = copy.sheets.iter().partition(|sheet| Arc::strong_count(sheet) == 1);
            copy.shown.alone_bytes = alone.iter().map(|sheet| sheet.bytes).sum();
            copy.shown.shared = shared.into_iter().map(held).collect();
        }
    }
}

fn is_for_later(error: &DeviceError) -> bool {
    !matches!(error, DeviceError::NoSlab(_) | DeviceError::Sticky { .. })
}

fn held(sheet: &Arc<Sheet>) -> SharedMemory {
    let holders = u32::try_from(Arc::strong_count(sheet)).unwrap_or(u32::MAX);
    SharedMemory { memory: sheet.slab.number(), bytes: sheet.bytes, holders }
}
