//! All that takes part in a run: a model, the VAE and the text encoders that stand in for its own, the LoRAs over them. Nothing
//! of a base is changed: a run binds each part with the variant that lies over it, and without it the part is what it was.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use shared::{
    db::models::ComponentRow,
    ids::{ComponentId, ModelId},
    job::engine::Role,
    wire::LoraMisfit,
};

use super::{
    draft::{Draft, Extras},
    run::Took,
    site::Site,
    stack::{OnDevice, Stack},
    subject::Subject,
};
use crate::{
    context::Agent,
    error::WorkError,
    managers::{
        lora::Idle,
        tokenizer,
        variants::{self, Made},
    },
    runner::{EncoderFacts, LoraTold, PartFacts, RunPart},
};

/// Everything on the device, in use while this lives.
#[derive(Debug)]
pub(in crate::executors) struct Ensemble {
    base: Subject,
    vae: Option<Subject>,
    encoders: BTreeMap<String, Subject>,
    /// Variants by the kind that they lie over.
    made: BTreeMap<String, Made>,
    loras: Vec<LoraTold>,
    idle: Vec<Idle>,
    misfits: Vec<LoraMisfit>,
    /// What loads of LoRAs computed.
    lora_digests: Vec<(ComponentId, String)>,
    /// Bytes of LoRAs that were copied to the device.
    lora_bytes: u64,
}

impl Ensemble {
    /// Parts that are on the device, with nothing over them yet.
    pub(super) fn of(
        (base, vae, encoders): (Subject, Option<Subject>, BTreeMap<String, Subject>),
        stack: &Stack,
    ) -> Self {
        Self {
            base,
            vae,
            encoders,
            made: BTreeMap::new(),
            loras: stack.told(),
            idle: stack.plan.idle.clone(),
            misfits: stack.misfits(),
            lora_digests: Vec::new(),
            lora_bytes: 0,
        }
    }

    /// The same with the stack over them; `made` is there already.
    pub(super) async fn with(
        mut self,
        site: Site<'_>,
        stack: &Stack,
        mut made: BTreeMap<String, Made>,
    ) -> Result<Self, WorkError> {
        (self.lora_digests, self.lora_bytes) = self.apply(site, stack, &mut made).await?;
        self.made = made;
        Ok(self)
    }

    /// What takes part in a role, on the device.
    ///
    /// # Errors
    /// See [`Draft::of`] and [`Draft::realise`].
    pub(in crate::executors) async fn ensure(
        site: Site<'_>,
        model: ModelId,
        role: Role,
        extras: Extras<'_>,
    ) -> Result<Self, WorkError> {
        Draft::of(site, model, role, extras).await?.realise(site).await
    }

    /// Makes the variants that are not among `made`. LoRAs come onto the device only when something has to be computed, and may
    /// be evicted afterwards.
    async fn apply(
        &self,
        site: Site<'_>,
        stack: &Stack,
        made: &mut BTreeMap<String, Made>,
    ) -> Result<(Vec<(ComponentId, String)>, u64), WorkError> {
        let told: Vec<String> = self.loras.iter().map(ToString::to_string).collect();
        let (mut digests, mut bytes) = (Vec::new(), 0);
        for (kind, plan) in &stack.plan.parts {
            // a part that the role does not run, or that is there already
            if made.contains_key(kind) || self.part_of(kind).is_none() {
                continue;
            }
            let base = self.held(site, kind).ok_or_else(|| variants::gone(site.device, kind))?;
            let wanted = variants::Wanted { kind, base: &base, plan, told: &told };
            let found = match variants::find(site.agent, (site.device, site.attempt), &wanted) {
                Some(found) => found,
                None => {
                    let there: OnDevice = stack.place(site, &plan.loras()).await?;
                    let (places, changes) = plan.compact();
                    let recipe = variants::Recipe { loras: there.sources(&places), changes };
                    digests.extend(there.digests());
                    bytes += there.copied_bytes();
                    variants::ensure(site.agent, (site.device, site.attempt), &wanted, &recipe).await?
                }
            };
            made.insert(kind.clone(), found);
        }
        Ok((digests, bytes))
    }

    /// The copy on the device of the part that is used as this.
    fn held(&self, site: Site<'_>, kind: &str) -> Option<crate::runner::DeviceResident> {
        let (subject, row) = self.part_of(kind)?;
        let held = subject.held(site.agent, row.id)?;
        site.device.resident().into_iter().find(|copy| copy.component == held)
    }

    /// The subject and row of the part that is used as this kind.
    fn part_of(&self, kind: &str) -> Option<(&Subject, &ComponentRow)> {
        let own = |subject: &'_ Subject| subject.rows().iter().position(|row| row.kind == kind);
        if let Some(encoder) = self.encoders.get(kind) {
            return Some((encoder, encoder.rows().first()?));
        }
        let from_vae = self.vae.as_ref().filter(|vae| own(vae).is_some());
        let subject = from_vae.unwrap_or(&self.base);
        Some((subject, subject.rows().get(own(subject)?)?))
    }

    /// What each part is used as, in order.
    pub(in crate::executors) fn kinds(&self) -> Vec<String> {
        let own = self.base.rows().iter().map(|row| row.kind.clone());
        let vae = self.vae.iter().flat_map(|vae| vae.rows().iter().map(|row| row.kind.clone()));
        own.chain(self.encoders.keys().cloned()).chain(vae).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What is known of each part.
    pub(in crate::executors) fn parts(&self) -> Vec<PartFacts> {
        self.kinds().iter().filter_map(|kind| self.part(kind)).collect()
    }

    /// What is known of the part that is used as this kind; none when there is none.
    pub(super) fn part(&self, kind: &str) -> Option<PartFacts> {
        let (subject, row) = self.part_of(kind)?;
        let own = subject.part_as(&row.kind, kind);
        // an encoder that stands in serves the family of the model that it stands in
        let family = || self.encoders.contains_key(kind).then(|| self.base.family()).flatten();
        Some(PartFacts { base: family().or(own.base), ..own })
    }

    /// What is known of the first part of these kinds.
    pub(super) fn first_part(&self, kinds: &[&str]) -> Result<PartFacts, WorkError> {
        let found = kinds.iter().find_map(|kind| self.part(kind));
        found.ok_or_else(|| WorkError::NoPart { model: self.base.name().to_owned(), part: "such component" })
    }

    /// The text encoders in order, each with its tokenizer.
    pub(super) fn encoders(&self) -> Vec<EncoderFacts> {
        let encoder = |kind| {
            let part = self.part(kind)?;
            let (subject, _) = self.part_of(kind)?;
            let tokenizer = tokenizer::find(subject.inspection(), kind, part.base.as_deref());
            Some(EncoderFacts { part, tokenizer })
        };
        ["text_encoder", "text_encoder_2", "text_encoder_3"].into_iter().filter_map(encoder).collect()
    }

    /// All parts as the runner finds them, each with what lies over it.
    pub(in crate::executors) fn run_parts(&self, agent: &Agent) -> Vec<RunPart> {
        let part = |kind: &String| {
            let over = self.made.get(kind).map(|made| &made.variant);
            if let Some(whole) = over.filter(|variant| variant.is_whole) {
                return Some(RunPart { slot: kind.clone(), component: whole.id, overlay: None });
            }
            let (subject, row) = self.part_of(kind)?;
            let component = subject.held(agent, row.id)?;
            Some(RunPart { slot: kind.clone(), component, overlay: over.map(|variant| variant.id) })
        };
        self.kinds().iter().filter_map(part).collect()
    }

    /// The model that all else stands in or lies over.
    pub(in crate::executors) fn base(&self) -> &Subject {
        &self.base
    }

    /// The models that take part, beside LoRAs.
    pub(in crate::executors) fn subjects(&self) -> impl Iterator<Item = &Subject> {
        [&self.base].into_iter().chain(&self.vae).chain(self.encoders.values())
    }

    /// Variants by the kind that they lie over.
    pub(in crate::executors) fn made(&self) -> &BTreeMap<String, Made> {
        &self.made
    }

    /// Bytes that were copied to the device and changed there for this.
    pub(in crate::executors) fn moved_bytes(&self) -> u64 {
        let copied: u64 = self.subjects().map(Subject::copied_bytes).sum();
        copied + self.lora_bytes + self.made.values().map(|made| made.changed_bytes).sum::<u64>()
    }

    /// The LoRAs with their weights.
    pub(in crate::executors) fn loras(&self) -> &[LoraTold] {
        &self.loras
    }

    /// What loads computed, for the catalogue; a component that two models share is there once.
    pub(in crate::executors) fn digests(&self) -> Vec<(ComponentId, String)> {
        let all = self.subjects().flat_map(Subject::digests).chain(self.lora_digests.iter().cloned());
        all.collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    /// What took part, for the job's end.
    pub(super) fn took(&self) -> Took {
        Took { view: self.view(), digests: self.digests() }
    }

    /// The same for the job's result.
    pub(in crate::executors) fn view(&self) -> serde_json::Map<String, Value> {
        let mut view = serde_json::Map::new();
        view.insert("components".to_owned(), self.subjects().flat_map(Subject::view).collect());
        view.insert("model".to_owned(), self.base.name().into());
        if let Some(vae) = &self.vae {
            view.insert("vae".to_owned(), vae.name().into());
        }
        if !self.encoders.is_empty() {
            let names = self.encoders.iter().map(|(kind, subject)| (kind.clone(), Value::from(subject.name())));
            view.insert("text_encoders".to_owned(), Value::Object(names.collect()));
        }
        if !self.loras.is_empty() {
            view.insert("loras".to_owned(), json!(self.loras));
            view.insert("variants".to_owned(), self.made.iter().map(|(kind, made)| made.view(kind)).collect());
        }
        if !self.idle.is_empty() {
            let idle: Vec<_> = self.idle.iter().map(Idle::view).collect();
            view.insert("loras_without_effect".to_owned(), json!(idle));
        }
        if !self.misfits.is_empty() {
            view.insert("lora_misfits".to_owned(), json!(self.misfits));
        }
        view
    }
}
