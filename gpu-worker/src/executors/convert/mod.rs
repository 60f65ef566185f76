//! `convert`: a new model from one that the host has, written below a root: another layout, another type, another VAE, LoRAs baked in.
//! The models' own files are read and never written; the new one is in the catalogue when the job succeeds.

mod bake;
mod provenance;
mod report;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use engine::tokenize::ClipTokenizer;
use model_formats::{
    Base, ComponentKind, Dtype, FileFacts,
    convert::{self, ConvertError, Found, Job, Layout, Made, OutTensor, Plan, Precision, Request, Tokenizer},
    write::{Place, WriteError},
};
use shared::job::{ConvertArgs, ConvertDtype, ConvertLayout};

use self::{bake::Bake, source::Source};
use super::{
    Done,
    hash::{self, pace},
    load::watched,
    model::blocking,
};
use crate::{
    catalogue, commit::Effects, config::Root, context::Agent, error::WorkError, managers::parts, running::Attempt,
};

pub(super) async fn run(agent: &Arc<Agent>, args: ConvertArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    attempt.progress.enter("reading headers", 0);
    let base = Source::read(agent, attempt, args.model).await?;
    let vae = match args.vae {
        Some(vae) => Some(Source::read(agent, attempt, vae).await?),
        None => None,
    };
    let bake = bake::read(agent, attempt, &base, &args.loras).await?;
    let root = root(agent, args.output.root.as_deref().unwrap_or(&base.root))?;
    let request = request(&args, &base, &bake)?;
    let mut work = Work { request, base, vae, bake, root, args };
    work.plan(&work.request)?;
    blocking("looking at the goal", work.goal(attempt)).await??;
    // what it is made from is written into it for ever: nothing of that may be missing because a scan was just before
    let wanted = [work.args.model].into_iter().chain(work.args.vae).collect();
    let hashed = hash::missing(agent, attempt, wanted).await?;
    for source in [&mut work.base].into_iter().chain(work.vae.as_mut()) {
        source.know(agent, &hashed).await?;
    }
    let sources = (&work.base, work.vae.as_ref());
    work.request.metadata = provenance::fields(attempt.id, &work.args, sources, work.bake.as_deref());
    let (plan, kept) = work.planned(agent, attempt).await?;
    let work = Arc::new(work);
    let made = work.clone().written(agent, attempt, plan.clone()).await?;
    attempt.progress.enter("cataloguing", 0);
    let found = work.catalogued().await?;
    let result = report::result(agent, &work, (&plan, &kept, &made), started.elapsed());
    let effects = Effects::Made { root: work.root.name.clone(), model: Box::new(found), hashed };
    Ok(Done { result: serde_json::to_value(result).unwrap_or_default(), effects })
}

/// Everything that one conversion needs.
struct Work {
    args: ConvertArgs,
    request: Request,
    base: Source,
    vae: Option<Source>,
    bake: Option<Arc<Bake>>,
    root: Root,
}

/// Parts that keep their type though another one was asked for.
struct Kept {
    /// Those with values that do not fit it.
    overflowing: BTreeMap<ComponentKind, Found>,
    /// The VAE, as it would overflow when it runs.
    runs_over: bool,
}

impl Work {
    fn plan(&self, request: &Request) -> Result<Plan, ConvertError> {
        let plan = Plan::new(&self.base.model, self.vae.as_ref().map(|vae| &vae.model), request)?;
        if plan.is_file() == self.args.output.is_file() {
            return Ok(plan);
        }
        let (layout, why) = match plan.is_file() {
            true => ("a folder", "one file comes out: let the path end with `.safetensors`"),
            false => ("one file", "a folder comes out: let the path not end with `.safetensors`"),
        };
        Err(ConvertError::Layout { layout, why: why.to_owned() })
    }

    /// The files that it is made from.
    fn inputs(&self) -> Vec<FileFacts> {
        let vae = self.vae.iter().flat_map(|vae| &vae.model.inspection.files);
        let loras = self.bake.iter().flat_map(|bake| bake.files());
        self.base.model.inspection.files.iter().chain(vae).chain(loras).cloned().collect()
    }

    /// Looks whether the goal may be written, before anything large is read.
    fn goal(&self, attempt: &Attempt) -> impl FnOnce() -> Result<(), WriteError> + Send + 'static {
        let (folder, path, inputs) = (self.root.path.clone(), self.args.output.path.clone(), self.inputs());
        let (job, overwrite) = (attempt.id.to_string(), self.args.overwrite);
        move || {
            let place = Place::open(&folder, &path)?;
            place.must_be_none_of(&inputs)?;
            convert::check_goal(&place, &job, overwrite)
        }
    }

    /// The plan, and the parts that keep their type because they would overflow.
    async fn planned(&self, agent: &Agent, attempt: &Attempt) -> Result<(Arc<Plan>, Kept), WorkError> {
        let mut request = self.request.clone();
        let mut plan = Arc::new(self.plan(&request)?);
        let runs_over = self.vae_runs_over(&plan);
        if runs_over {
            request.kept.insert(ComponentKind::Vae);
            plan = Arc::new(self.plan(&request)?);
        }
        let bytes = convert::look_bytes(&plan);
        if bytes == 0 {
            return Ok((plan, Kept { overflowing: BTreeMap::new(), runs_over }));
        }
        attempt.progress.enter("checking", bytes);
        let done = Arc::new(AtomicU64::new(0));
        let mut pace = pace(agent.throttle.iter().cloned().collect(), attempt.cancel.clone(), done.clone());
        let (looked, bake, allow_nan) = (plan.clone(), self.bake.clone(), self.args.allow_nan);
        let look = move || convert::look(&looked, bake.as_deref().map(Bake::change), allow_nan, &mut pace);
        let work = blocking("looking at values", look);
        let found = watched(attempt, work, || done.load(Ordering::Relaxed)).await??;
        if !found.is_empty() {
            request.kept.extend(found.keys());
            plan = Arc::new(self.plan(&request)?);
        }
        Ok((plan, Kept { overflowing: found, runs_over }))
    }

    /// Whether weights of a VAE would be narrowed to 16 bits that nobody asked that of by name, and that overflows when it runs in them.
    /// Of SDXL's that is known, and a config that says otherwise goes with weights that were trained again for it. A file of nothing but a
    /// VAE shows no family: it is of that of the model that it is put into.
    fn vae_runs_over(&self, plan: &Plan) -> bool {
        let source = self.vae.as_ref().unwrap_or(&self.base);
        let inspection = &source.model.inspection;
        let family = source.family().or_else(|| self.base.family());
        let is_known = matches!(family, Some(Base::Sdxl | Base::SdxlRefiner));
        let config = parts::config(&source.wanted.model, inspection, ComponentKind::Vae.as_str());
        let is_safe = config.is_some_and(|config| config["force_upcast"] == false);
        let tensors = plan.files.iter().flat_map(|file| &file.tensors);
        let narrowed = |tensor: &OutTensor| {
            tensor.component == Some(ComponentKind::Vae)
                && tensor.dtype == Dtype::F16
                && tensor.from.iter().any(|from| from.dtype != Dtype::F16)
        };
        self.args.vae_dtype.is_none() && is_known && !is_safe && tensors.into_iter().any(narrowed)
    }

    async fn written(self: Arc<Self>, agent: &Agent, attempt: &Attempt, plan: Arc<Plan>) -> Result<Made, WorkError> {
        attempt.progress.enter("writing", plan.read_bytes().saturating_add(plan.bytes()));
        let done = Arc::new(AtomicU64::new(0));
        let mut pace = pace(agent.throttle.iter().cloned().collect(), attempt.cancel.clone(), done.clone());
        let (cancel, hurry) = (attempt.cancel.clone(), attempt.hurry.clone());
        let job = attempt.id.to_string();
        let write = move || {
            let place = Place::open(&self.root.path, &self.args.output.path)?;
            place.must_be_none_of(&self.inputs())?;
            // a cancelled job has no later attempt; a lost or handed back one has
            let keep = || !cancel.is_cancelled() || hurry.is_cancelled();
            let job = Job {
                plan: &plan,
                place: &place,
                job,
                change: self.bake.as_deref().map(Bake::change),
                changes: self.bake.as_deref().map(Bake::key).unwrap_or_default(),
                overwrite: self.args.overwrite,
                allow_nan: self.args.allow_nan,
                keep: &keep,
                stretch_bytes: None,
            };
            convert::write(&job, &mut pace)
        };
        let work = blocking("writing a model", write);
        Ok(watched(attempt, work, || done.load(Ordering::Relaxed)).await??)
    }

    /// The new model's row.
    async fn catalogued(&self) -> Result<shared::db::models::FoundModel, WorkError> {
        let (path, rel_path) = (self.root.path.join(&self.args.output.path), self.args.output.path.clone());
        let failed = path.display().to_string();
        let inspect = move || {
            let mut inspection = model_formats::inspect_all(&path, &model_formats::Correction::default())?.listing();
            model_formats::metadata::attach(&mut inspection, &[]);
            Ok(catalogue::found(&rel_path, inspection, shared::db::models::ReadAs::default()))
        };
        let found = blocking("reading the new model", inspect).await?;
        found.map_err(|source| WorkError::Format { path: failed, source })
    }
}

fn root(agent: &Agent, name: &str) -> Result<Root, WorkError> {
    let root = agent.roots.iter().find(|root| root.name == name).cloned();
    root.ok_or_else(|| WorkError::NoRoot { host: agent.host.clone(), root: name.to_owned() })
}

/// What is asked for, without the record of what it is made from.
fn request(args: &ConvertArgs, base: &Source, bake: &Option<Arc<Bake>>) -> Result<Request, WorkError> {
    let title = args.title.clone().unwrap_or_else(|| base.wanted.model.name.clone());
    let bad = |error| WorkError::System { what: "the tokenizer's files".into(), source: std::io::Error::other(error) };
    let [vocabulary, merges] = ClipTokenizer::shipped_files().map_err(bad)?;
    Ok(Request {
        layout: match args.layout {
            ConvertLayout::Same => Layout::Same,
            ConvertLayout::SingleFile => Layout::SingleFile,
            ConvertLayout::Diffusers => Layout::Diffusers,
        },
        precision: precision(args.dtype),
        vae_precision: args.vae_dtype.map(precision),
        kept: BTreeSet::new(),
        prune: args.prune,
        use_ema: args.use_ema,
        changes: bake.is_some(),
        title,
        metadata: BTreeMap::new(),
        tokenizer: Some(Tokenizer { vocabulary, merges }),
    })
}

fn precision(dtype: ConvertDtype) -> Precision {
    match dtype {
        ConvertDtype::Keep => Precision::Keep,
        ConvertDtype::Fp32 => Precision::Fp32,
        ConvertDtype::Fp16 => Precision::Fp16,
        ConvertDtype::Bf16 => Precision::Bf16,
    }
}
