//! What the catalogue knows of a host's files already: what a scan need not read again, and where models moved.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::{FileIdentity, FoundModel};
use crate::{db::DbError, ids::ModelId};

/// A model as the last scan of a host saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownModel {
    /// Its files with their identities.
    pub files: Vec<FileIdentity>,
    /// The files beside it, as its metadata notes them.
    pub sidecars: Value,
    /// Version of the rules that recognised it; none when it was never recorded.
    pub rules: Option<i64>,
}

/// What a host's scan of a root recorded, by path below the root. A model that is to be read `again` is left out.
///
/// # Errors
/// Database errors.
pub async fn known(
    db: impl PgExecutor<'_>,
    host: &str,
    root: &str,
    again: Option<ModelId>,
) -> Result<HashMap<String, KnownModel>, DbError> {
    let rows: Vec<(String, Value, Option<Value>, Option<i64>)> = sqlx::query_as(
        "select l.rel_path, l.files, m.metadata #> '{extracted,sidecars}', (m.metadata #>> '{extracted,rules}')::bigint
         from model_locations l join models m on m.id = l.model_id
         where l.host = $1 and l.root = $2 and m.state = 'available' and m.id is distinct from $3",
    )
    .bind(host)
    .bind(root)
    .bind(again)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(rel_path, files, sidecars, rules)| {
            let files = serde_json::from_value(files)
                .map_err(|error| DbError::BadRow(format!("files of `{rel_path}` in root {root}: {error}")))?;
            let sidecars = sidecars.unwrap_or_else(|| Value::Array(Vec::new()));
            Ok((rel_path, KnownModel { files, sidecars, rules }))
        })
        .collect()
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
