//! A stack of LoRAs that is baked in: compared with the base as a whole, planned and merged as variants on devices are.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc};

use engine::{
    ElementType,
    lora::{BaseTensor, BlockWeights, Entry, Lora, Module, Stack, match_base, merge_tensor},
};
use model_formats::{ComponentKind, Dtype, FileFacts, Inspection, convert::Change};
use residency::Lease;
use serde_json::{Value, json};
use shared::{
    job::engine::LoraUse,
    wire::{LoraMisfit, LoraWithoutEffect},
};

use super::{
    super::{lora_check, model},
    source::Source,
};
use crate::{
    context::Agent,
    error::WorkError,
    managers::{
        lora::{self, Applied, Idle, Matched, StackPlan},
        parts,
    },
    runner::Term,
    running::Attempt,
};

/// A LoRA of the stack with its factors.
struct Baked {
    applied: Applied,
    lora: Lora,
    files: Vec<FileFacts>,
    misfit: Option<LoraMisfit>,
}

/// The stack.
pub(super) struct Bake {
    stack: Vec<Baked>,
    /// By part and canonical name of the tensor, in the order of sums.
    terms: BTreeMap<(String, String), Vec<Term>>,
    /// Those that change nothing as they are used.
    idle: Vec<Idle>,
    threads: NonZeroUsize,
}

/// Reads the LoRAs and compares them with the base; none for no LoRAs. Refuses a LoRA for another base before anything is written.
pub(super) async fn read(
    agent: &Agent,
    attempt: &Attempt,
    base: &Source,
    uses: &[LoraUse],
) -> Result<Option<Arc<Bake>>, WorkError> {
    if uses.is_empty() {
        return Ok(None);
    }
    let tensors: Arc<[BaseTensor]> = lora_check::base_tensors(&base.wanted.components, &base.model.inspection).into();
    let of_base = parts::base(&base.wanted.model, &base.model.inspection);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut stack = Vec::new();
    for used in uses {
        let wanted = model::wanted(agent, used.lora, Some(&vec!["lora".to_owned()])).await?;
        let name = wanted.model.name.clone();
        lora::check_blocks(used.blocks.keys(), &tensors).map_err(|unknown| WorkError::UnknownBlock {
            lora: name.clone(),
            block: unknown.block,
            nearest: unknown.nearest,
        })?;
        let inspection = model::inspect(agent, attempt, &wanted).await?;
        let (lease, _) = lora_check::resident(agent, attempt, &wanted, &inspection).await?;
        let (family, files) = (parts::base(&wanted.model, &inspection), inspection.files.clone());
        let (against, whose) = (tensors.clone(), name.clone());
        let look = move || compared(&whose, (&lease, &inspection), &against, threads);
        let (identity, factors, matched) = model::blocking("reading a LoRA", look).await??;
        let families = lora::other_family(family.as_deref(), of_base.as_deref());
        if let Some(reason) = lora::refusal(matched.refusal.clone(), families.as_ref()) {
            return Err(WorkError::LoraRefused { lora: name, base: base.wanted.model.name.clone(), reason });
        }
        let misfit = lora::misfit(&name, &matched.unused);
        let applied = Applied { name, entry: entry(identity, used), matched: Arc::new(matched) };
        stack.push(Baked { applied, lora: factors, files, misfit });
    }
    Ok(Some(Arc::new(Bake::of(stack, threads))))
}

fn compared(
    name: &str,
    (lease, inspection): (&Lease, &Inspection),
    base: &[BaseTensor],
    threads: NonZeroUsize,
) -> Result<(String, Lora, Matched), WorkError> {
    let system = |source| WorkError::System { what: "mapping the LoRA's memory".to_owned(), source };
    let map = lease.map().map_err(system)?;
    let settings = lora::settings(inspection);
    let settings = settings.map_err(|source| WorkError::LoraSettings { lora: name.to_owned(), source })?.of;
    let identity = lora::identity(&lease.digest().to_string(), &settings);
    let read =
        lora::read(lease, &map, &settings).map_err(|source| WorkError::Lora { lora: name.to_owned(), source })?;
    let matched = Matched::of(&read, &match_base(&read, base), base, threads);
    Ok((identity, read, matched))
}

fn entry(digest: String, used: &LoraUse) -> Entry {
    Entry {
        digest,
        weight: used.weight,
        text_encoder_weight: used.text_encoder_weight,
        blocks: BlockWeights(used.blocks.clone()),
    }
}

impl Bake {
    fn of(stack: Vec<Baked>, threads: NonZeroUsize) -> Self {
        let applied: Vec<Applied> = stack.iter().map(|baked| baked.applied.clone()).collect();
        let StackPlan { parts, idle } = lora::plan(&applied);
        let terms = parts.into_iter().flat_map(|(part, plan)| {
            plan.changes.into_iter().map(move |change| ((part.clone(), change.tensor), change.terms))
        });
        Self { terms: terms.collect(), stack, idle, threads }
    }

    /// Tensors that change.
    pub(super) fn len(&self) -> usize {
        self.terms.len()
    }

    /// The files that they were read from.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileFacts> {
        self.stack.iter().flat_map(|baked| &baked.files)
    }

    /// As the writer takes it.
    pub(super) fn change(&self) -> &dyn Change {
        self
    }

    /// Equal for stacks that give the same bytes over one base.
    pub(super) fn key(&self) -> String {
        Stack(self.stack.iter().map(|baked| baked.applied.entry.clone()).collect()).key()
    }

    /// LoRAs that change nothing as they are used.
    pub(super) fn idle(&self) -> Vec<LoraWithoutEffect> {
        self.idle.iter().map(Idle::view).collect()
    }

    /// What of each LoRA does not belong to the model.
    pub(super) fn misfits(&self) -> Vec<LoraMisfit> {
        self.stack.iter().filter_map(|baked| baked.misfit.clone()).collect()
    }

    /// Those that change something: what is made is made from no others.
    fn active(&self) -> impl Iterator<Item = &Applied> {
        let is_idle = |at: usize| self.idle.iter().any(|idle| idle.place == at);
        self.stack.iter().enumerate().filter(move |(at, _)| !is_idle(*at)).map(|(_, baked)| &baked.applied)
    }

    /// Names of the LoRAs that change something.
    pub(super) fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.active().map(|applied| applied.name.clone())
    }

    /// The same with their weights, for the record.
    pub(super) fn entries(&self) -> impl Iterator<Item = Value> + '_ {
        self.active().map(|Applied { name, entry, .. }| {
            json!({
                "as": "lora", "name": name, "digest": entry.digest, "weight": entry.weight,
                "text_encoder_weight": entry.text_encoder_weight, "blocks": entry.blocks,
            })
        })
    }

    fn modules(&self, terms: &[Term]) -> Vec<(&Module, f64)> {
        let module = |term: &Term| {
            let modules = &self.stack.get(term.lora)?.lora.modules;
            Some((modules.iter().find(|module| module.stem == term.stem)?, term.strength))
        };
        terms.iter().filter_map(module).collect()
    }
}

impl Change for Bake {
    fn touches(&self, component: ComponentKind, tensor: &str) -> bool {
        self.terms.contains_key(&(component.to_string(), tensor.to_owned()))
    }

    fn apply(
        &self,
        component: ComponentKind,
        tensor: &str,
        (dtype, shape, bytes): (Dtype, &[u64], Vec<u8>),
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let Some(terms) = self.terms.get(&(component.to_string(), tensor.to_owned())) else { return Ok(bytes) };
        let element = ElementType::parse(dtype.as_str());
        let element = element.ok_or_else(|| format!("weights stored as {dtype} are not changed"))?;
        let shape = shape.iter().map(|side| usize::try_from(*side)).collect::<Result<Vec<_>, _>>()?;
        Ok(merge_tensor(tensor, (element, &shape, &bytes), &self.modules(terms), self.threads)?)
    }
}
