//! The model that a job is about: its rows, the components asked for, and its files on this host.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model_formats::Inspection;
use residency::{Afoot, ChunkObserver, Lease, LoadRequest, ResidencyError, SourceFile};
use shared::{
    db::models::{self, ComponentRow, ModelRow},
    ids::{ComponentId, ModelId},
    job::engine::Role,
};

use super::landed::Landed;
use crate::{
    aliases, catalogue,
    context::Agent,
    error::WorkError,
    judge::{self, ReadComponent},
    load_request::load_request,
    running::Attempt,
    throttle::Throttle,
};

/// A model's rows, reduced to the components asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) model: ModelRow,
    pub(super) components: Vec<ComponentRow>,
}

impl Wanted {
    /// Bytes of the components' tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.components.iter().map(|component| unsigned(component.bytes)).sum()
    }

    /// Reduced to what a role takes, of which nothing may be missing.
    pub(super) fn must_have(&mut self, role: Role) -> Result<(), WorkError> {
        self.must_have_beside(role, &BTreeMap::<String, ModelId>::new())
    }

    /// The same where other models stand in for components of these kinds.
    pub(super) fn must_have_beside<M>(&mut self, role: Role, others: &BTreeMap<String, M>) -> Result<(), WorkError> {
        self.components.retain(|row| role.means(&row.kind));
        for (part, kinds) in role.groups() {
            let stands_in = kinds.iter().any(|kind| others.contains_key(*kind));
            if !stands_in && !self.components.iter().any(|row| kinds.contains(&row.kind.as_str())) {
                return Err(WorkError::NoPart { model: self.model.name.clone(), part });
            }
        }
        Ok(())
    }
}

/// Reads the rows; kinds that the model does not have are refused.
pub(super) async fn wanted(agent: &Agent, id: ModelId, kinds: Option<&Vec<String>>) -> Result<Wanted, WorkError> {
    let found = models::find(&agent.pool, &id.to_string()).await?;
    let model = found.filter(|model| model.id == id).ok_or(WorkError::NoModel(id))?;
    let mut components = models::components_of(&agent.pool, &[id]).await?;
    if let Some(kinds) = kinds {
        components.retain(|component| kinds.contains(&component.kind));
    }
    if components.is_empty() {
        return Err(WorkError::NothingToLoad { model: model.name, reason: model.reason });
    }
    // a choice of another variant between the two would have its components loaded from files of the one before
    let again = models::find(&agent.pool, &id.to_string()).await?;
    if again.is_none_or(|again| again.read_as != model.read_as) {
        return Err(WorkError::OtherVariant { model: model.name, host: agent.host.clone() });
    }
    Ok(Wanted { model, components })
}

/// Reads the headers of the model's files on this host, and compares the files with what the scan saw.
pub(super) async fn inspect(agent: &Agent, attempt: &Attempt, wanted: &Wanted) -> Result<Inspection, WorkError> {
    let locations = models::locations_of(&agent.pool, &[wanted.model.id]).await?;
    let here = locations.into_iter().find(|location| location.host == agent.host);
    let here = here.ok_or_else(|| WorkError::NotHere { model: wanted.model.name.clone(), host: agent.host.clone() })?;
    let seen = here.identities()?;
    if here.read_variant != wanted.model.read_as.variant {
        let (model, host) = (wanted.model.name.clone(), agent.host.clone());
        // the scan that followed the choice met a disk that did not answer
        return Err(if seen.is_empty() {
            WorkError::Unread { model, host }
        } else {
            WorkError::OtherVariant { model, host }
        });
    }
    let path = Path::new(&here.root_path).join(&here.rel_path);
    let inspection = {
        let (path, correction) = (path.clone(), catalogue::correction(&wanted.model.read_as));
        let stalled = |since: Duration| WorkError::Stalled { path: here.rel_path.clone(), seconds: since.as_secs() };
        let mut disks: Vec<u64> = seen.iter().map(|file| file.dev).collect();
        disks.sort_unstable();
        disks.dedup();
        let reads = agent.tier.begin_reads(disks).map_err(stalled)?;
        let reading = reads.reading();
        let work = blocking("reading headers", move || {
            let _reading = reading;
            model_formats::inspect_as(&path, correction)
        });
        answering(agent, attempt, &reads, work).await?.map_err(stalled)?
    };
    let inspection = inspection.map_err(|source| WorkError::Format { path: path.display().to_string(), source })?;
    catalogue::check_unchanged(&seen, &inspection)?;
    Ok(inspection)
}

/// Waits for reads as long as the host's disks are given to answer, and no longer than the job is wanted; the time waited when
/// they did not. A read that hangs keeps its thread until the disk answers, and its disk is left alone until then.
async fn answering<T>(
    agent: &Agent,
    attempt: &Attempt,
    reads: &Afoot,
    work: impl Future<Output = Result<T, WorkError>>,
) -> Result<Result<T, Duration>, WorkError> {
    let patience = agent.tier.io_timeout();
    let limit = if patience.is_zero() { Duration::MAX } else { patience };
    tokio::select! {
        biased;
        done = tokio::time::timeout(limit, work) => match done {
            Ok(done) => done.map(Ok),
            Err(_) => {
                reads.give_up();
                Ok(Err(limit))
            }
        },
        () = attempt.cancel.cancelled() => {
            reads.doubt(patience);
            Err(WorkError::Cancelled)
        }
    }
}

/// Runs blocking work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkError> {
    let system = |error| WorkError::System { what: what.to_owned(), source: std::io::Error::other(error) };
    tokio::task::spawn_blocking(work).await.map_err(system)
}

/// The load of one component, with the host's read limit applied.
pub(super) fn request(
    agent: &Agent,
    attempt: &Attempt,
    row: &ComponentRow,
    inspection: &Inspection,
) -> Result<LoadRequest, WorkError> {
    let missing = || WorkError::NoComponent {
        path: inspection.files.first().map(|file| file.path.display().to_string()).unwrap_or_default(),
        component: row.kind.clone(),
        reason: inspection.reason.clone().unwrap_or_else(|| "nothing of the kind is in it".to_owned()),
    };
    let mut request = load_request(row, inspection).ok_or_else(missing)?;
    request.key = key(agent, row.id);
    request.wanted_by = Some(attempt.holder().into());
    request.io.on_chunk = agent.throttle.clone().map(throttled);
    Ok(request)
}

/// Has a load pay for its bytes as long as anybody wants it, also when the job that began it does not any more.
fn throttled(throttle: Arc<Throttle>) -> ChunkObserver {
    let paid = AtomicU64::new(0);
    Arc::new(move |bytes_so_far, cancel| {
        let before = paid.fetch_max(bytes_so_far, Ordering::AcqRel);
        throttle.pay(bytes_so_far.saturating_sub(before), || cancel.is_cancelled());
    })
}

/// The key of the RAM tier: the id that the component is held under, its own when it is not there.
fn key(agent: &Agent, component: ComponentId) -> Arc<str> {
    let mut held = agent.aliases.held(component).into_iter().map(|id| Arc::<str>::from(id.to_string()));
    let own = held.next().unwrap_or_default();
    let there = |key: &Arc<str>| agent.tier.progress(key).is_some() || agent.tier.holds(key);
    if there(&own) { own } else { held.find(there).unwrap_or(own) }
}

/// Makes one component resident in RAM, or finds it there (true), and says on the way how far it is. What is marked as corrupt is not read.
pub(super) async fn acquire(
    agent: &Agent,
    attempt: &Attempt,
    request: LoadRequest,
    landed: &Landed,
) -> Result<(Lease, bool), WorkError> {
    let present = agent.tier.progress(&request.key).is_none() && agent.tier.holds(&request.key);
    let (key, sources) = (request.key.clone(), request.sources.clone());
    if !agent.tier.holds(&key) {
        let files: Vec<_> = sources.iter().map(|source| (source.path.clone(), judge::key(source))).collect();
        judge::must_not_be_marked(agent, &files).await?;
    }
    let acquired = landed.watch(agent.tier.acquire(request, &attempt.cancel), || agent.tier.progress(&key));
    let lease = match acquired.await {
        Err(error @ ResidencyError::DigestMismatch { .. }) => {
            let held = key.parse::<ComponentId>().ok();
            if let Some(held) = held.filter(|_| agent.tier.holds(&key)) {
                // bytes that were read before their component had a digest, and are not its: nobody can want them any more
                aliases::give_back(agent, held).await;
            }
            return Err(other_bytes(agent, held, &sources, error));
        }
        other => other.map_err(WorkError::from).inspect_err(|error| {
            if error.is_shortage_of_ram() {
                landed.waits_for_room();
            }
        })?,
    };
    lease.mark(&attempt.holder());
    landed.reach(lease.tensor_bytes());
    Ok((lease, present))
}

/// Says which files gave other bytes than are registered, and leaves the read to be judged with the job's end.
fn other_bytes(agent: &Agent, held: Option<ComponentId>, sources: &[SourceFile], error: ResidencyError) -> WorkError {
    let (Some(held), ResidencyError::DigestMismatch { expected, actual, .. }) = (held, &error) else {
        return error.into();
    };
    let paths: Vec<String> = sources.iter().map(|source| format!("`{}`", source.path.display())).collect();
    let files = sources.iter().map(judge::key).collect();
    let component = agent.aliases.now(held);
    let read = Box::new(ReadComponent { component, files, digest: actual.to_string() });
    WorkError::OtherBytes { paths: paths.join(", "), host: agent.host.clone(), expected: expected.to_string(), read }
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
