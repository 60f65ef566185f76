//! Variants on the device: reserved, handed to a merge, and registered once all their tensors are made.

use std::{sync::Arc, time::Instant};

use chrono::Utc;
use engine::{SlabId, SlabWriter};
use shared::{
    error::{ErrorBody, ErrorCode},
    ids::ComponentId,
};

use super::{
    Applied, ApplyOrder, DeviceResident, VariantFacts,
    copies::{Copies, Copy, CopyError},
    merge::{Lora, Merge, Merged},
    plan::PlannedSheet,
    protocol::Failure,
    sheets::Sheet,
};

/// What became of an order.
pub(super) enum Begun {
    /// It is to be carried out, on a thread of its own.
    Merge(Box<Merge>, Box<Pending>),
    /// It is there already.
    There(Applied),
}

/// What is known of a variant before it is there.
#[derive(Debug)]
pub(super) struct Pending {
    /// Sheets of other variants, which it keeps from being freed.
    shared: Vec<Arc<Sheet>>,
    made: Vec<Sheet>,
    shown: DeviceResident,
    began: Instant,
    computed: usize,
    taken_over: usize,
}

impl Copies {
    /// Reserves what a variant takes, and says what is to be done for it. Where the base's own copy is to be changed it is no more
    /// on the device from here on.
    pub(super) fn begin(&mut self, order: &ApplyOrder) -> Result<Begun, CopyError> {
        if let Some(there) = self.there(order)? {
            return Ok(Begun::There(there));
        }
        let began = Instant::now();
        let plan = self.plan(order)?;
        let (computed, taken_over) = plan.counts();
        let mut loras = Vec::with_capacity(order.loras.len());
        for source in &order.loras {
            loras.push(Lora { layer: self.layer(source.component)?, settings: Arc::new(source.settings.clone()) });
        }
        let earlier = plan.earlier.map(|earlier| self.layers(earlier)).transpose()?.unwrap_or_default();
        let base_digest = self.copy(order.base)?.shown.digest.clone();
        let (slabs, base) = if order.in_place {
            (vec![self.converted(order.base)?], None)
        } else {
            let base = self.layer(order.base)?;
            let spare = self.spared(&order.replaces);
            let sizes: Vec<u64> = plan.sheets.iter().map(|sheet| sheet.bytes).collect();
            match self.reserved(&sizes, spare) {
                Ok(slabs) => (slabs, Some(base)),
                // whoever held it as well may have gone just now
                Err(error) => return Err(self.all_let_go(plan.shared, error)),
            }
        };
        let (mut made, mut sheets, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (sheet, (slab, writer)) in plan.sheets.into_iter().zip(slabs) {
            let PlannedSheet { tensors, layout, origins, .. } = sheet;
            let taken = self.device.slab_bytes(slab)?;
            bytes += taken;
            made.push(Sheet { slab, bytes: taken, tensors: layout.into(), origins });
            sheets.push((writer, tensors));
        }
        let variant = Some(VariantFacts { base: order.base, base_digest, whole: order.in_place });
        let shown = DeviceResident::new(order.variant, order.key.clone(), bytes, variant);
        let pending = Pending { shared: plan.shared, made, shown, began, computed, taken_over };
        // what it shares does not come back any more when its other holders go
        self.recount();
        let there = pending.shared.iter().flat_map(|sheet| sheet.tensors.iter()).map(|tensor| tensor.len).sum();
        Ok(Begun::Merge(Box::new(Merge { sheets, base, earlier, loras, there }), Box::new(pending)))
    }

    /// The base's own copy, to be changed: no more on the device from here on. On an error it stays as it is.
    fn converted(&mut self, base: ComponentId) -> Result<(SlabId, SlabWriter), CopyError> {
        self.free_of_leases(base)?;
        let slab = self.single(base)?.slab;
        let writer = self.device.writer(slab)?;
        self.copies.remove(&base);
        Ok((slab, writer))
    }

    /// The variant, where it is there already.
    fn there(&mut self, order: &ApplyOrder) -> Result<Option<Applied>, CopyError> {
        let Some(copy) = self.copies.get_mut(&order.variant) else { return Ok(None) };
        if copy.shown.digest != order.key {
            let message = format!("{} is on the device with other content", order.variant);
            return Err(refused(ErrorCode::Conflict, message));
        }
        copy.used();
        Ok(Some(Applied { bytes: 0, seconds: 0.0, computed: 0, taken_over: 0, already: true, sheets: Vec::new() }))
    }

    /// Registers what a merge made, or frees it.
    pub(super) fn finish(&mut self, pending: Pending, merged: Merged) -> Result<Applied, CopyError> {
        let Pending { shared, made, mut shown, began, computed, taken_over } = pending;
        let component = shown.component;
        let met = || refused(ErrorCode::Conflict, format!("{component} was put on the device meanwhile"));
        if let Err(mut error) =
            merged.and_then(|()| if self.copies.contains_key(&component) { Err(met()) } else { Ok(()) })
        {
            for sheet in made {
                error = self.given_up(sheet.slab, error);
            }
            return Err(self.all_let_go(shared, error));
        }
        (shown.since, shown.last_used) = (Utc::now(), Utc::now());
        let bytes = made.iter().map(|sheet| sheet.bytes).sum();
        let sheets: Vec<Arc<Sheet>> = shared.into_iter().chain(made.into_iter().map(Arc::new)).collect();
        let together = sheets.iter().map(|sheet| sheet.origins.keys().cloned().collect()).collect();
        self.copies.insert(component, Copy::of(sheets, shown));
        self.recount();
        let seconds = began.elapsed().as_secs_f64();
        Ok(Applied { bytes, seconds, computed, taken_over, already: false, sheets: together })
    }

    /// Lets go of sheets whose variants may have left meanwhile, for this reason.
    fn all_let_go(&mut self, sheets: Vec<Arc<Sheet>>, mut reason: CopyError) -> CopyError {
        for sheet in sheets {
            if let Err(lost @ CopyError::Sticky(_)) = self.let_go(sheet).map_err(CopyError::from) {
                reason = lost;
            }
        }
        self.recount();
        reason
    }
}

impl Copies {
    /// Frees the slab of what was not made, for this reason. Only a lost device is a greater one.
    pub(super) fn given_up(&mut self, slab: SlabId, reason: CopyError) -> CopyError {
        match self.free(slab).map_err(CopyError::from) {
            Err(lost @ CopyError::Sticky(_)) => lost,
            Err(_) | Ok(_) => reason,
        }
    }
}

/// An order that is not carried out.
pub(super) fn refused(code: ErrorCode, message: String) -> CopyError {
    CopyError::Failed(Failure::Work { error: ErrorBody::new(code, message) })
}
