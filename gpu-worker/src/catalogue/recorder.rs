//! Recording while reading: the headers of a root are read on some threads while what they said is written, each lane of the catalogue
//! over a connection, batch by batch, each in a transaction of its own that the job's lease still has to allow.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::try_join_all;
use model_formats::Candidate;
use shared::db::{
    Pool,
    jobs::JobLease,
    models::{self, Batch, LANES, ScanCounts},
};
use tokio::sync::mpsc;

use super::{Before, Handover, ScannedRoot, Seen, survey};
use crate::error::WorkError;

/// Batches of a lane that wait for the database; then readers wait.
const WAITING: usize = 2;
/// Models whose texts are made in one transaction.
const TEXTS: i64 = 500;

/// Where models are recorded, and for whom.
#[derive(Debug, Clone)]
pub struct Recorder {
    /// The catalogue.
    pub pool: Pool,
    /// Host.
    pub host: String,
    /// Root.
    pub root: String,
    /// The job: nothing is recorded once its lease is over. None: nobody else may take over what this process does.
    pub lease: Option<JobLease>,
}

/// Whether a path that the catalogue has of this host is gone. Then nothing may be recorded before everything was read: a model that
/// moved is told by its files, among all that are there.
pub fn misses_any(before: &Before, candidates: &[Candidate]) -> bool {
    let there: HashSet<&str> = candidates.iter().map(|candidate| candidate.rel_path.as_str()).collect();
    before.known.iter().any(|(path, known)| known.listed && !there.contains(path.as_str()))
}

/// Surveys a root on `threads` threads and records what is read meanwhile. Ends early once `stop` says so, or when the database or the
/// job's lease allow no more; what was recorded stays.
///
/// # Errors
/// [`WorkError::Db`]; [`WorkError::Cancelled`] when the lease is over.
pub async fn survey_and_record(
    recorder: &Recorder,
    candidates: Vec<Candidate>,
    before: Before,
    seen: Arc<Seen>,
    threads: usize,
    stop: impl Fn() -> bool + Send + Sync + 'static,
) -> Result<ScannedRoot, WorkError> {
    let (send, mut receive): (Vec<_>, Vec<_>) = (0..LANES).map(|_| mpsc::channel::<Batch<'static>>(WAITING)).unzip();
    let reading = tokio::task::spawn_blocking(move || {
        let refused = AtomicBool::new(false);
        let pass_on = |lane: usize, batch| {
            if send.get(lane).is_none_or(|send| send.blocking_send(batch).is_err()) {
                refused.store(true, Ordering::Relaxed);
            }
        };
        let stop = || refused.load(Ordering::Relaxed) || stop();
        survey(&candidates, &before, &seen, threads, Some(&Handover::new(&pass_on)), &stop)
    });
    let recorded = try_join_all(receive.iter_mut().map(|lane| record_all(recorder, lane))).await;
    // a reader that waits for room learns that nobody takes it
    drop(receive);
    let system = |error| WorkError::System { what: "reading headers".to_owned(), source: std::io::Error::other(error) };
    let root = reading.await.map_err(system)?;
    let mut counts = ScanCounts::default();
    recorded?.into_iter().for_each(|lane| counts += lane);
    Ok(ScannedRoot { counts, ..root })
}

async fn record_all(recorder: &Recorder, lane: &mut mpsc::Receiver<Batch<'static>>) -> Result<ScanCounts, WorkError> {
    let mut counts = ScanCounts::default();
    while let Some(batch) = lane.recv().await {
        counts += record(recorder, &batch).await?;
    }
    Ok(counts)
}

async fn record(recorder: &Recorder, batch: &Batch<'static>) -> Result<ScanCounts, WorkError> {
    let Recorder { pool, host, root, lease } = recorder;
    models::record_models(pool, *lease, (host, root), batch).await?.ok_or(WorkError::Cancelled)
}

/// Makes the texts of models that are listed without them, whoever recorded those; `made` is told of how many so far.
///
/// # Errors
/// Database errors.
pub async fn make_texts(pool: &Pool, stop: impl Fn() -> bool, made: impl Fn(u64)) -> Result<(), WorkError> {
    let mut so_far = 0;
    while !stop() {
        let some = models::make_due_texts(pool, TEXTS).await?;
        so_far += some;
        made(so_far);
        if some < TEXTS.unsigned_abs() {
            break;
        }
    }
    Ok(())
}
