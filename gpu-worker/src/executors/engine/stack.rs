//! The LoRAs of a job: read, compared with all parts of the model at once, planned. A LoRA that is not for the model ends the job
//! here, before anything is changed. What was compared before is remembered, and then nothing is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
};

use engine::lora::{AdapterSettings, BaseTensor, BlockWeights, Entry, match_base};
use model_formats::Inspection;
use residency::Lease;
use shared::{
    db::models::ComponentRow,
    ids::ComponentId,
    job::{
        Keep,
        engine::{LoraUse, Role},
    },
    wire::LoraMisfit,
};

use super::{
    super::{
        landed::Landed,
        load::watched,
        model::{self, Wanted, blocking},
        place::{self, Placed},
    },
    site::Site,
};
use crate::{
    error::WorkError,
    managers::{
        lora::{self, Applied, Matched, PartPlan, StackPlan},
        parts,
    },
    runner::{LoraSource, LoraTold},
};

/// Characters of a LoRA's hash that people write beside its name.
const HASH: usize = 12;

/// What a stack is applied to: the parts of a model, replaced ones included.
pub(super) struct Base {
    /// The model's name.
    name: String,
    /// Its family, where it is known.
    family: Option<String>,
    tensors: Arc<Vec<BaseTensor>>,
    /// Digests by kind; none while one of them is not known.
    digests: Option<Vec<(String, String)>>,
}

impl Base {
    /// Of these parts: what each is used as, its row and the headers that it is described in.
    pub(super) fn of<'r>(
        (name, family): (&str, Option<String>),
        parts: impl Iterator<Item = (&'r str, &'r ComponentRow, &'r Inspection)>,
    ) -> Self {
        let (mut tensors, mut digests) = (Vec::new(), Some(Vec::new()));
        for (kind, row, inspection) in parts.filter(|(kind, _, _)| Role::LoraBase.means(kind)) {
            tensors.extend(lora::base_tensors(row, kind, inspection));
            match (&row.digest, &mut digests) {
                (Some(digest), Some(all)) => all.push((kind.to_owned(), digest.clone())),
                _ => digests = None,
            }
        }
        Self { name: name.to_owned(), family, tensors: Arc::new(tensors), digests }
    }
}

/// A stack that may be applied.
#[derive(Debug, Default)]
pub(super) struct Stack {
    loras: Vec<Read>,
    pub(super) plan: StackPlan,
}

/// One LoRA of it.
#[derive(Debug)]
struct Read {
    wanted: Wanted,
    inspection: Inspection,
    settings: BTreeMap<String, AdapterSettings>,
    told: LoraTold,
    matched: Arc<Matched>,
    misfit: Option<LoraMisfit>,
}

impl Stack {
    /// Reads what of the LoRAs is not known and plans.
    ///
    /// # Errors
    /// A LoRA that cannot be read or is not for this base; a block that the base does not have.
    pub(super) async fn read(site: Site<'_>, uses: &[LoraUse], base: &Base) -> Result<Self, WorkError> {
        let (mut loras, mut applied) = (Vec::new(), Vec::new());
        for used in uses {
            let (read, one) = one(site, used, base).await?;
            loras.push(read);
            applied.push(one);
        }
        Ok(Self { loras, plan: lora::plan(&applied) })
    }

    /// The LoRAs with their weights.
    pub(super) fn told(&self) -> Vec<LoraTold> {
        self.loras.iter().map(|read| read.told.clone()).collect()
    }

    /// What of each does not belong to the model.
    pub(super) fn misfits(&self) -> Vec<LoraMisfit> {
        self.loras.iter().filter_map(|read| read.misfit.clone()).collect()
    }

    /// Brings these of its LoRAs onto the device.
    pub(super) async fn place(&self, site: Site<'_>, which: &BTreeSet<usize>) -> Result<OnDevice, WorkError> {
        let mut there = OnDevice::default();
        for (at, read) in self.loras.iter().enumerate().filter(|(at, _)| which.contains(at)) {
            let what = (&read.wanted, &read.inspection);
            let placed = place::ensure(site.agent, site.attempt, site.device, what, Keep::default()).await?;
            let row = read.wanted.components.first();
            if let Some(component) = row.and_then(|row| placed.held(site.agent, row.id)) {
                there.sources.insert(at, LoraSource { component, settings: read.settings.clone() });
            }
            there.placed.push(placed);
        }
        Ok(there)
    }

    /// Seconds that computing these changes would take on the host's processors: each LoRA's own estimate, by its share of
    /// changes that are in the plan.
    pub(super) fn estimated_seconds(&self, plan: &PartPlan) -> f64 {
        let terms = |place: usize| {
            plan.changes.iter().flat_map(|change| &change.terms).filter(|term| term.lora == place).count()
        };
        let share = |(place, read): (usize, &Read)| {
            let touches = read.matched.touches.len().max(1);
            read.matched.estimated_seconds * terms(place) as f64 / touches as f64
        };
        self.loras.iter().enumerate().map(share).sum()
    }

    /// Those at these places: name, component and headers.
    pub(super) fn rows(&self, which: &BTreeSet<usize>) -> Vec<(&str, &ComponentRow, &Inspection)> {
        let of = which.iter().filter_map(|at| self.loras.get(*at));
        of.filter_map(|read| Some((read.told.name.as_str(), read.wanted.components.first()?, &read.inspection)))
            .collect()
    }
}

/// LoRAs that stay on the device while this lives.
#[derive(Debug, Default)]
pub(super) struct OnDevice {
    sources: BTreeMap<usize, LoraSource>,
    placed: Vec<Placed>,
}

impl OnDevice {
    /// The sources at these places of the stack.
    pub(super) fn sources(&self, places: &[usize]) -> Vec<LoraSource> {
        places.iter().filter_map(|place| self.sources.get(place).cloned()).collect()
    }

    /// Bytes that were copied to the device for this.
    pub(super) fn copied_bytes(&self) -> u64 {
        self.placed.iter().map(Placed::copied_bytes).sum()
    }

    /// What loads computed, for the catalogue.
    pub(super) fn digests(&self) -> Vec<(ComponentId, String)> {
        self.placed.iter().flat_map(Placed::digests).collect()
    }
}

async fn one(site: Site<'_>, used: &LoraUse, base: &Base) -> Result<(Read, Applied), WorkError> {
    let Site { agent, attempt, .. } = site;
    let wanted = model::wanted(agent, used.lora, Some(&vec!["lora".to_owned()])).await?;
    let name = wanted.model.name.clone();
    let unknown = |unknown: lora::UnknownBlock| WorkError::UnknownBlock {
        lora: name.clone(),
        block: unknown.block,
        nearest: unknown.nearest,
    };
    lora::check_blocks(used.blocks.keys(), &base.tensors).map_err(unknown)?;
    let inspection = model::inspect(agent, attempt, &wanted).await?;
    let headers = inspection.clone();
    let settings = blocking("reading the adapter's settings", move || lora::settings(&headers)).await?;
    let settings = settings.map_err(|source| WorkError::LoraSettings { lora: name.clone(), source })?.of;
    let (identity, matched) = matched(site, (&wanted, &inspection, &settings), base).await?;
    let family = parts::base(&wanted.model, &inspection);
    let families = lora::other_family(family.as_deref(), base.family.as_deref());
    if let Some(reason) = lora::refusal(matched.refusal.clone(), families.as_ref()) {
        return Err(WorkError::LoraRefused { lora: name, base: base.name.clone(), reason });
    }
    let told = told(&wanted, used);
    let entry = Entry {
        digest: identity,
        weight: used.weight,
        text_encoder_weight: used.text_encoder_weight,
        blocks: BlockWeights(used.blocks.clone()),
    };
    let misfit = lora::misfit(&name, &matched.unused);
    let read = Read { wanted, inspection, settings, told, matched: matched.clone(), misfit };
    Ok((read, Applied { name, entry, matched }))
}

/// What the LoRA is known by and what it does to the base; from memory where both are known, else it is read.
async fn matched(
    site: Site<'_>,
    (wanted, inspection, settings): (&Wanted, &Inspection, &BTreeMap<String, AdapterSettings>),
    base: &Base,
) -> Result<(String, Arc<Matched>), WorkError> {
    let known = wanted.components.first().and_then(|row| row.digest.as_deref());
    if let (Some(digest), Some(parts)) = (known, &base.digests) {
        let identity = lora::identity(digest, settings);
        if let Some(matched) = site.agent.loras.get(&identity, parts) {
            return Ok((identity, matched));
        }
    }
    let lease = in_ram(site, wanted, inspection).await?;
    let identity = lora::identity(&lease.digest().to_string(), settings);
    site.attempt.progress.enter("matching", 0);
    let (name, settings, tensors) = (wanted.model.name.clone(), settings.clone(), base.tensors.clone());
    let work = move || compare(&name, &lease, &settings, &tensors);
    let matched = Arc::new(blocking("matching a LoRA", work).await??);
    if let Some(parts) = &base.digests {
        site.agent.loras.put(identity.clone(), parts.clone(), matched.clone());
    }
    Ok((identity, matched))
}

async fn in_ram(site: Site<'_>, wanted: &Wanted, inspection: &Inspection) -> Result<Lease, WorkError> {
    let Site { agent, attempt, .. } = site;
    let missing = || WorkError::NothingToLoad { model: wanted.model.name.clone(), reason: None };
    let row = wanted.components.first().ok_or_else(missing)?;
    attempt.progress.enter("reading", wanted.bytes());
    let landed = Landed::new(wanted.bytes());
    let request = model::request(agent, attempt, row, inspection)?;
    let (lease, _) = watched(attempt, model::acquire(agent, attempt, request, &landed), || landed.bytes()).await?;
    Ok(lease)
}

fn compare(
    name: &str,
    lease: &Lease,
    settings: &BTreeMap<String, AdapterSettings>,
    base: &[BaseTensor],
) -> Result<Matched, WorkError> {
    let map =
        lease.map().map_err(|source| WorkError::System { what: "mapping the LoRA's memory".to_owned(), source })?;
    let read = lora::read(lease, &map, settings).map_err(|source| WorkError::Lora { lora: name.to_owned(), source })?;
    let report = match_base(&read, base);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Ok(Matched::of(&read, &report, base, threads))
}

fn told(wanted: &Wanted, used: &LoraUse) -> LoraTold {
    let hash = wanted.model.payload_sha256.iter().flat_map(|hash| hash.chars()).take(HASH).collect();
    LoraTold {
        name: wanted.model.name.clone(),
        hash,
        weight: used.weight,
        text_encoder_weight: used.text_encoder_weight,
        blocks: used.blocks.clone(),
    }
}
