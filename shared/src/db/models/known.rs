//! What the catalogue knows of a host's files already: what a scan need not read again, and where models moved.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor, types::Json};

use super::{FileIdentity, FoundModel, ReadAs};
use crate::{db::DbError, ids::ModelId};

/// A model as the last scan of a host saw it, if it did.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownModel {
    /// Its files with their identities.
    pub files: Vec<FileIdentity>,
    /// The files beside it, as its metadata notes them.
    pub sidecars: Value,
    /// Version of the rules that recognised it; none when it has to be read.
    pub rules: Option<i64>,
    /// What the operator says it is.
    pub said: ReadAs,
    /// The correction that it was read with.
    pub read_as: ReadAs,
}

#[derive(FromRow)]
struct Known {
    rel_path: String,
    files: Value,
    sidecars: Option<Value>,
    rules: Option<i64>,
    said: Json<ReadAs>,
    read_as: Json<ReadAs>,
}

/// What is known of the models of a root, by path below it. Of a model that this host has not seen no files are known; one
/// that is to be read `again`, or was not available, has no rules.
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
        "select m.rel_path, coalesce(l.files, '[]') as files, m.metadata #> '{extracted,sidecars}' as sidecars,
                case when m.state = 'available' and m.id is distinct from $3 then (m.metadata #>> '{extracted,rules}')::bigint end
                    as rules, m.overrides as said, m.read_as
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
            let files = serde_json::from_value(row.files)
                .map_err(|error| DbError::BadRow(format!("files of `{}` in root {root}: {error}", row.rel_path)))?;
            let sidecars = row.sidecars.unwrap_or_else(|| Value::Array(Vec::new()));
            let (said, read_as) = (row.said.0, row.read_as.0);
            Ok((row.rel_path, KnownModel { files, sidecars, rules: row.rules, said, read_as }))
        })
        .collect()
}

/// Roots of a host with models that were not read as the operator says they are.
///
/// # Errors
/// Database errors.
pub async fn misread(db: impl PgExecutor<'_>, host: &str) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        "select distinct l.root from model_locations l join models m on m.id = l.model_id
         where l.host = $1 and m.state = 'available'
           and (m.overrides ->> 'type', m.overrides ->> 'base') is distinct from (m.read_as ->> 'type', m.read_as ->> 'base')
         order by 1",
    )
    .bind(host)
    .fetch_all(db)
    .await?)
}

/// Notes that a scan saw these models as before.
///
/// # Errors
/// Database errors.
pub(super) async fn seen_again(
    tx: &mut PgConnection,
    host: &str,
    root: &str,
    unchanged: &[String],
) -> Result<u64, DbError> {
    let seen = sqlx::query(
        "update model_locations set seen_at = now() from unnest($3::text[]) as path
         where host = $1 and root = $2 and rel_path = path",
    )
    .bind(host)
    .bind(root)
    .bind(unchanged)
    .execute(tx)
    .await?;
    Ok(seen.rows_affected())
}

/// Gives models whose files are now at another path that path, so that they keep id, name and everything
/// that was said of them. Only a path that no model has is taken, and only from a model whose path vanished.
///
/// # Errors
/// Database errors.
pub(super) async fn follow_renames(
    tx: &mut PgConnection,
    host: &str,
    root: &str,
    found: &[FoundModel],
    unchanged: &[String],
) -> Result<u64, DbError> {
    let present: Vec<&str> =
        found.iter().map(|model| model.rel_path.as_str()).chain(unchanged.iter().map(String::as_str)).collect();
    let vanished: Vec<(ModelId, Value)> = sqlx::query_as(
        "select model_id, files from model_locations l where host = $1 and root = $2
         and not exists (select 1 from unnest($3::text[]) as path where path = l.rel_path)",
    )
    .bind(host)
    .bind(root)
    .bind(&present)
    .fetch_all(&mut *tx)
    .await?;
    let mut moved = 0;
    for (id, files) in vanished {
        let files: Vec<FileIdentity> =
            serde_json::from_value(files).map_err(|error| DbError::BadRow(format!("files of model {id}: {error}")))?;
        let same: Vec<&FoundModel> = found.iter().filter(|model| same_files(&files, &model.files)).collect();
        // two paths to the same files do not say which of them the model moved to
        let [model] = same.as_slice() else { continue };
        moved += take_path(tx, id, root, &model.rel_path).await?;
    }
    Ok(moved)
}

async fn take_path(tx: &mut PgConnection, id: ModelId, root: &str, rel_path: &str) -> Result<u64, DbError> {
    let taken = sqlx::query(
        "update models set rel_path = $3, version = version + 1, updated_at = now() where id = $1 and root = $2
         and not exists (select 1 from models other where other.root = $2 and other.rel_path = $3)",
    )
    .bind(id)
    .bind(root)
    .bind(rel_path)
    .execute(tx)
    .await?;
    Ok(taken.rows_affected())
}

/// Whether these are the same files, whatever the model's own path.
fn same_files(before: &[FileIdentity], now: &[FileIdentity]) -> bool {
    let identity = |file: &FileIdentity| (file.inode, file.dev, file.size_bytes, file.mtime_ns);
    let mut before: Vec<_> = before.iter().map(identity).collect();
    let mut now: Vec<_> = now.iter().map(identity).collect();
    before.sort_unstable();
    now.sort_unstable();
    !now.is_empty() && before == now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_under_other_names_and_no_files_are_never_the_same() {
        let file = |rel_path: &str, inode| FileIdentity {
            rel_path: rel_path.into(),
            size_bytes: 1,
            mtime_ns: 2,
            inode,
            dev: 3,
        };
        assert!(same_files(&[file("a", 1), file("b", 2)], &[file("c", 2), file("d", 1)]));
        assert!(!same_files(&[file("", 1)], &[file("", 2)]));
        assert!(!same_files(&[], &[]));
    }
}
