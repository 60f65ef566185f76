//! What reads of files say of bytes that are registered. An executor notes what it read; it is judged in the transaction that ends
//! the job, so that a file counts as corrupt, or as well again, with the job that found it out and only with it.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use residency::SourceFile;
use shared::{
    db::{
        DbError, Session,
        hashes::{self, FileHashRow},
        models::{self, FileIdentity, FileKey, Judged, Reader},
    },
    ids::{ComponentId, JobId},
};

use crate::{catalogue::CANONICAL_FORM, context::Agent, error::WorkError, executors::HashedPart};

/// A component that was read from files of this host, all of them or as far as its digest told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadComponent {
    /// The component.
    pub component: ComponentId,
    /// The files that hold its tensors. Of several it is not known which one is bad, so all of them are marked.
    pub files: Vec<FileKey>,
    /// The digest of what was read.
    pub digest: String,
}

/// What one job read to compare it.
#[derive(Debug, Default)]
pub struct Reads {
    /// Components.
    pub components: Vec<ReadComponent>,
    /// Whole files.
    pub files: Vec<(FileIdentity, FileHashRow)>,
}

/// A read that is not what is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The component; none of a whole file.
    pub component: Option<ComponentId>,
    /// The files.
    pub files: Vec<FileKey>,
    /// What is registered.
    pub expected: String,
    /// What was read.
    pub actual: String,
}

/// What was found not to be what is registered.
#[derive(Debug, Default)]
pub struct Differing {
    /// Reads whose files are marked.
    pub others: Vec<Other>,
    /// Files in which no model here has the component any more that was read from them: neither well nor marked.
    pub elsewhere: Vec<FileKey>,
}

impl Differing {
    /// How much that is: more when something was found since.
    pub fn count(&self) -> usize {
        self.others.len().saturating_add(self.elsewhere.len())
    }

    /// Whether one of these files is among those that are marked for it.
    pub fn names(&self, files: &[FileKey]) -> bool {
        self.others.iter().any(|other| other.files.iter().any(|file| files.contains(file)))
    }
}

/// Which file a source is.
pub fn key(source: &SourceFile) -> FileKey {
    key_of(&source.expected)
}

/// Which file has this identity.
pub fn key_of(of: &residency::FileIdentity) -> FileKey {
    FileKey { size_bytes: of.size, mtime_ns: of.mtime_ns, inode: of.inode, dev: of.dev }
}

/// Most jobs that are remembered as handed back.
const MANY: usize = 1000;

/// Jobs that were handed back because they met a marked file, or another variant than the chosen one, before anything was read: they were
/// placed before that was known, and the placement knows of another copy, waits, or says that there is none. Once each: where the placement
/// sends it here again, it fails.
#[derive(Debug, Default)]
pub struct HandedBack(Mutex<BTreeSet<JobId>>);

impl HandedBack {
    /// Notes that a job goes back; false when it did before.
    pub fn note(&self, job: JobId) -> bool {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= MANY {
            // ids begin with their time: this is the oldest
            jobs.pop_first();
        }
        jobs.insert(job)
    }
}

/// Fails when one of these files is marked as corrupt on this host.
///
/// # Errors
/// [`WorkError::CorruptFile`]; database errors.
pub async fn must_not_be_marked(agent: &Agent, files: &[(PathBuf, FileKey)]) -> Result<(), WorkError> {
    let keys: Vec<FileKey> = files.iter().map(|(_, key)| *key).collect();
    let Some((marked, expected, actual)) = models::corrupt_among(&agent.pool, &agent.host, &keys).await? else {
        return Ok(());
    };
    let path = files.iter().find(|(_, key)| *key == marked).map(|(path, _)| path.display().to_string());
    Err(WorkError::CorruptFile { path: path.unwrap_or_default(), host: agent.host.clone(), expected, actual })
}

/// Compares what one component was read with with what is registered, and notes what differs.
///
/// # Errors
/// Database errors.
pub async fn component(
    agent: &Agent,
    tx: &mut Session,
    job: JobId,
    read: &ReadComponent,
    differing: &mut Differing,
) -> Result<(), DbError> {
    let ReadComponent { component, files, digest } = read;
    match models::judge_component(tx, reader(agent, job), *component, files, digest).await? {
        Judged::Other(expected) => {
            let (component, files, actual) = (Some(*component), files.clone(), digest.clone());
            differing.others.push(Other { component, files, expected, actual });
        }
        Judged::Elsewhere => differing.elsewhere.extend(files),
        Judged::Registered | Judged::Unknown => {}
    }
    Ok(())
}

/// Compares the hashes of whole files with the recorded ones, notes those that differ, and records those of files that have none, unless a
/// component's read of them differs or they are marked: what was not compared with anything would count as well from then on.
///
/// # Errors
/// Database errors.
pub async fn files(
    agent: &Agent,
    tx: &mut Session,
    job: JobId,
    read: &[(FileIdentity, FileHashRow)],
    differing: &mut Differing,
) -> Result<(), DbError> {
    let mut others = Vec::new();
    for (file, hashes) in read {
        let key = FileKey::from(file);
        let is_bad = || differing.names(&[key]) || differing.elsewhere.contains(&key);
        match models::judge_file(tx, reader(agent, job), file, &hashes.blake3).await? {
            Judged::Other(expected) => {
                others.push(Other { component: None, files: vec![key], expected, actual: hashes.blake3.clone() });
            }
            Judged::Unknown if !is_bad() && !is_marked(agent, tx, &[key]).await? => {
                hashes::record_file(tx, &agent.host, file, hashes).await?;
            }
            Judged::Registered | Judged::Elsewhere | Judged::Unknown => {}
        }
    }
    differing.others.extend(others);
    Ok(())
}

/// Compares all that a job read, and notes what differs.
///
/// # Errors
/// Database errors.
pub async fn all(
    agent: &Agent,
    tx: &mut Session,
    job: JobId,
    reads: &Reads,
    differing: &mut Differing,
) -> Result<(), DbError> {
    for read in &reads.components {
        component(agent, tx, job, read, differing).await?;
    }
    files(agent, tx, job, &reads.files, differing).await
}

/// Whether one of these files is still marked on this host.
///
/// # Errors
/// Database errors.
pub async fn is_marked(agent: &Agent, tx: &mut Session, files: &[FileKey]) -> Result<bool, DbError> {
    Ok(models::corrupt_among(&mut *tx, &agent.host, files).await?.is_some())
}

/// Said of files that are marked and of which nothing was compared.
pub fn uncompared(path: &str) -> String {
    format!(
        "`{path}` is marked as corrupt, and nothing is registered that what was read could be compared with: its mark stays, and nothing \
         was recorded; once the file is known to be good, replace or touch it and scan"
    )
}

/// What a hash job read of a component. Where it took over what was read before, it says nothing of the files: they may have gone bad since.
pub fn of_part(part: &HashedPart) -> ReadComponent {
    let files = if part.is_taken_over { Vec::new() } else { part.files.clone() };
    ReadComponent { component: part.id, files, digest: part.digest.clone() }
}

fn reader(agent: &Agent, job: JobId) -> Reader<'_> {
    Reader { host: &agent.host, job, form: CANONICAL_FORM }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_back_once() {
        let (back, job) = (HandedBack::default(), JobId::generate());
        assert!(back.note(job) && !back.note(job));
        for _ in 0..MANY * 2 {
            assert!(back.note(JobId::generate()));
        }
        assert!(back.0.lock().unwrap().len() <= MANY);
    }

    #[test]
    fn what_was_taken_over_says_nothing_of_files() {
        let part = |is_taken_over| HashedPart {
            id: ComponentId::generate(),
            kind: "vae".into(),
            digest: "a".into(),
            is_taken_over,
            tensors: Vec::new(),
            files: vec![FileKey { size_bytes: 1, mtime_ns: 1, inode: 1, dev: 1 }],
        };
        assert_eq!((of_part(&part(true)).files.len(), of_part(&part(false)).files.len()), (0, 1));
    }

    #[test]
    fn what_differs_names_all_files_of_its_component_and_no_other() {
        let key = |inode| FileKey { size_bytes: 1, mtime_ns: 1, inode, dev: 1 };
        let of = |files: &[u64]| Other {
            component: None,
            files: files.iter().map(|inode| key(*inode)).collect(),
            expected: "a".into(),
            actual: "b".into(),
        };
        let differing = Differing { others: vec![of(&[1, 2]), of(&[])], elsewhere: vec![key(3)] };
        assert!(differing.names(&[key(2), key(9)]) && differing.count() == 3);
        assert!(!differing.names(&[key(3)]) && !differing.names(&[]) && !Differing::default().names(&[key(1)]));
    }
}
