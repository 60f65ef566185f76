//! Variants on the device: reserved, handed to a merge, and registered once all their tensors are made.

use std::{sync::Arc, time::Instant};

use chrono::Utc;
use engine::SlabId;
use shared::{
    error::{ErrorBody, ErrorCode},
    ids::ComponentId,
};

use super::{
    Applied, ApplyOrder, DeviceResident, DeviceTensor, VariantFacts,
    copies::{Copies, Copy, CopyError},
    merge::{Lora, Merge, Merged},
    plan::Origins,
    protocol::Failure,
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
    slab: SlabId,
    tensors: Vec<DeviceTensor>,
    shown: DeviceResident,
    origins: Origins,
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
        let mut loras = Vec::with_capacity(order.loras.len());
        for source in &order.loras {
            let (view, tensors) = (self.view(source.component)?, self.copy(source.component)?.tensors.clone());
            loras.push(Lora { view, tensors, settings: Arc::new(source.settings.clone()) });
        }
        let earlier = plan.earlier.map(|earlier| self.view(earlier)).transpose()?;
        let base_digest = self.copy(order.base)?.shown.digest.clone();
        let (slab, base) = if order.in_place {
            self.free_of_leases(order.base)?;
            (self.copy(order.base)?.slab, None)
        } else {
            let base = self.view(order.base)?;
            let slab = self.reserve(plan.bytes).map_err(|error| self.with_would_free(error))?;
            (slab, Some(base))
        };
        let writer = match self.device.writer(slab) {
            Ok(writer) => writer,
            // the base's own copy stays as it is
            Err(error) if order.in_place => return Err(error.into()),
            Err(error) => return Err(self.given_up(slab, error.into())),
        };
        if order.in_place {
            self.copies.remove(&order.base);
        }
        let bytes = self.device.slab_bytes(slab)?;
        let variant = Some(VariantFacts { base: order.base, base_digest, whole: order.in_place });
        let shown = DeviceResident::new(order.variant, order.key.clone(), bytes, variant);
        let taken_over = plan.tensors.iter().filter(|tensor| tensor.is_taken_over()).count();
        let computed = plan.tensors.len() - taken_over;
        let pending = Pending { slab, tensors: plan.layout, shown, origins: plan.origins, began, computed, taken_over };
        let merge = Merge { writer, base, earlier, loras, tensors: plan.tensors };
        Ok(Begun::Merge(Box::new(merge), Box::new(pending)))
    }

    /// The variant, where it is there already.
    fn there(&mut self, order: &ApplyOrder) -> Result<Option<Applied>, CopyError> {
        let Some(copy) = self.copies.get_mut(&order.variant) else { return Ok(None) };
        if copy.shown.digest != order.key {
            let message = format!("{} is on the device with other content", order.variant);
            return Err(refused(ErrorCode::Conflict, message));
        }
        copy.used();
        let bytes = copy.shown.bytes;
        Ok(Some(Applied { bytes, seconds: 0.0, computed: 0, taken_over: 0, already: true }))
    }

    /// What is held under this id.
    pub(super) fn copy(&self, component: ComponentId) -> Result<&Copy, CopyError> {
        self.copies.get(&component).ok_or(CopyError::Failed(Failure::NotResident { component }))
    }

    /// Registers what a merge made, or frees it.
    pub(super) fn finish(&mut self, pending: Pending, merged: Merged) -> Result<Applied, CopyError> {
        let Pending { slab, tensors, mut shown, origins, began, computed, taken_over } = pending;
        if let Err(error) = merged {
            return Err(self.given_up(slab, error));
        }
        let (component, bytes) = (shown.component, shown.bytes);
        if self.copies.contains_key(&component) {
            let error = refused(ErrorCode::Conflict, format!("{component} was put on the device meanwhile"));
            return Err(self.given_up(slab, error));
        }
        (shown.since, shown.last_used) = (Utc::now(), Utc::now());
        self.copies.insert(component, Copy::variant(slab, tensors, shown, origins));
        Ok(Applied { bytes, seconds: began.elapsed().as_secs_f64(), computed, taken_over, already: false })
    }
}

impl Copies {
    /// Frees the slab of what was not made, for this reason. Only a lost device is a greater one.
    fn given_up(&mut self, slab: SlabId, reason: CopyError) -> CopyError {
        match self.device.free(slab).map_err(CopyError::from) {
            Err(lost @ CopyError::Sticky(_)) => lost,
            Err(error) => {
                tracing::error!(?slab, ?error, "the slab of a variant that was not made cannot be freed");
                reason
            }
            Ok(_) => reason,
        }
    }
}

/// An order that is not carried out.
pub(super) fn refused(code: ErrorCode, message: String) -> CopyError {
    CopyError::Failed(Failure::Work { error: ErrorBody::new(code, message) })
}
