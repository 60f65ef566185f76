//! Files of a host whose bytes were read and are not the registered ones. Whoever reads judges, in the transaction that ends its job;
//! while a mark stands, models with that file are not read from that host's disk.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgExecutor, types::Json};

use super::FileIdentity;
use crate::{
    db::{DbError, hashes},
    ids::{ComponentId, JobId, ModelId},
};

/// What to do about a file that is marked.
pub const CORRUPT_HINT: &str = "put a good file in its place and scan, or have it read again with `modelyard models validate MODEL \
    --level hash --host HOST`, which takes the mark off if its bytes are the registered ones; `modelyard models reidentify MODEL` \
    takes it off unread; where the registered digest is the one that is wrong, remove the copies that have it, touch the good ones and \
    scan, and it is computed anew";

/// Which file was read, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileKey {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system.
    pub dev: u64,
}

impl From<&FileIdentity> for FileKey {
    fn from(file: &FileIdentity) -> Self {
        Self { size_bytes: file.size_bytes, mtime_ns: file.mtime_ns, inode: file.inode, dev: file.dev }
    }
}

/// A file of a model on a host, with its mark.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct CorruptRow {
    /// The model.
    pub model_id: ModelId,
    /// Host.
    pub host: String,
    /// Folder of the root on that host.
    pub root_path: String,
    /// The model's path below the root.
    pub rel_path: String,
    /// The file's path below the model's own; empty for a single file.
    pub file: String,
    /// Kind of the component whose digest differs; none where the hash of the whole file does, or the model has the component no more.
    pub component: Option<String>,
    /// What is registered.
    pub expected: String,
    /// What was read.
    pub actual: String,
    /// The job that found it out.
    pub job_id: JobId,
    /// When.
    pub found_at: DateTime<Utc>,
}

impl CorruptRow {
    /// The model's full path on the host.
    pub fn path(&self) -> String {
        format!("{}/{}", self.root_path.trim_end_matches('/'), self.rel_path)
    }
}

impl std::fmt::Display for CorruptRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.file.is_empty() {
            write!(f, "`{}` of ", self.file)?;
        }
        write!(f, "`{}` was read on `{}` with digest `{}`", self.path(), self.host, self.actual)?;
        if let Some(component) = &self.component {
            write!(f, " of its {component}")?;
        }
        write!(f, ", and `{}` is registered", self.expected)
    }
}

/// Of a mark `q`: no component has an unknown digest that a model of its host has in its file. The next read of such a one would not be
/// compared with anything, and register whatever it finds.
macro_rules! all_comparable {
    () => {
        "not exists (select 1 from model_locations o join model_components p on p.model_id = o.model_id
                     join components c on c.id = p.component_id
                     where o.host = q.host and o.files @> jsonb_build_array(q.file) and c.digest is null)"
    };
}

/// What became of what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It is what is registered; marks that said otherwise are off.
    Registered,
    /// This is registered instead; the files are marked.
    Other(String),
    /// Something else is registered, and no model here has the component in these files any more: nothing is marked, and what else was read of
    /// them is not to be recorded.
    Elsewhere,
    /// Nothing is registered that it could be compared with.
    Unknown,
}

/// Who read what where.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// The host.
    pub host: &'a str,
    /// The job.
    pub job: JobId,
    /// Version of the canonical form in which digests were computed.
    pub form: i32,
}

/// Compares the digest that a component was read with from these files with the registered one, and marks the files or takes the
/// component's marks off them. Of a component that stands in the form of another build nothing is compared, nor of one that no model has in
/// these files here any more: another variant was chosen meanwhile, or a scan found other files.
///
/// A mark names the digest that was registered when it was made. Who reads that one again from the same file has found it well, also where
/// the model's component is another row now, because one of its other files was replaced. So has who reads what is registered by now, for the
/// sake of a component that no model here has in the file any more, where all that models have in it can be compared.
///
/// # Errors
/// Database errors.
pub async fn judge_component(
    tx: &mut PgConnection,
    reader: Reader<'_>,
    component: ComponentId,
    files: &[FileKey],
    digest: &str,
) -> Result<Judged, DbError> {
    let registered: Option<(ComponentId, String)> = sqlx::query_as(
        "select c.id, c.digest from components c
         where c.id = (select coalesce(merged_into, id) from components where id = $1) and c.digest is not null
           and not exists (select 1 from model_components p join models m on m.id = p.model_id
                           where p.component_id = c.id and m.canonical_form <> $2 and m.state <> 'missing')",
    )
    .bind(component)
    .bind(reader.form)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some((component, expected)) = registered.as_ref().filter(|(_, expected)| expected != digest) {
        let its = files_of(tx, reader.host, *component, files).await?;
        if its.is_empty() && !files.is_empty() {
            return Ok(Judged::Elsewhere);
        }
        mark(tx, reader, Some(*component), &its, (expected, digest)).await?;
        return Ok(Judged::Other(expected.clone()));
    }
    let component = registered.map(|(component, _)| component);
    sqlx::query(
        "delete from corrupt_files where host = $1 and file = any($3)
             and (component_id = $2 or (component_id is not null and expected = $4))",
    )
    .bind(reader.host)
    .bind(component)
    .bind(keys(files))
    .bind(digest)
    .execute(&mut *tx)
    .await?;
    let Some(component) = component else { return Ok(Judged::Unknown) };
    let its = files_of(tx, reader.host, component, files).await?;
    take_former_off(tx, reader.host, &its).await?;
    Ok(Judged::Registered)
}

/// Takes the marks off these files that are for the sake of components that no model of the host has in them any more.
async fn take_former_off(tx: &mut PgConnection, host: &str, files: &[FileKey]) -> Result<(), DbError> {
    sqlx::query(concat!(
        "delete from corrupt_files q where q.host = $1 and q.file = any($2) and q.component_id is not null
           and not exists (select 1 from model_locations l join model_components p on p.model_id = l.model_id
                           where l.host = $1 and l.files @> jsonb_build_array(q.file) and p.component_id = q.component_id)
           and ",
        all_comparable!(),
    ))
    .bind(host)
    .bind(keys(files))
    .execute(tx)
    .await?;
    Ok(())
}

/// Those of these files in which a model of this host has this component, as it is read now.
async fn files_of(
    tx: &mut PgConnection,
    host: &str,
    component: ComponentId,
    files: &[FileKey],
) -> Result<Vec<FileKey>, DbError> {
    let its: Vec<Json<FileKey>> = sqlx::query_scalar(
        "select f.file from unnest($3::jsonb[]) as f (file)
         where exists (select 1 from model_components p join models m on m.id = p.model_id
                       join model_locations l on l.model_id = m.id and l.host = $1
                       where p.component_id = $2 and l.files @> jsonb_build_array(f.file)
                         and l.read_variant is not distinct from m.read_as ->> 'variant')",
    )
    .bind(host)
    .bind(component)
    .bind(keys(files))
    .fetch_all(tx)
    .await?;
    Ok(its.into_iter().map(|Json(file)| file).collect())
}

/// Compares the hash of a whole file with the one that was recorded of the same file, as [`judge_component`] does. A mark for the sake
/// of a component that is in this file alone is that component's, as long as a model here has it there and its digest is known; of one in
/// several files, or that no model here has in this one any more, it is told in this way that it is not this file that went bad.
///
/// # Errors
/// Database errors.
pub async fn judge_file(
    tx: &mut PgConnection,
    reader: Reader<'_>,
    file: &FileIdentity,
    blake3: &str,
) -> Result<Judged, DbError> {
    let Some(recorded) = hashes::of_file(&mut *tx, reader.host, file).await? else { return Ok(Judged::Unknown) };
    let file = [FileKey::from(file)];
    if recorded.blake3 != blake3 {
        mark(tx, reader, None, &file, (&recorded.blake3, blake3)).await?;
        return Ok(Judged::Other(recorded.blake3));
    }
    sqlx::query(
        "delete from corrupt_files q where q.host = $1 and q.file = any($2) and
             (not exists (select 1 from model_locations l join model_components p on p.model_id = l.model_id
                          join components c on c.id = p.component_id
                          where l.host = $1 and l.files @> jsonb_build_array(q.file) and p.component_id = q.component_id
                            and c.digest is not null)
              or exists (select 1 from model_locations l join model_components p on p.model_id = l.model_id
                         where l.host = $1 and l.files @> jsonb_build_array(q.file) and p.component_id = q.component_id
                           and jsonb_array_length(l.files) > 1))",
    )
    .bind(reader.host)
    .bind(keys(&file))
    .execute(tx)
    .await?;
    Ok(Judged::Registered)
}

/// Files that no location of the host has any more are not marked: a scan has seen others since.
async fn mark(
    tx: &mut PgConnection,
    reader: Reader<'_>,
    component: Option<ComponentId>,
    files: &[FileKey],
    (expected, actual): (&str, &str),
) -> Result<(), DbError> {
    sqlx::query(
        "insert into corrupt_files (host, file, component_id, expected, actual, job_id)
         select $1, file, $3, $4, $5, $6 from unnest($2::jsonb[]) as f (file)
         where exists (select 1 from model_locations l where l.host = $1 and l.files @> jsonb_build_array(f.file))
         on conflict (host, file, coalesce(component_id, '')) do update set expected = excluded.expected, actual = excluded.actual,
             job_id = excluded.job_id, found_at = now(), left_at = null",
    )
    .bind(reader.host)
    .bind(keys(files))
    .bind(component)
    .bind(expected)
    .bind(actual)
    .bind(reader.job)
    .execute(tx)
    .await?;
    Ok(())
}

/// In one order, and each once.
fn keys(files: &[FileKey]) -> Vec<Json<FileKey>> {
    files.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().map(Json).collect()
}

/// Takes the marks off all files of a model, because somebody says so: how many files are marked no more, and how many still are. Never
/// off a file of which any component has a digest that is not known, whichever model has it.
///
/// # Errors
/// Database errors.
pub async fn take_marks_off(tx: &mut PgConnection, model: ModelId) -> Result<(i64, i64), DbError> {
    let marked = "select count(distinct (q.host, q.file)) from corrupt_files q join model_locations l
                  on l.host = q.host and l.files @> jsonb_build_array(q.file) where l.model_id = $1";
    let before: i64 = sqlx::query_scalar(marked).bind(model).fetch_one(&mut *tx).await?;
    if before == 0 {
        return Ok((0, 0));
    }
    sqlx::query(concat!(
        "delete from corrupt_files q using model_locations l
         where l.host = q.host and l.model_id = $1 and l.files @> jsonb_build_array(q.file) and ",
        all_comparable!(),
    ))
    .bind(model)
    .execute(&mut *tx)
    .await?;
    let left: i64 = sqlx::query_scalar(marked).bind(model).fetch_one(tx).await?;
    Ok((before - left, left))
}

/// How long a mark is kept after no model has its file any more: another variant may be chosen now, and the same file again after that.
const KEPT_DAYS: i32 = 90;

/// Removes marks whose file no model has for so long that it will not come back as it was; until then they block nothing. The other files
/// of a component of which one was replaced stay marked: which of them was bad is not known, and the component that the model has now has no
/// digest that would tell.
pub(super) async fn sweep(tx: &mut PgConnection, host: &str) -> Result<(), DbError> {
    if !any_corrupt_files(&mut *tx, Some(host)).await? {
        return Ok(());
    }
    sqlx::query(
        "update corrupt_files q set left_at = case when q.left_at is null then now() end
         where q.host = $1 and (q.left_at is not null) =
             exists (select 1 from model_locations l where l.host = $1 and l.files @> jsonb_build_array(q.file))",
    )
    .bind(host)
    .execute(&mut *tx)
    .await?;
    sqlx::query("delete from corrupt_files where host = $1 and left_at < now() - make_interval(days => $2)")
        .bind(host)
        .bind(KEPT_DAYS)
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether any file of a host, or of all, is marked: seldom, and all else that is asked of marks costs more.
///
/// # Errors
/// Database errors.
pub async fn any_corrupt_files(db: impl PgExecutor<'_>, host: Option<&str>) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar("select exists (select 1 from corrupt_files where $1::text is null or host = $1)")
        .bind(host)
        .fetch_one(db)
        .await?)
}

/// The marked files of these models, by model and host.
///
/// # Errors
/// Database errors.
pub async fn corrupt_files(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<CorruptRow>, DbError> {
    Ok(sqlx::query_as(
        "select l.model_id, l.host, r.path as root_path, l.rel_path, f.file ->> 'rel_path' as file,
                (select min(p.kind) from model_components p
                 where p.model_id = l.model_id and p.component_id = q.component_id) as component,
                q.expected, q.actual, q.job_id, q.found_at
         from corrupt_files q join model_locations l on l.host = q.host and l.model_id = any($1)
         join roots r on r.host = l.host and r.name = l.root
         cross join lateral jsonb_array_elements(l.files) as f (file)
         where f.file @> q.file order by l.model_id, l.host, file",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}

/// The first of these files that is marked on this host, with what is registered and what was read.
///
/// # Errors
/// Database errors.
pub async fn corrupt_among(
    db: impl PgExecutor<'_>,
    host: &str,
    files: &[FileKey],
) -> Result<Option<(FileKey, String, String)>, DbError> {
    let row: Option<(Json<FileKey>, String, String)> = sqlx::query_as(
        "select file, expected, actual from corrupt_files where host = $1 and file = any($2) order by file limit 1",
    )
    .bind(host)
    .bind(keys(files))
    .fetch_optional(db)
    .await?;
    Ok(row.map(|(file, expected, actual)| (file.0, expected, actual)))
}

/// Those of these files that are marked on this host.
///
/// # Errors
/// Database errors.
pub async fn marked_among(db: impl PgExecutor<'_>, host: &str, files: &[FileKey]) -> Result<Vec<FileKey>, DbError> {
    let marked: Vec<Json<FileKey>> =
        sqlx::query_scalar("select distinct file from corrupt_files where host = $1 and file = any($2)")
            .bind(host)
            .bind(keys(files))
            .fetch_all(db)
            .await?;
    Ok(marked.into_iter().map(|Json(file)| file).collect())
}

/// How many files of models are marked on all hosts.
///
/// # Errors
/// Database errors.
pub async fn count_corrupt_files(db: impl PgExecutor<'_>) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar(
        "select count(distinct (host, file)) from corrupt_files q where exists
             (select 1 from model_locations l where l.host = q.host and l.files @> jsonb_build_array(q.file))",
    )
    .fetch_one(db)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_once_and_as_the_catalogue_has_it() {
        let key = |inode| FileKey { size_bytes: 3, mtime_ns: -1, inode, dev: u64::MAX };
        let stored: Vec<FileKey> = keys(&[key(9), key(2), key(9)]).into_iter().map(|Json(key)| key).collect();
        assert_eq!(stored, [key(2), key(9)]);
        // a location's file contains its key, whatever else is said of it
        let file = FileIdentity { rel_path: "a".into(), size_bytes: 3, mtime_ns: -1, inode: 2, dev: u64::MAX };
        let (file, key) = (serde_json::to_value(&file).unwrap(), serde_json::to_value(key(2)).unwrap());
        assert!(key.as_object().unwrap().iter().all(|(name, value)| file.get(name) == Some(value)), "{file} {key}");
    }
}
