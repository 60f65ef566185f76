//! `metadata_write`: what is known of a model, written into a side-car or a re-headed copy below its root. The model's own files
//! are read and never written.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use model_formats::{
    FileFacts,
    write::{self, Copied, Copy, Place, WriteError},
};
use serde_json::json;
use shared::{
    db::models::{self, LocationRow, MetadataRow, ModelRow},
    job::{MetadataWriteArgs, WriteForm},
};

use super::{
    Done,
    hash::{facts, pace},
    load::watched,
    model::blocking,
};
use crate::{catalogue, commit::Effects, context::Agent, describe, error::WorkError, judge, running::Attempt};

pub(super) async fn run(agent: &Arc<Agent>, args: MetadataWriteArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    attempt.progress.enter("locating", 0);
    let subject = subject(agent, &args).await?;
    let to = args.to.clone().unwrap_or_else(|| args.form.default_path(&subject.here.rel_path));
    args.form.check_path(&to).map_err(|why| WriteError::BadPath { path: to.clone(), why: why.into() })?;
    let place = {
        let (root, to, files) = (subject.here.root_path.clone(), to.clone(), subject.files.clone());
        blocking("finding the place", move || {
            let place = Place::open(Path::new(&root), &to)?;
            place.must_be_none_of(&files)?;
            Ok::<_, WriteError>(place)
        })
        .await??
    };
    let path = place.path().display().to_string();
    let bytes = match args.form {
        WriteForm::Sidecar => sidecar(&subject, &args, attempt, place).await?,
        WriteForm::Copy => copy(agent, &subject, &args, attempt, place).await?,
    };
    let result = json!({
        "model": subject.model.name, "host": agent.host, "as": args.form.as_str(), "root": subject.here.root, "to": to,
        "path": path, "bytes": bytes, "seconds": started.elapsed().as_secs_f64(),
    });
    Ok(Done { result, effects: Effects::Wrote { root: subject.here.root } })
}

/// What is written of.
struct Subject {
    model: ModelRow,
    said: MetadataRow,
    here: LocationRow,
    files: Vec<FileFacts>,
}

async fn subject(agent: &Agent, args: &MetadataWriteArgs) -> Result<Subject, WorkError> {
    let found = models::find(&agent.pool, &args.model.to_string()).await?;
    let model = found.filter(|model| model.id == args.model).ok_or(WorkError::NoModel(args.model))?;
    let said = models::metadata(&agent.pool, model.id).await?;
    if args.version.is_some_and(|version| version != said.version) {
        return Err(WorkError::MetadataChanged { model: model.name });
    }
    let locations = models::locations_of(&agent.pool, &[model.id]).await?;
    let here = locations.into_iter().find(|location| location.host == agent.host);
    let here = here.ok_or_else(|| WorkError::NotHere { model: model.name.clone(), host: agent.host.clone() })?;
    let path = Path::new(&here.root_path).join(&here.rel_path);
    let files = here.identities()?.iter().map(|file| facts(&path, file)).collect();
    Ok(Subject { model, said, here, files })
}

async fn sidecar(
    subject: &Subject,
    args: &MetadataWriteArgs,
    attempt: &Attempt,
    place: Place,
) -> Result<u64, WorkError> {
    attempt.progress.enter("writing", 0);
    let document = describe::document(&subject.model, &subject.said, args, attempt.id);
    let overwrite = args.overwrite;
    Ok(blocking("writing a side-car", move || write::sidecar(&place, &document, overwrite)).await??)
}

async fn copy(
    agent: &Agent,
    subject: &Subject,
    args: &MetadataWriteArgs,
    attempt: &Attempt,
    place: Place,
) -> Result<u64, WorkError> {
    let [seen] = subject.files.as_slice() else {
        return Err(WorkError::NotCopied { model: subject.model.name.clone() });
    };
    judge::must_not_be_marked(agent, &[(seen.path.clone(), (&catalogue::identity(seen)).into())]).await?;
    let fields: BTreeMap<String, String> = describe::header_fields(&subject.model, &subject.said, args);
    let copy = Copy {
        metadata: fields,
        payload_sha256: subject.model.payload_sha256.clone(),
        job: attempt.id.to_string(),
        overwrite: args.overwrite,
    };
    attempt.progress.enter("copying", seen.size);
    let done = Arc::new(AtomicU64::new(0));
    let limits = agent.throttle.iter().cloned().collect();
    let mut pace = pace(limits, attempt.cancel.clone(), done.clone());
    let seen = seen.clone();
    let work = blocking("writing a copy", move || copy.make(&seen.path, &seen, &place, &mut pace));
    let Copied { bytes, .. } = watched(attempt, work, || done.load(Ordering::Relaxed)).await??;
    Ok(bytes)
}
