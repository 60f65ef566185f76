//! What the catalogue knows of a host's files already: what a scan need not read again, and where models moved.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, value::RawValue};
use sqlx::{FromRow, PgConnection, PgExecutor, types::Json};

use super::{FileIdentity, FoundModel, ReadAs, Scan};
use crate::{
    db::DbError,
    ids::{JobId, ModelId},
};

/// A model as the last scan of a host saw it, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// Whether this host has reported it.
    pub listed: bool,
    /// Its files with their identities.
    pub files: Vec<FileIdentity>,
    /// Of everything else that was looked at; none when it has to be read.
    pub stamp: Option<String>,
    /// What the operator says it is.
    pub said: ReadAs,
    /// The correction that it was read with; of the variant, on this host.
    pub read_as: ReadAs,
    /// Version of the canonical form that its components have.
    pub canonical_form: i32,
}

#[derive(FromRow)]
struct Known {
    rel_path: String,
    files: Option<Json<Box<RawValue>>>,
    stamp: Option<String>,
    read_variant: Option<String>,
    said: Json<ReadAs>,
    read_as: Json<ReadAs>,
    canonical_form: i32,
}

/// What is known of the models of a root, by path below it. Of a model that this host has not seen no files are known; one
/// that is to be read `again`, was not available, or is known by another variant than the chosen one has no stamp.
///
/// # Errors
/// Database errors.
pub async fn known(
    db: impl PgExecutor<'_>,
    host: &str,
    root: &str,
    again: Option<ModelId>,
) -> Result<HashMap<String, KnownModel>, DbError> {
    let rows: Vec<Known> = sqlx::query_as(
        "select m.rel_path, l.files, case when m.state = 'available' and m.id is distinct from $3
                     and m.read_as ->> 'variant' is not distinct from m.overrides ->> 'variant' then l.stamp end as stamp,
                l.read_variant, m.overrides as said, m.read_as, m.canonical_form
         from models m left join model_locations l on l.model_id = m.id and l.host = $1
         where m.root = $2",
    )
    .bind(host)
    .bind(root)
    .bind(again)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let files = row.files.as_ref().map(|files| serde_json::from_str(files.0.get())).transpose();
            let files: Option<Vec<FileIdentity>> = files
                .map_err(|error| DbError::BadRow(format!("files of `{}` in root {root}: {error}", row.rel_path)))?;
            let (said, read_as) = (row.said.0, ReadAs { variant: row.read_variant, ..row.read_as.0 });
            let (listed, files) = (files.is_some(), files.unwrap_or_default());
            let canonical_form = row.canonical_form;
            Ok((row.rel_path, KnownModel { listed, files, stamp: row.stamp, said, read_as, canonical_form }))
        })
        .collect()
}

/// Roots of a host with models that are not read as the operator says; with a job, of those that changed since it began: what was said
/// before it this scan has followed, or whatever kept it from it asks for another.
///
/// # Errors
/// Database errors.
pub async fn misread(db: impl PgExecutor<'_>, host: &str, job: Option<JobId>) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        "select distinct l.root from model_locations l join models m on m.id = l.model_id
         where l.host = $1 and l.rel_path = m.rel_path and m.state = 'available'
           and m.updated_at >= coalesce((select started_at from jobs where id = $2), '-infinity')
           and (m.overrides ->> 'type', m.overrides ->> 'base', m.overrides ->> 'variant')
               is distinct from (m.read_as ->> 'type', m.read_as ->> 'base', l.read_variant)
         order by 1",
    )
    .bind(host)
    .bind(job)
    .fetch_all(db)
    .await?)
}

/// A location whose path a scan did not find.
#[derive(Debug, FromRow)]
pub(super) struct Vanished {
    model_id: ModelId,
    rel_path: String,
    files: Value,
    stamp: Option<String>,
}

/// The locations of a host below a root where this scan found nothing, by model.
pub(super) async fn vanished(
    tx: &mut PgConnection,
    host: &str,
    root: &str,
    scan: Scan<'_>,
) -> Result<Vec<Vanished>, DbError> {
    let present = scan.present();
    let rows: Vec<(ModelId, String)> =
        sqlx::query_as("select model_id, rel_path from model_locations where host = $1 and root = $2")
            .bind(host)
            .bind(root)
            .fetch_all(&mut *tx)
            .await?;
    let gone: Vec<ModelId> =
        rows.into_iter().filter(|(_, path)| !present.contains(path.as_str())).map(|(id, _)| id).collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(
        "select model_id, rel_path, files, stamp from model_locations where host = $1 and model_id = any($2) order by model_id",
    )
    .bind(host)
    .bind(gone)
    .fetch_all(tx)
    .await?)
}

/// Removes locations that are still at the path that vanished; how many.
pub(super) async fn remove(tx: &mut PgConnection, host: &str, vanished: &[Vanished]) -> Result<u64, DbError> {
    if vanished.is_empty() {
        return Ok(0);
    }
    let ids: Vec<ModelId> = vanished.iter().map(|location| location.model_id).collect();
    let paths: Vec<&str> = vanished.iter().map(|location| location.rel_path.as_str()).collect();
    // as everybody who changes what is listed of a model: the model first, then what follows from it, seen as it is by then
    sqlx::query("select 1 from models where id = any($1) order by root, rel_path for no key update")
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
    let removed = sqlx::query(
        "delete from model_locations l using unnest($2::text[], $3::text[]) as gone (model_id, rel_path)
         where l.host = $1 and l.model_id = gone.model_id and l.rel_path = gone.rel_path",
    )
    .bind(host)
    .bind(ids)
    .bind(paths)
    .execute(tx)
    .await?;
    Ok(removed.rows_affected())
}

/// Gives models whose files are now at another path that path, so that they keep id, name and everything
/// that was said of them. Only a path that no model has is taken, and only from a model whose path vanished.
pub(super) async fn follow_renames(
    tx: &mut PgConnection,
    root: &str,
    vanished: &[Vanished],
    found: &[FoundModel],
) -> Result<u64, DbError> {
    let moves = moves(vanished, found)?;
    if moves.is_empty() {
        return Ok(0);
    }
    let (ids, paths): (Vec<ModelId>, Vec<&str>) = moves.into_iter().unzip();
    let taken = sqlx::query(
        "update models m set rel_path = f.rel_path, version = version + 1, updated_at = now()
         from unnest($2::text[], $3::text[]) as f (id, rel_path)
         where m.id = f.id and m.root = $1
           and not exists (select 1 from models other where other.root = $1 and other.rel_path = f.rel_path)",
    )
    .bind(root)
    .bind(ids)
    .bind(paths)
    .execute(tx)
    .await?;
    Ok(taken.rows_affected())
}

/// Which vanished model is now at which path. Two paths to the same files do not say which of them a model moved to; of two
/// models whose files were the same, the older one moved. A folder is known by all that is in it as well: at its new path another of its
/// variants may have been read, as nobody chose one there.
fn moves<'f>(vanished: &[Vanished], found: &'f [FoundModel]) -> Result<Vec<(ModelId, &'f str)>, DbError> {
    if vanished.is_empty() {
        return Ok(Vec::new());
    }
    let mut places: HashMap<Content<'_>, Vec<&str>> = HashMap::new();
    for model in found {
        for content in contents(&model.files, model.stamp.as_deref()) {
            places.entry(content).or_default().push(&model.rel_path);
        }
    }
    let mut moves = Vec::new();
    let mut taken = HashSet::new();
    for location in vanished {
        let files: Vec<FileIdentity> = serde_json::from_value(location.files.clone())
            .map_err(|error| DbError::BadRow(format!("files of model {}: {error}", location.model_id)))?;
        let place = |content| match places.get(&content).map(Vec::as_slice) {
            Some([path]) => Some(*path),
            _ => None,
        };
        let path = contents(&files, location.stamp.as_deref()).find_map(place);
        if let Some(path) = path.filter(|path| taken.insert(*path)) {
            moves.push((location.model_id, path));
        }
    }
    Ok(moves)
}

/// What a model is known by at another path.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Content<'s> {
    Files(Vec<Identity>),
    /// The stamp of a folder, which covers every file in it; that of a single file covers only what is beside it.
    Folder(&'s str),
}

fn contents<'s>(files: &[FileIdentity], stamp: Option<&'s str>) -> impl Iterator<Item = Content<'s>> {
    let is_folder = files.iter().all(|file| !file.rel_path.is_empty());
    let by_files = (!files.is_empty()).then(|| Content::Files(identities(files)));
    let by_stamp = stamp.filter(|_| is_folder && !files.is_empty()).map(Content::Folder);
    by_files.into_iter().chain(by_stamp)
}

/// Inode, device, size and time of writing: the file, whatever its name.
type Identity = (u64, u64, u64, i64);

fn identities(files: &[FileIdentity]) -> Vec<Identity> {
    let mut identities: Vec<Identity> =
        files.iter().map(|file| (file.inode, file.dev, file.size_bytes, file.mtime_ns)).collect();
    identities.sort_unstable();
    identities
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rel_path: &str, inode: u64) -> FileIdentity {
        FileIdentity { rel_path: rel_path.into(), size_bytes: 1, mtime_ns: 2, inode, dev: 3 }
    }

    fn found(rel_path: &str, files: Vec<FileIdentity>) -> FoundModel {
        FoundModel {
            rel_path: rel_path.into(),
            name: rel_path.into(),
            model_type: "vae".into(),
            base: "sd15".into(),
            format: "safetensors".into(),
            variant: None,
            prediction: None,
            size_bytes: 1,
            is_unreadable: false,
            reason: None,
            evidence: Value::Null,
            metadata: Value::Null,
            files,
            read_as: ReadAs::default(),
            canonical_form: 1,
            components: Vec::new(),
            stamp: None,
        }
    }

    fn gone(files: &[FileIdentity]) -> Vanished {
        let files = serde_json::to_value(files).unwrap();
        Vanished { model_id: ModelId::generate(), rel_path: "gone".into(), files, stamp: Some("s".into()) }
    }

    #[test]
    fn a_model_follows_its_files_under_any_names_but_never_no_files_or_two_places() {
        let one = gone(&[file("a", 1), file("b", 2)]);
        let now = [found("here", vec![file("c", 2), file("d", 1)]), found("empty", Vec::new())];
        assert_eq!(moves(std::slice::from_ref(&one), &now).unwrap(), [(one.model_id, "here")]);
        assert_eq!(moves(&[gone(&[file("", 7)]), gone(&[])], &now).unwrap(), []);
        let twice = [found("x", vec![file("", 1)]), found("y", vec![file("", 1)])];
        assert_eq!(moves(&[gone(&[file("", 1)])], &twice).unwrap(), []);
        // two models of one file: only one can move
        let both = [gone(&[file("", 1)]), gone(&[file("", 1)])];
        assert_eq!(moves(&both, &twice[..1]).unwrap(), [(both[0].model_id, "x")]);
    }

    #[test]
    fn a_folder_is_followed_whichever_of_its_variants_was_read() {
        let stamped = |path: &str, files| FoundModel { stamp: Some("s".into()), ..found(path, files) };
        let chosen = gone(&[file("unet/a.fp16", 1)]);
        let usual = stamped("here", vec![file("unet/a", 2)]);
        assert_eq!(
            moves(std::slice::from_ref(&chosen), std::slice::from_ref(&usual)).unwrap(),
            [(chosen.model_id, "here")]
        );
        let again = stamped("there", vec![file("unet/a", 2)]);
        assert_eq!(moves(std::slice::from_ref(&chosen), &[usual, again]).unwrap(), [], "two places");
        // all single files with nothing beside them have one stamp
        assert_eq!(moves(&[gone(&[file("", 1)])], &[stamped("one", vec![file("", 2)])]).unwrap(), []);
    }
}
