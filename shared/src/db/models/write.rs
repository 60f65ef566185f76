//! A batch of found models, written in a few statements: what is new, what changed, where it is, which parts it has.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sqlx::{FromRow, PgConnection, types::Json};

use super::{
    FileIdentity, FoundModel, ReadAs, ScanCounts,
    added::{self, Fresh},
    columns::Columns,
    components, listed,
    written::{Batch, Written},
};
use crate::{db::DbError, ids::ModelId};

/// Where the models were found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Host.
    pub(super) host: &'a str,
    /// Root.
    pub(super) root: &'a str,
}

/// A model that the catalogue has at a path already.
#[derive(Debug, FromRow)]
struct Existing {
    id: ModelId,
    rel_path: String,
    #[sqlx(rename = "type")]
    model_type: String,
    base: String,
    read_as: Json<ReadAs>,
    canonical_form: i32,
    /// Files that this host reported of it; none when it did not have it.
    files: Option<Value>,
    /// The variant that those are of, where somebody had chosen one.
    read_variant: Option<String>,
}

impl Existing {
    /// Whether hashes and components are of other bytes than these files. Of another variant they are, whatever this host knew of it; and other
    /// files are of one variant, unless this host follows a choice: then another one reported that variant before, and what is known is of it.
    fn is_of_other_bytes(&self, found: &FoundModel) -> Result<bool, DbError> {
        if self.read_as.variant != found.read_as.variant {
            return Ok(true);
        }
        let Some(files) = &self.files else { return Ok(false) };
        let known: Vec<FileIdentity> = serde_json::from_value(files.clone())
            .map_err(|error| DbError::BadRow(format!("files of a location: {error}")))?;
        let follows = self.read_variant != found.read_as.variant;
        // of one that could not be read no files are known
        Ok(!known.is_empty() && known != found.files && !follows)
    }
}

/// The models of a batch that was written.
#[derive(Debug)]
pub(super) struct Wrote<'w> {
    /// Those that the catalogue did not have.
    pub(super) fresh: Vec<Fresh<'w>>,
    /// The others.
    pub(super) old: Vec<ModelId>,
}

impl Wrote<'_> {
    /// The ids of all of them.
    pub(super) fn ids(&self) -> Vec<ModelId> {
        self.fresh.iter().map(|model| model.id).chain(self.old.iter().copied()).collect()
    }
}

/// Writes one batch and counts what is new about it. Lists follow when the caller says so.
pub(super) async fn batch<'w>(
    tx: &mut PgConnection,
    place: Place<'_>,
    batch: &'w Batch<'w>,
    counts: &mut ScanCounts,
) -> Result<Wrote<'w>, DbError> {
    let batch = batch.models.as_slice();
    let existing = existing(tx, place, batch).await?;
    listed::wait(tx).await?;
    let (old, fresh): (Vec<&Written<'_>>, Vec<&Written<'_>>) =
        batch.iter().partition(|model| existing.contains_key(&model.found.rel_path));
    let added = added::insert(tx, place, fresh).await?;
    let fresh: Vec<(ModelId, &Written<'_>)> = added.iter().map(|fresh| (fresh.id, fresh.model)).collect();
    let old = old.into_iter().filter_map(|model| Some((existing.get(&model.found.rel_path)?, model)));
    let old: Vec<(&Existing, &Written<'_>)> = old.collect();
    let elsewhere = read_elsewhere(tx, place, &old).await?;
    let (unread, old): (Vec<(&Existing, &Written<'_>)>, Vec<_>) =
        old.into_iter().partition(|(before, model)| model.found.is_unreadable || elsewhere.contains(&before.id));
    let changed = update(tx, &old).await?;
    let unread: Vec<(ModelId, &Written<'_>)> = unread.iter().map(|(before, model)| (before.id, *model)).collect();
    let gone = unreadable(tx, place, &unread).await?;
    unreadable(tx, place, &fresh.iter().copied().filter(|(_, model)| model.found.is_unreadable).collect::<Vec<_>>())
        .await?;
    counts.added += fresh.len() as u64;
    counts.changed += changed.len() as u64 + gone;
    counts.unchanged += ((old.len() + unread.len()) as u64).saturating_sub(changed.len() as u64 + gone);
    let moved = forget_hashes(tx, &old).await?;
    let everything: Vec<(ModelId, &Written<'_>)> =
        fresh.iter().copied().chain(old.iter().map(|(before, model)| (before.id, *model))).collect();
    locations(tx, place, &everything).await?;
    let asked: Vec<ModelId> = changed.iter().copied().filter(|id| !moved.contains(id)).collect();
    let parts = components::parts_of(tx, &asked).await?;
    let outdated = old.iter().filter(|(before, model)| {
        let recognised = (&before.model_type, &before.base, &before.read_as.0)
            != (&model.found.model_type, &model.found.base, &model.found.read_as)
            || before.canonical_form != model.found.canonical_form;
        // its tensors have another canonical form, whatever was known of the old one
        let other = || recognised || !components::are(parts.get(&before.id), &model.found.components);
        moved.contains(&before.id) || (changed.contains(&before.id) && other())
    });
    let outdated: Vec<(ModelId, &Written<'_>)> = outdated.map(|(before, model)| (before.id, *model)).collect();
    let ids: Vec<ModelId> = outdated.iter().map(|(id, _)| *id).collect();
    components::forget(tx, &ids).await?;
    components::add(tx, fresh.iter().chain(&outdated).map(|(id, model)| (*id, model.found.components.as_slice())))
        .await?;
    let old = old.iter().map(|(before, _)| before.id).chain(unread.iter().map(|(id, _)| *id)).collect();
    Ok(Wrote { fresh: added, old })
}

/// Locks the rows in the order of their paths: whoever else writes several models does the same or waits for one at most.
async fn existing(
    tx: &mut PgConnection,
    place: Place<'_>,
    batch: &[Written<'_>],
) -> Result<HashMap<String, Existing>, DbError> {
    let paths: Vec<&str> = batch.iter().map(|model| model.found.rel_path.as_str()).collect();
    let rows: Vec<Existing> = sqlx::query_as(
        "select m.id, m.rel_path, m.type, m.base, m.read_as, m.canonical_form, l.files, l.read_variant
         from models m left join model_locations l on l.model_id = m.id and l.host = $2
         where m.root = $1 and m.rel_path = any($3) order by m.rel_path for no key update of m",
    )
    .bind(place.root)
    .bind(place.host)
    .bind(paths)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.rel_path.clone(), row)).collect())
}

/// Writes the facts of models that the catalogue has; the ids of those about which anything is new.
async fn update(tx: &mut PgConnection, models: &[(&Existing, &Written<'_>)]) -> Result<HashSet<ModelId>, DbError> {
    if models.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<ModelId> = models.iter().map(|(before, _)| before.id).collect();
    let written: Vec<&Written<'_>> = models.iter().map(|(_, model)| *model).collect();
    let columns = Columns::of(&written);
    let changed: Vec<ModelId> = sqlx::query_scalar(
        "update models m set type = f.type, base = f.base, format = f.format, variant = f.variant, prediction = f.prediction,
             size_bytes = f.size_bytes, state = 'available', reason = f.reason, evidence = f.evidence, metadata = f.metadata,
             read_as = f.read_as, canonical_form = f.canonical_form, version = m.version + 1, updated_at = now()
         from (select id, type, base, format, variant, prediction, size_bytes, reason, evidence::jsonb, metadata::jsonb,
                      read_as::jsonb, canonical_form
               from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
                           $9::text[], $10::text[], $11::text[], $12::integer[])
                    as f (id, type, base, format, variant, prediction, size_bytes, reason, evidence, metadata, read_as,
                          canonical_form)) as f
         where m.id = f.id
           and (m.type, m.base, m.format, m.variant, m.prediction, m.size_bytes, m.state, m.reason, m.evidence, m.metadata,
                m.read_as, m.canonical_form)
               is distinct from
               (f.type, f.base, f.format, f.variant, f.prediction, f.size_bytes, 'available', f.reason, f.evidence, f.metadata,
                f.read_as, f.canonical_form)
         returning m.id",
    )
    .bind(ids)
    .bind(columns.types)
    .bind(columns.bases)
    .bind(columns.formats)
    .bind(columns.variants)
    .bind(columns.predictions)
    .bind(columns.sizes)
    .bind(columns.reasons)
    .bind(columns.evidence)
    .bind(columns.metadata)
    .bind(columns.read_as)
    .bind(columns.canonical_forms)
    .fetch_all(tx)
    .await?;
    Ok(changed.into_iter().collect())
}

/// Of these, models whose chosen variant this host lacks and another has: they are what the other read, and this host's files are none of it.
async fn read_elsewhere(
    tx: &mut PgConnection,
    place: Place<'_>,
    models: &[(&Existing, &Written<'_>)],
) -> Result<HashSet<ModelId>, DbError> {
    let chosen =
        |model: &Written<'_>| model.found.read_as.variant.clone().filter(|_| model.found.components.is_empty());
    let lacking = models.iter().filter_map(|(before, model)| Some((before.id, chosen(model)?)));
    let (ids, variants): (Vec<ModelId>, Vec<String>) = lacking.unzip();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let found: Vec<ModelId> = sqlx::query_scalar(
        "select id from unnest($1::text[], $2::text[]) as f (id, variant) where exists
             (select 1 from model_locations l where l.model_id = f.id and l.host <> $3 and l.read_variant = f.variant and l.files <> '[]')",
    )
    .bind(ids)
    .bind(variants)
    .bind(place.host)
    .fetch_all(tx)
    .await?;
    Ok(found.into_iter().collect())
}

/// Notes that the files of these models cannot be read now, and why; of how many that is new. What is known of them holds until they can, and of
/// those that another host has nothing is wrong.
async fn unreadable(
    tx: &mut PgConnection,
    place: Place<'_>,
    models: &[(ModelId, &Written<'_>)],
) -> Result<u64, DbError> {
    if models.is_empty() {
        return Ok(0);
    }
    let ids: Vec<ModelId> = models.iter().map(|(id, _)| *id).collect();
    let reasons: Vec<Option<&str>> = models.iter().map(|(_, model)| model.found.reason.as_deref()).collect();
    let paths: Vec<&str> = models.iter().map(|(_, model)| model.found.rel_path.as_str()).collect();
    let noted = sqlx::query(
        "update models m set state = 'unreadable', reason = f.reason, version = m.version + 1, updated_at = now()
         from unnest($1::text[], $2::text[]) as f (id, reason)
         where m.id = f.id and (m.state, m.reason) is distinct from ('unreadable', f.reason)
           and not exists (select 1 from model_locations l where l.model_id = m.id and l.host <> $3)",
    )
    .bind(&ids)
    .bind(reasons)
    .bind(place.host)
    .execute(&mut *tx)
    .await?;
    // something is there, whatever it is; what was reported of another variant than the chosen one says nothing of this one
    let variants: Vec<Option<&str>> = models.iter().map(|(_, model)| model.found.read_as.variant.as_deref()).collect();
    sqlx::query(
        "insert into model_locations as l (model_id, host, root, rel_path, files, read_variant)
         select id, $1, $2, rel_path, '[]', variant from unnest($3::text[], $4::text[], $5::text[]) as f (id, rel_path, variant)
         on conflict (model_id, host) do update set files = excluded.files, read_variant = excluded.read_variant, stamp = null
             where l.read_variant is distinct from excluded.read_variant",
    )
    .bind(place.host)
    .bind(place.root)
    .bind(ids)
    .bind(paths)
    .bind(variants)
    .execute(tx)
    .await?;
    Ok(noted.rows_affected())
}

/// Other bytes on disk: hashes and components of before say nothing of them. The ids of those models.
async fn forget_hashes(
    tx: &mut PgConnection,
    models: &[(&Existing, &Written<'_>)],
) -> Result<HashSet<ModelId>, DbError> {
    let mut moved = Vec::new();
    for (before, model) in models {
        if before.is_of_other_bytes(&model.found)? {
            moved.push(before.id);
        }
    }
    if !moved.is_empty() {
        sqlx::query("update models set content_digest = null, sha256 = null, payload_sha256 = null where id = any($1)")
            .bind(&moved)
            .execute(tx)
            .await?;
    }
    Ok(moved.into_iter().collect())
}

async fn locations(tx: &mut PgConnection, place: Place<'_>, models: &[(ModelId, &Written<'_>)]) -> Result<(), DbError> {
    let ids: Vec<ModelId> = models.iter().map(|(id, _)| *id).collect();
    let paths: Vec<&str> = models.iter().map(|(_, model)| model.found.rel_path.as_str()).collect();
    let files: Vec<&str> = models.iter().map(|(_, model)| model.texts.files.as_str()).collect();
    let stamps: Vec<Option<&str>> = models.iter().map(|(_, model)| model.found.stamp.as_deref()).collect();
    let variants: Vec<Option<&str>> = models.iter().map(|(_, model)| model.found.read_as.variant.as_deref()).collect();
    sqlx::query(
        "insert into model_locations (model_id, host, root, rel_path, files, stamp, read_variant)
         select id, $1, $2, rel_path, files::jsonb, stamp, variant
         from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) as f (id, rel_path, files, stamp, variant)
         on conflict (model_id, host) do update set root = excluded.root, rel_path = excluded.rel_path, files = excluded.files,
             stamp = excluded.stamp, read_variant = excluded.read_variant, seen_at = now()",
    )
    .bind(place.host)
    .bind(place.root)
    .bind(ids)
    .bind(paths)
    .bind(files)
    .bind(stamps)
    .bind(variants)
    .execute(tx)
    .await?;
    Ok(())
}
