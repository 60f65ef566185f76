//! What is to take part in a run, before anything is loaded: a model's own parts, what stands in for them, and the stack over
//! them, compared with all parts of the model.

use std::collections::{BTreeMap, BTreeSet};

use model_formats::Inspection;
use shared::{
    db::models::ComponentRow,
    ids::ModelId,
    job::{
        Keep,
        engine::{LoraUse, Role, stand_in},
    },
    wire::LoraMisfit,
};

use super::{
    super::model::{self, Wanted},
    ensemble::Ensemble,
    site::Site,
    stack::{Base, Stack},
    subject::Subject,
    widths,
};
use crate::{
    device_tier::DeviceLease,
    error::WorkError,
    managers::{
        lora::{Idle, PartPlan},
        parts,
        variants::{self, Made},
    },
};

/// What stands in for parts of a model and what is applied to them.
#[derive(Debug, Clone, Copy)]
pub(in crate::executors) struct Extras<'a> {
    /// The model whose VAE decodes.
    pub(in crate::executors) vae: Option<ModelId>,
    /// Models whose text encoder stands in, by the kind that it stands in for.
    pub(in crate::executors) text_encoders: &'a BTreeMap<String, ModelId>,
    /// The stack.
    pub(in crate::executors) loras: &'a [LoraUse],
    /// What is said about keeping what is loaded.
    pub(in crate::executors) keep: Keep,
}

static NO_ENCODERS: BTreeMap<String, ModelId> = BTreeMap::new();

impl<'a> Extras<'a> {
    /// A stack alone.
    pub(in crate::executors) fn loras(loras: &'a [LoraUse]) -> Self {
        Self { vae: None, text_encoders: &NO_ENCODERS, loras, keep: Keep::default() }
    }
}

/// What takes part, before anything is loaded.
pub(in crate::executors) struct Draft {
    base: Subject,
    vae: Option<Subject>,
    encoders: BTreeMap<String, Subject>,
    stack: Stack,
    keep: Keep,
}

impl Draft {
    /// Everything that a model does in this role, with what stands in and what is applied.
    ///
    /// # Errors
    /// A part that is nowhere, encoders of other widths, a LoRA that is not for the model: nothing was changed.
    pub(in crate::executors) async fn of(
        site: Site<'_>,
        model: ModelId,
        role: Role,
        extras: Extras<'_>,
    ) -> Result<Self, WorkError> {
        site.attempt.progress.enter("locating", 0);
        let whole = model::wanted(site.agent, model, None).await?;
        let mut own = whole.clone();
        own.must_have_beside(role, extras.text_encoders)?;
        Self::of_parts(site, &whole, own, extras).await
    }

    /// The same of these components of a model.
    pub(in crate::executors) async fn of_parts(
        site: Site<'_>,
        whole: &Wanted,
        own: Wanted,
        extras: Extras<'_>,
    ) -> Result<Self, WorkError> {
        // on the heap: every executor would carry all that reading LoRAs needs
        Box::pin(Self::found(site, whole, own, extras)).await
    }

    async fn found(site: Site<'_>, whole: &Wanted, mut own: Wanted, extras: Extras<'_>) -> Result<Self, WorkError> {
        let mut encoders = BTreeMap::new();
        for (kind, model) in extras.text_encoders {
            encoders.insert(kind.clone(), stand_in_for(site, kind, *model).await?);
        }
        let vae = match extras.vae {
            Some(model) => {
                let mut wanted = model::wanted(site.agent, model, None).await?;
                wanted.must_have(Role::VaeDecoder)?;
                Some(Subject::find(site, wanted).await?)
            }
            None => None,
        };
        let inspection = model::inspect(site.agent, site.attempt, whole).await?;
        if !encoders.is_empty() {
            widths::must_fit(whole, &inspection, &encoders)?;
        }
        let stands = whole.components.iter().filter(|row| !encoders.contains_key(&row.kind));
        let own_parts = stands.map(|row| (row.kind.as_str(), row, &inspection));
        let others = encoders
            .iter()
            .filter_map(|(kind, subject)| Some((kind.as_str(), subject.rows().first()?, subject.inspection())));
        let base = Base::of((&whole.model.name, parts::base(&whole.model, &inspection)), own_parts.chain(others));
        let stack = Stack::read(site, extras.loras, &base).await?;
        let is_replaced = |kind: &str| {
            let by_vae = vae.as_ref().is_some_and(|vae| vae.rows().iter().any(|row| row.kind == kind));
            by_vae || encoders.contains_key(kind)
        };
        own.components.retain(|row| !is_replaced(&row.kind));
        Ok(Self { base: Subject::found(own, inspection), vae, encoders, stack, keep: extras.keep })
    }

    /// The parts that run: what each is used as, and its row.
    pub(in crate::executors) fn rows(&self) -> impl Iterator<Item = (&str, &ComponentRow, &Subject)> {
        let own = self.base.rows().iter().map(|row| (row.kind.as_str(), row, &self.base));
        let of = |(kind, subject)| Subject::rows(subject).iter().map(move |row| (String::as_str(kind), row, subject));
        let vae = self.vae.iter().flat_map(|vae| vae.rows().iter().map(move |row| (row.kind.as_str(), row, vae)));
        own.chain(self.encoders.iter().flat_map(of)).chain(vae)
    }

    /// The changes of the parts that run.
    pub(in crate::executors) fn changes(&self) -> Vec<(&str, &ComponentRow, &PartPlan)> {
        let parts = self.rows().filter(|(kind, _, _)| Role::LoraBase.means(kind));
        parts.filter_map(|(kind, row, _)| Some((kind, row, self.stack.plan.parts.get(kind)?))).collect()
    }

    /// LoRAs without effect.
    pub(in crate::executors) fn idle(&self) -> &[Idle] {
        &self.stack.plan.idle
    }

    /// What of the LoRAs does not belong to the model.
    pub(in crate::executors) fn misfits(&self) -> Vec<LoraMisfit> {
        self.stack.misfits()
    }

    /// The LoRAs at these places of the stack: name, component and headers.
    pub(in crate::executors) fn loras(&self, places: &BTreeSet<usize>) -> Vec<(&str, &ComponentRow, &Inspection)> {
        self.stack.rows(places)
    }

    /// Seconds that computing all of these changes would take on the host's processors.
    pub(in crate::executors) fn estimated_seconds(&self, plan: &PartPlan) -> f64 {
        self.stack.estimated_seconds(plan)
    }

    /// Converted copies that hold already what is wanted: of those parts nothing else is needed.
    fn converted(&self, site: Site<'_>) -> BTreeMap<String, Made> {
        let whole = |(kind, row, plan): (&str, &ComponentRow, &PartPlan)| {
            let key = plan.key(row.digest.as_deref()?);
            Some((kind.to_owned(), variants::lease_whole(site.agent, (site.device, site.attempt), &key)?))
        };
        self.changes().into_iter().filter_map(whole).collect()
    }

    /// Variants that are there already, in use while the answer lives.
    fn cached(&self, site: Site<'_>) -> Vec<DeviceLease> {
        let lease = |(_, row, plan): (&str, &ComponentRow, &PartPlan)| {
            variants::lease_cached(site.device, site.attempt, &plan.key(row.digest.as_deref()?))
        };
        self.changes().into_iter().filter_map(lease).collect()
    }

    /// Loads what is not there, then changes what is to be changed.
    ///
    /// # Errors
    /// What kept it from being there.
    pub(in crate::executors) async fn realise(self, site: Site<'_>) -> Result<Ensemble, WorkError> {
        // on the heap, as above: loads and merges
        Box::pin(self.realised(site)).await
    }

    async fn realised(self, site: Site<'_>) -> Result<Ensemble, WorkError> {
        let made = self.converted(site);
        // what is there is not evicted for what is loaded beside it
        let _kept = self.cached(site);
        let there: BTreeSet<&str> = made.keys().map(String::as_str).collect();
        let Self { mut base, mut vae, mut encoders, stack, keep } = self;
        base.place(site, keep, |kind| !there.contains(kind)).await?;
        for (kind, encoder) in &mut encoders {
            encoder.place(site, keep, |_| !there.contains(kind.as_str())).await?;
        }
        if let Some(vae) = &mut vae {
            vae.place(site, keep, |_| true).await?;
        }
        Ensemble::of((base, vae, encoders), &stack).with(site, &stack, made).await
    }
}

/// The text encoder of a model that stands in for the one of this kind.
async fn stand_in_for(site: Site<'_>, kind: &str, model: ModelId) -> Result<Subject, WorkError> {
    let mut wanted = model::wanted(site.agent, model, None).await?;
    let name = wanted.model.name.clone();
    let chosen = stand_in(kind, wanted.components.iter().map(|row| row.kind.as_str())).map(str::to_owned);
    let chosen = chosen.ok_or(WorkError::NoPart { model: name, part: "text encoder that can stand in" })?;
    wanted.components.retain(|row| row.kind == chosen);
    Subject::find(site, wanted).await
}
