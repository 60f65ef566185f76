//! What a root holds: its models found, those that are as the catalogue knows them told apart, the headers of the others read.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use model_formats::{Candidate, Lister, Memo, cached_repository, metadata};
use shared::db::models::{FileIdentity, FoundModel, KnownModel, ReadAs, ScanCounts};

use super::{CANONICAL_FORM, correction, found, handover::Handover, unreadable};

/// What a scan of one root saw.
#[derive(Debug, Default)]
pub struct ScannedRoot {
    /// Models whose headers were read, and that are still to be recorded.
    pub models: Vec<FoundModel>,
    /// Paths of those that were handed over and recorded meanwhile.
    pub recorded: Vec<String>,
    /// What was new about those.
    pub counts: ScanCounts,
    /// Paths of models that are as the catalogue knows them.
    pub unchanged: Vec<String>,
    /// New files that somebody is still writing: not listed before they are whole.
    pub unfinished: u64,
}

impl ScannedRoot {
    /// Models, read or not.
    pub fn len(&self) -> usize {
        self.models.len() + self.recorded.len() + self.unchanged.len()
    }

    /// Models whose headers were read.
    pub fn read(&self) -> usize {
        self.models.len() + self.recorded.len()
    }

    /// True when there is no model at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is known before the headers are read.
#[derive(Debug, Default)]
pub struct Before {
    /// What the catalogue has of this root, by path below it.
    pub known: HashMap<String, KnownModel>,
    /// Files that somebody is writing.
    pub writing: HashSet<PathBuf>,
}

/// How far a survey is; read by others while it runs.
#[derive(Debug, Default)]
pub struct Seen {
    next: AtomicUsize,
    read: AtomicUsize,
}

impl Seen {
    /// Candidates looked at.
    pub fn looked_at(&self) -> u64 {
        self.next.load(Ordering::Relaxed) as u64
    }

    /// Candidates whose headers were read.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed) as u64
    }
}

/// Looks at every candidate on this many threads. Ends early, with what it has, once `stop` says so. With a handover, models go there
/// and only their paths stay.
pub fn survey(
    candidates: &[Candidate],
    before: &Before,
    seen: &Seen,
    threads: usize,
    handover: Option<&Handover<'_>>,
    stop: &(dyn Fn() -> bool + Sync),
) -> ScannedRoot {
    let memo = Memo::default();
    let moved = Moved::of(candidates, before);
    let worker = || {
        let mut lister = Lister::new(&memo);
        let mut answers = Vec::new();
        while !stop() {
            let Some(candidate) = candidates.get(seen.next.fetch_add(1, Ordering::Relaxed)) else { break };
            answers.push(handed(look(candidate, (before, &moved), seen, &mut lister), handover));
        }
        answers
    };
    let threads = threads.clamp(1, candidates.len().max(1));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    // the counter runs past the end by one for each thread
    seen.next.store(candidates.len().min(seen.next.load(Ordering::Relaxed)), Ordering::Relaxed);
    handover.inspect(|handover| handover.finish());
    in_one(answers)
}

/// What became of a candidate.
enum Answer {
    /// It was read.
    Read(Box<FoundModel>),
    /// It was read and is being recorded.
    Handed(String),
    /// The catalogue has it as it is.
    Unchanged(String),
    /// Somebody is writing it.
    Unfinished,
}

/// What was said of models whose paths are gone, by their stamps: a folder that only has another name is read as it was.
struct Moved<'b>(HashMap<&'b str, &'b ReadAs>);

impl<'b> Moved<'b> {
    fn of(candidates: &[Candidate], before: &'b Before) -> Self {
        let here: HashSet<&str> = candidates.iter().map(|candidate| candidate.rel_path.as_str()).collect();
        let gone = before
            .known
            .iter()
            .filter(|(path, known)| !here.contains(path.as_str()) && known.said != ReadAs::default());
        Self(gone.filter_map(|(_, known)| Some((known.stamp.as_deref()?, &known.said))).collect())
    }

    /// Of a folder alone: the stamp of a file covers only what is beside it.
    fn said(&self, candidate: &Candidate, stamp: &str) -> Option<&'b ReadAs> {
        self.0.get(stamp).filter(|_| candidate.kind.is_folder()).copied()
    }
}

fn look(candidate: &Candidate, (before, moved): (&Before, &Moved<'_>), seen: &Seen, lister: &mut Lister<'_>) -> Answer {
    let known = before.known.get(&candidate.rel_path);
    if before.writing.contains(&candidate.path) {
        // what this host has said of it stays until the last write
        let listed = known.is_some_and(|known| known.listed);
        return if listed { Answer::Unchanged(candidate.rel_path.clone()) } else { Answer::Unfinished };
    }
    let stamp = model_formats::stamp(candidate);
    if known.is_some_and(|known| is_unchanged(candidate, &stamp, known)) {
        return Answer::Unchanged(candidate.rel_path.clone());
    }
    seen.read.fetch_add(1, Ordering::Relaxed);
    let said = known.map(|known| &known.said).or_else(|| moved.said(candidate, &stamp)).cloned().unwrap_or_default();
    Answer::Read(Box::new(list(candidate, stamp, said, lister)))
}

fn handed(answer: Answer, handover: Option<&Handover<'_>>) -> Answer {
    match (answer, handover) {
        (Answer::Read(model), Some(handover)) => match handover.give(*model) {
            Ok(rel_path) => Answer::Handed(rel_path),
            Err(model) => Answer::Read(model),
        },
        (answer, _) => answer,
    }
}

fn in_one(answers: Vec<Answer>) -> ScannedRoot {
    let mut root = ScannedRoot::default();
    for answer in answers {
        match answer {
            Answer::Read(model) => root.models.push(*model),
            Answer::Handed(rel_path) => root.recorded.push(rel_path),
            Answer::Unchanged(rel_path) => root.unchanged.push(rel_path),
            Answer::Unfinished => root.unfinished += 1,
        }
    }
    // the order in which rows are locked, whatever the threads did
    root.models.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    root.unchanged.sort();
    root
}

/// Whether today's rules have read it as it is, with everything beside it, into today's canonical form, and as what the operator says
/// that it is.
fn is_unchanged(candidate: &Candidate, stamp: &str, known: &KnownModel) -> bool {
    known.stamp.as_deref() == Some(stamp)
        && known.canonical_form >= CANONICAL_FORM
        && known.said == known.read_as
        && !known.files.is_empty()
        && known.files.iter().all(|file| is_still(&place(candidate, &file.rel_path), file))
}

/// Whether the file at `path` is the one that a scan saw, without opening it.
fn is_still(path: &Path, seen: &FileIdentity) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| {
        let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        let now = (meta.len(), mtime_ns, meta.ino(), meta.dev());
        meta.is_file() && now == (seen.size_bytes, seen.mtime_ns, seen.inode, seen.dev)
    })
}

/// A file of a model: of a folder below it, of a single file itself or a shard beside its index.
fn place(candidate: &Candidate, rel_path: &str) -> PathBuf {
    if candidate.kind.is_folder() {
        candidate.path.join(rel_path)
    } else if rel_path.is_empty() {
        candidate.path.clone()
    } else {
        candidate.path.with_file_name(rel_path)
    }
}

fn list(candidate: &Candidate, stamp: String, said: ReadAs, lister: &mut Lister<'_>) -> FoundModel {
    let path: &Path = &candidate.path;
    match lister.list(path, correction(&said)) {
        Ok(mut listing) => {
            metadata::attach(&mut listing, &candidate.sidecars);
            if let Some(repository) = cached_repository(path) {
                listing.name = repository;
            }
            // what has no stamp is read again
            let stamp = (!listing.is_passing()).then_some(stamp);
            FoundModel { stamp, ..found(&candidate.rel_path, listing, said) }
        }
        Err(error) => {
            let unread = unreadable(&candidate.rel_path, path, shared::error::chain(&error), said);
            FoundModel { stamp: Some(stamp), ..unread }
        }
    }
}
