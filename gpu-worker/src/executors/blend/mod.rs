//! `blend_loras`: a stack of LoRAs written down as one LoRA. The LoRAs are made resident in RAM for it, like any component; of a
//! base only headers are read.

mod describe;
mod report;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use engine::{
    Cancel, ElementType,
    lora::{
        AdapterSettings, BaseTensor, BlockWeights, Entry, LoraError, LoraIndex, LoraTensor,
        blend::{BlendControl, BlendError, Blended, Form, OutTensor, Size, Source, Spelling, blend},
    },
};
use model_formats::{
    Dtype, FileFacts, Inspection,
    write::{Copied, NewFile, NewTensor, Place, WriteError},
};
use residency::{Lease, arena::ReadMap};
use shared::{
    db::models::{self, ModelRow},
    ids::ModelId,
    job::engine::{BlendLorasArgs, LoraDtype, LoraSpelling, LoraUse},
    wire::BlendLorasResult,
};
use tokio_util::sync::CancellationToken;

use super::{
    Done,
    hash::pace,
    load::watched,
    lora_check::{base_tensors, resident},
    model::{blocking, inspect, wanted},
};
use crate::{
    commit::Effects,
    context::Agent,
    error::WorkError,
    managers::{lora, parts},
    running::Attempt,
};

/// A LoRA of the stack, in RAM.
struct Part {
    used: LoraUse,
    name: String,
    model: ModelRow,
    lease: Lease,
    inspection: Inspection,
}

pub(super) async fn run(agent: &Arc<Agent>, args: BlendLorasArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    attempt.progress.enter("reading headers", 0);
    let base = match args.base {
        Some(base) => Some(base_of(agent, attempt, base).await?),
        None => None,
    };
    let mut parts = Vec::new();
    for used in &args.loras {
        parts.push(part(agent, attempt, used, base.as_ref()).await?);
    }
    let (root, folder) = root_of(agent, &args).await?;
    let path = args.output.path.clone();
    // the base is read as well, and what is made for it must not take its place
    let of_base = base.iter().flat_map(|base| &base.files);
    let sources: Vec<FileFacts> =
        parts.iter().flat_map(|part| &part.inspection.files).chain(of_base).cloned().collect();
    let find = move || {
        let place = Place::open(&folder, &path)?;
        place.must_be_none_of(&sources).map(|()| place)
    };
    let place = blocking("finding the place", find).await??;
    let metadata = describe::metadata(&args, &parts, base.as_ref().map(|base| base.family.as_str()));
    let (blended, parts) = blended(attempt, &args, parts, base.map(|base| base.tensors)).await?;
    let (metadata, report) = (describe::with_ranks(metadata, &blended), report::report(&parts, &blended));
    let Copied { bytes, payload_sha256 } = write(agent, attempt, &args, (place, metadata), blended.tensors).await?;
    drop(parts);
    let result = BlendLorasResult {
        host: agent.host.clone(),
        root: root.clone(),
        path: args.output.path,
        bytes,
        payload_sha256,
        seconds: started.elapsed().as_secs_f64(),
        ..report
    };
    let result = serde_json::to_value(result).map_err(|error| WorkError::System {
        what: "writing the result down".to_owned(),
        source: std::io::Error::other(error),
    })?;
    Ok(Done { result, effects: Effects::Wrote { root } })
}

/// A base that was named.
struct Base {
    name: String,
    /// Its family as the catalogue has it.
    family: String,
    /// The same, where it is known.
    known: Option<String>,
    /// What a LoRA can change of it.
    tensors: Vec<BaseTensor>,
    files: Vec<FileFacts>,
}

async fn base_of(agent: &Arc<Agent>, attempt: &Attempt, id: ModelId) -> Result<Base, WorkError> {
    let base = wanted(agent, id, None).await?;
    let headers = inspect(agent, attempt, &base).await?;
    let (tensors, known) = (base_tensors(&base.components, &headers), parts::base(&base.model, &headers));
    Ok(Base { name: base.model.name, family: base.model.base, known, tensors, files: headers.files })
}

/// A LoRA in RAM; one that is for another family than the base is refused before that.
async fn part(agent: &Arc<Agent>, attempt: &Attempt, used: &LoraUse, base: Option<&Base>) -> Result<Part, WorkError> {
    let wanted = wanted(agent, used.lora, Some(&vec!["lora".to_owned()])).await?;
    let inspection = inspect(agent, attempt, &wanted).await?;
    let family = parts::base(&wanted.model, &inspection);
    let other = |base: &Base| lora::other_family(family.as_deref(), base.known.as_deref());
    if let Some((base, families)) = base.and_then(|base| Some((base, other(base)?))) {
        let reason = lora::of_family(&families);
        return Err(WorkError::LoraRefused { lora: wanted.model.name, base: base.name.clone(), reason });
    }
    let (lease, _) = resident(agent, attempt, &wanted, &inspection).await?;
    Ok(Part { used: used.clone(), name: wanted.model.name.clone(), model: wanted.model, lease, inspection })
}

/// The root that is written below: its name and its folder on this host.
async fn root_of(agent: &Agent, args: &BlendLorasArgs) -> Result<(String, PathBuf), WorkError> {
    let name = match (&args.output.root, args.loras.first()) {
        (Some(root), _) => root.clone(),
        (None, first) => {
            let first: Vec<ModelId> = first.map(|used| used.lora).into_iter().collect();
            let locations = models::locations_of(&agent.pool, &first).await?;
            let here = locations.into_iter().find(|location| location.host == agent.host);
            here.map(|location| location.root).unwrap_or_default()
        }
    };
    let root = agent.roots.iter().find(|root| root.name == name);
    let folder = root.map(|root| root.path.clone());
    let folder = folder.ok_or_else(|| WorkError::NoRoot { host: agent.host.clone(), root: name.clone() })?;
    Ok((name, folder))
}

/// Computes the blend on threads that may block; the leases are given back with it.
async fn blended(
    attempt: &Attempt,
    args: &BlendLorasArgs,
    parts: Vec<Part>,
    base: Option<Vec<BaseTensor>>,
) -> Result<(Blended, Vec<Part>), WorkError> {
    attempt.progress.enter("blending", 0);
    let (form, cancel, done) = (form(args), attempt.cancel.clone(), Arc::new(AtomicU64::new(0)));
    let told = Arc::clone(&done);
    let work = blocking("blending", move || {
        let blended = compute(&parts, base.as_deref(), form, (&cancel, &told));
        blended.map(|blended| (blended, parts))
    });
    watched(attempt, work, || done.load(Ordering::Relaxed)).await?
}

fn compute(
    parts: &[Part],
    base: Option<&[BaseTensor]>,
    form: Form,
    (token, told): (&CancellationToken, &AtomicU64),
) -> Result<Blended, WorkError> {
    let held = parts.iter().map(Held::of).collect::<Result<Vec<_>, _>>()?;
    let tensors = held.iter().map(Held::tensors).collect::<Result<Vec<_>, _>>()?;
    let indexes: Vec<LoraIndex<'_>> =
        held.iter().zip(&tensors).map(|(held, tensors)| held.index(tensors)).collect::<Result<_, _>>()?;
    let sources: Vec<Source<'_>> = parts
        .iter()
        .zip(&indexes)
        .zip(&held)
        .map(|((part, index), held)| Source { name: part.name.clone(), index, entry: held.entry() })
        .collect();
    let cancel = Cancel::new();
    let done = |done: usize, _: usize| {
        told.store(done as u64, Ordering::Relaxed);
        if token.is_cancelled() {
            cancel.cancel();
        }
    };
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    match blend(&sources, base, form, &BlendControl { threads, done: &done, cancel: &cancel }) {
        Err(BlendError::Cancelled) => Err(WorkError::Cancelled),
        other => Ok(other?),
    }
}

/// A LoRA's bytes, and what stands beside its tensors.
struct Held<'p> {
    part: &'p Part,
    map: ReadMap,
    shapes: Vec<Vec<usize>>,
    settings: BTreeMap<String, AdapterSettings>,
}

impl<'p> Held<'p> {
    fn of(part: &'p Part) -> Result<Self, WorkError> {
        let system = |source| WorkError::System { what: "mapping the LoRA's memory".to_owned(), source };
        let map = part.lease.map().map_err(system)?;
        let settings = lora::settings(&part.inspection);
        let settings = settings.map_err(|source| WorkError::LoraSettings { lora: part.name.clone(), source })?.of;
        Ok(Self { part, map, shapes: lora::shapes(&part.lease), settings })
    }

    fn tensors(&self) -> Result<Vec<LoraTensor<'_>>, WorkError> {
        lora::tensors(&self.part.lease, &self.map, &self.shapes).map_err(|source| self.wrong(source))
    }

    fn index<'a>(&'a self, tensors: &[LoraTensor<'a>]) -> Result<LoraIndex<'a>, WorkError> {
        LoraIndex::read(tensors, &self.settings).map_err(|source| self.wrong(source))
    }

    fn entry(&self) -> Entry {
        let LoraUse { weight, text_encoder_weight, blocks, .. } = self.part.used.clone();
        let digest = lora::identity(&self.part.lease.digest().to_string(), &self.settings);
        Entry { digest, weight, text_encoder_weight, blocks: BlockWeights(blocks) }
    }

    fn wrong(&self, source: LoraError) -> WorkError {
        WorkError::Lora { lora: self.part.name.clone(), source }
    }
}

fn form(args: &BlendLorasArgs) -> Form {
    let size = match (args.rank, args.energy) {
        (Some(rank), _) => Size::Rank(usize::try_from(rank).unwrap_or(usize::MAX)),
        (None, Some(share)) => Size::Energy(share),
        (None, None) => Size::Exact,
    };
    let element = match args.dtype {
        LoraDtype::Fp16 => ElementType::F16,
        LoraDtype::Bf16 => ElementType::Bf16,
        LoraDtype::Fp32 => ElementType::F32,
    };
    let spelling = match args.spelling {
        LoraSpelling::Kohya => Spelling::Kohya,
        LoraSpelling::Diffusers => Spelling::Diffusers,
    };
    Form { size, element, spelling }
}

async fn write(
    agent: &Agent,
    attempt: &Attempt,
    args: &BlendLorasArgs,
    (place, metadata): (Place, BTreeMap<String, String>),
    tensors: Vec<OutTensor>,
) -> Result<Copied, WorkError> {
    attempt.progress.enter("writing", tensors.iter().map(|tensor| tensor.bytes.len() as u64).sum());
    let done = Arc::new(AtomicU64::new(0));
    let limits = agent.throttle.iter().cloned().collect();
    let mut pace = pace(limits, attempt.cancel.clone(), done.clone());
    let (job, overwrite) = (attempt.id.to_string(), args.overwrite);
    let work = blocking("writing a LoRA", move || {
        let tensors = tensors.iter().map(new_tensor).collect::<Result<_, _>>()?;
        NewFile { metadata, tensors, job, overwrite }.make(&place, &mut pace)
    });
    Ok(watched(attempt, work, || done.load(Ordering::Relaxed)).await??)
}

fn new_tensor(tensor: &OutTensor) -> Result<NewTensor<'_>, WriteError> {
    let dtype = match tensor.element {
        ElementType::F16 => Dtype::F16,
        ElementType::Bf16 => Dtype::Bf16,
        _ => Dtype::F32,
    };
    let shape = tensor.shape.iter().map(|side| *side as u64).collect();
    Ok(NewTensor { name: &tensor.name, dtype, shape, bytes: &tensor.bytes })
}
