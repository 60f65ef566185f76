//! The agent's side of a variant: order it, hear how far it is, learn what it is.

use std::collections::BTreeMap;

use engine::lora::AdapterSettings;
use serde::{Deserialize, Serialize};
use shared::ids::ComponentId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Runner, RunnerError,
    handle::CANCEL_GRACE,
    protocol::{Command, Done, Step},
    request::Patience,
};

/// A variant to make: tensors of a base with the changes of LoRAs, as a copy of its own on the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplyOrder {
    /// Held under this id afterwards.
    pub variant: ComponentId,
    /// Equal for equal bytes; shown as the copy's digest.
    pub key: String,
    /// The base, as it is held on the device.
    pub base: ComponentId,
    /// The LoRAs that the changes name, on the device.
    pub loras: Vec<LoraSource>,
    /// The tensors that change. All others are the base's.
    pub changes: Vec<TensorChange>,
    /// An earlier variant of the same base: what is equal in it is taken over, and sheets of any other that hold the same are held
    /// by both. One that is gone is done without. Without one everything is computed.
    pub reuse: Option<ComponentId>,
    /// Variants that go for one that is made beside its base: where nobody uses them they are gone whatever becomes of it, and their
    /// memory is this one's as far as it needs it.
    pub replaces: Vec<ComponentId>,
    /// Changes the base's own copy, which nobody may use, where there is no room for another: the variant then holds every
    /// tensor, and the base is no more on the device.
    pub in_place: bool,
}

/// A LoRA on the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraSource {
    /// The LoRA, as it is held on the device.
    pub component: ComponentId,
    /// What stands beside its factors, by component of the base; under the empty name for all.
    pub settings: BTreeMap<String, AdapterSettings>,
}

/// A tensor of the base that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorChange {
    /// Its canonical name.
    pub tensor: String,
    /// The changes, in the order in which they are summed.
    pub terms: Vec<Term>,
}

/// A module's change of a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// The LoRA's place in the order's list.
    pub lora: usize,
    /// The module's name in the LoRA's file.
    pub stem: String,
    /// What the change is multiplied with, beside its own scale.
    pub strength: f64,
}

/// A variant that is on the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Bytes that it took, as the device measures them; what it holds with other variants was there.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Tensors that were computed.
    pub computed: usize,
    /// Tensors that were taken over from the earlier variant.
    pub taken_over: usize,
    /// True when it was there already.
    pub already: bool,
    /// Tensors that lie together: another variant that wants just these as they are holds their memory, too. None when it was there.
    pub sheets: Vec<Vec<String>>,
}

impl Runner {
    /// Makes a variant; `progress` hears the bytes made so far. On return the status shows it. Other commands are carried out
    /// meanwhile; what it reads cannot be unloaded. Dropping the future asks the merge to stop.
    ///
    /// # Errors
    /// [`RunnerError`]: the device then holds what it held before, but for what the order replaces; where the base's own copy was being
    /// changed, it is gone.
    /// `Work` names the tensor that cannot be made, `InUse` what in-place work has to wait for, `NotResident` what is missing.
    pub async fn apply(
        &self,
        order: ApplyOrder,
        progress: impl Fn(u64) + Send + Sync,
        cancel: &CancellationToken,
    ) -> Result<Applied, RunnerError> {
        let command = Box::new(move |call| Command::Apply { call, order: Box::new(order) });
        let told = |step| match step {
            Step::Copied(bytes) => progress(bytes),
            Step::Stopping | Step::At(_) => {}
        };
        let report = watch::channel(Step::Copied(0));
        let patience = Patience { cancel, hurry: None, grace: CANCEL_GRACE };
        match self.carried_out(command, None, report, (told, None), patience).await? {
            Done::Applied(applied) => Ok(applied),
            other => Err(self.unexpected(&other)),
        }
    }
}
