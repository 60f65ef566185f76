//! Writing what is planned: under another name, in stretches that a later attempt may build on, read back before it gets its name.

use std::{
    io::{BufWriter, Seek, SeekFrom, Write},
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    Change, ConvertError, Document, Model, OutFile, Plan,
    back::{finished, hex, last, read_back, resume},
    emit::Emitter,
    header,
    journal::{self, Entry},
    look::{must_be_numbers, must_fit},
};
use crate::{
    probe::{Probe, read_json},
    safetensors,
    write::{JOB_KEY, NOTE_FILE, NOTE_SCHEMA, Partial, Place, Standing, WriteError, remove},
};

/// Small writes are gathered up to this.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes after which what is written is flushed, so that a later attempt need not write it again.
const STRETCH_BYTES: u64 = 64 << 20;
/// Largest small file that is copied.
const DOCUMENT_BYTES: u64 = 64 << 20;

/// What is to be written where.
pub struct Job<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The goal.
    pub place: &'a Place,
    /// Id of the job.
    pub job: String,
    /// What happens to weights on the way.
    pub change: Option<&'a dyn Change>,
    /// Says the same as `change` in a text: a later attempt goes on only where it is equal.
    pub changes: String,
    /// Replace what an earlier job of this kind wrote there.
    pub overwrite: bool,
    /// Take values that are not numbers.
    pub allow_nan: bool,
    /// Asked after [`WriteError::Stopped`] and errors of reading: whether a later attempt may come that goes on.
    pub keep: &'a dyn Fn() -> bool,
    /// Bytes of a stretch; the default where none.
    pub stretch_bytes: Option<u64>,
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("job", &self.job).field("place", &self.place).finish_non_exhaustive()
    }
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFile {
    /// Path below the folder; empty for a model of one file.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of what follows its header.
    pub payload_sha256: String,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Made {
    /// Files of tensors.
    pub files: Vec<MadeFile>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that an earlier attempt had written.
    pub resumed_bytes: u64,
}

/// Refuses a goal that is there and is not to be replaced, before anything is read for it.
///
/// # Errors
/// [`WriteError::Exists`] and others.
pub fn check_goal(place: &Place, job: &str, overwrite: bool) -> Result<(), WriteError> {
    place.standing(Some(job), overwrite, &writer_of).map(|_| ())
}

/// Removes what this job wrote, because it is nobody's result; whether it was there. What others have put there since stays.
///
/// # Errors
/// [`WriteError`].
pub fn withdraw(place: &Place, job: &str) -> Result<bool, WriteError> {
    match place.standing(Some(job), false, &writer_of) {
        Ok(Standing::Done) => {
            remove(&place.path()).map_err(|source| place.failed("removing it", source))?;
            Ok(true)
        }
        Ok(_) | Err(WriteError::Exists { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes it. `pace` is told of every chunk of bytes that is read or read back.
///
/// # Errors
/// [`ConvertError`]. Nothing with the goal's name has changed then; what is in the making stays only where [`Job::keep`] says so.
pub fn write(job: &Job<'_>, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Made, ConvertError> {
    let place = job.place;
    let standing = place.standing(Some(&job.job), job.overwrite, &writer_of)?;
    let busy = || ConvertError::Busy { path: place.path().display().to_string() };
    let mut partial = Partial::open(place, !job.plan.is_file())?.ok_or_else(busy)?;
    if standing == Standing::Done {
        partial.discard();
        return finished(&place.path(), job.plan, pace);
    }
    let made = Writer::new(job, &mut partial, pace).and_then(Writer::run);
    // somebody may have taken the name meanwhile: then it is no use either
    let named = made.and_then(|made| partial.publish(standing, &writer_of).map(|()| made).map_err(ConvertError::from));
    named.inspect_err(|error| {
        // another's file that could not be put back has the name of what was in the making
        let is_theirs = matches!(error, ConvertError::Write(WriteError::Displaced { .. }));
        if !(is_theirs || is_passing(error) && (job.keep)()) {
            partial.discard();
        }
    })
}

/// Errors after which another attempt may get further.
fn is_passing(error: &ConvertError) -> bool {
    matches!(error, ConvertError::Format(_) | ConvertError::Write(WriteError::Stopped | WriteError::Io { .. }))
}

/// The job that wrote the file or folder at `path`.
fn writer_of(path: &Path) -> Option<String> {
    if !path.is_dir() {
        return safetensors::read(path, "").ok()?.metadata.get(JOB_KEY).cloned();
    }
    let (note, _) = read_json(&path.join(NOTE_FILE), "", "note", 1 << 20).ok()?;
    let is_ours = note.get("schema")?.as_str()? == NOTE_SCHEMA;
    Some(note.get("job")?.as_str()?.to_owned()).filter(|_| is_ours)
}

struct Writer<'w, 'p> {
    job: &'w Job<'w>,
    partial: &'w mut Partial<'p>,
    emitter: Emitter<'w>,
    done: Vec<Entry>,
    made: Made,
}

impl<'w, 'p> Writer<'w, 'p> {
    fn new(
        job: &'w Job<'w>,
        partial: &'w mut Partial<'p>,
        pace: &'w mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Self, ConvertError> {
        let failed = |source| job.place.failed("reading the journal", source);
        let key = job.plan.key(&job.changes);
        let done = journal::read(&mut partial.journal, &key).map_err(failed)?;
        journal::begin(&mut partial.journal, &key, &done).map_err(failed)?;
        let there: u64 = (0..job.plan.files.len()).filter_map(|file| last(&done, file)).map(|entry| entry.bytes).sum();
        job.place.must_have_room(job.plan.bytes().saturating_sub(there))?;
        let emitter = Emitter::new(Model::probes(&job.plan.sources)?, job.change, pace);
        Ok(Self { job, partial, emitter, done, made: Made::default() })
    }

    fn run(mut self) -> Result<Made, ConvertError> {
        for (number, file) in self.job.plan.files.iter().enumerate() {
            let made = self.file(number, file)?;
            self.made.bytes = self.made.bytes.saturating_add(made.bytes);
            self.made.files.push(made);
        }
        for document in &self.job.plan.documents {
            self.made.bytes = self.made.bytes.saturating_add(self.document(document)?);
        }
        self.emitter.check_unchanged()?;
        for (file, made) in self.job.plan.files.iter().zip(&self.made.files) {
            let path = self.partial.path(&file.path);
            read_back(&path, file, made, &mut *self.emitter.pace)?;
        }
        Ok(self.made)
    }

    /// Writes one file of tensors, from where an earlier attempt ended.
    fn file(&mut self, number: usize, plan: &OutFile) -> Result<MadeFile, ConvertError> {
        let place = self.job.place;
        let failed = |source| place.failed("writing tensors", source);
        let mut file = self.partial.file(&plan.path)?;
        let (head, _) = header::bytes(plan, None)?;
        let resumed = last(&self.done, number).and_then(|entry| Some((entry, resume(&mut file, plan, entry, &head)?)));
        let (mut whole, mut bytes, mut hash) = match resumed {
            Some((entry, hash)) => (entry.tensors, entry.bytes, hash),
            None => (0, 0, Sha256::new()),
        };
        self.made.resumed_bytes = self.made.resumed_bytes.saturating_add(bytes);
        let begin = head.len() as u64;
        file.set_len(begin.saturating_add(bytes)).map_err(failed)?;
        if whole < plan.tensors.len() || plan.tensors.is_empty() {
            file.write_all_at(&head, 0).map_err(failed)?;
        }
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut safe = bytes;
        while let Some(tensor) = plan.tensors.get(whole) {
            let expected = bytes.saturating_add(tensor.bytes());
            let tally = self.emitter.tensor(tensor, &mut |chunk| {
                hash.update(chunk);
                bytes = bytes.saturating_add(chunk.len() as u64);
                out.write_all(chunk).map_err(|source| failed(source).into())
            })?;
            must_be_numbers(tensor, tally, self.job.allow_nan)?;
            must_fit(tensor, tally)?;
            if bytes != expected {
                let what = format!("`{}` has {} bytes too many or too few", tensor.name, expected.abs_diff(bytes));
                return Err(ConvertError::NotAsWritten { path: plan.path.clone(), what });
            }
            whole = whole.saturating_add(1);
            if bytes.saturating_sub(safe) >= self.job.stretch_bytes.unwrap_or(STRETCH_BYTES) {
                out.flush().and_then(|()| out.get_ref().sync_data()).map_err(failed)?;
                let entry = Entry { file: number, tensors: whole, bytes, sha256: hex(hash.clone()) };
                journal::append(&mut self.partial.journal, &entry).map_err(failed)?;
                safe = bytes;
            }
        }
        let sha256 = hex(hash);
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        let (head, _) = header::bytes(plan, Some(&sha256))?;
        file.write_all_at(&head, 0).and_then(|()| file.sync_all()).map_err(failed)?;
        let entry = Entry { file: number, tensors: whole, bytes, sha256: sha256.clone() };
        journal::append(&mut self.partial.journal, &entry).map_err(failed)?;
        Ok(MadeFile { path: plan.path.clone(), bytes: begin.saturating_add(bytes), payload_sha256: sha256 })
    }

    fn document(&self, document: &Document) -> Result<u64, ConvertError> {
        let failed = |source| self.job.place.failed("writing a small file", source);
        let mut file = self.partial.file(&document.path)?;
        let text = match &document.copy_of {
            None => document.text.clone(),
            Some(from) => {
                let probe = Probe::open(&from.path, &from.rel_path)?;
                probe.must_be(from)?;
                let length = usize::try_from(from.size.min(DOCUMENT_BYTES)).unwrap_or(0);
                let mut text = vec![0; length];
                probe.read_data(&mut text, 0)?;
                text
            }
        };
        file.set_len(0).and_then(|()| file.write_all(&text)).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(text.len() as u64)
    }
}
