//! A batch of found models, written in a few statements: what is new, what changed, where it is, which parts it has.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sqlx::{FromRow, PgConnection, types::Json};

use super::{
    FileIdentity, ReadAs, ScanCounts, components, free_names, listed,
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
    /// Files that this host reported of it; none when it did not have it.
    files: Option<Value>,
}

/// How often names are looked for anew when others take them first.
const NAME_ATTEMPTS: usize = 5;

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

/// A model that was added.
#[derive(Debug)]
pub(super) struct Fresh<'w> {
    /// Its id.
    pub(super) id: ModelId,
    /// The name that was free.
    pub(super) name: String,
    /// What was found.
    pub(super) model: &'w Written<'w>,
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
    let added = insert(tx, place, fresh).await?;
    let fresh: Vec<(ModelId, &Written<'_>)> = added.iter().map(|fresh| (fresh.id, fresh.model)).collect();
    let old: Vec<(&Existing, &Written<'_>)> =
        old.into_iter().filter_map(|model| Some((existing.get(&model.found.rel_path)?, model))).collect();
    let changed = update(tx, &old).await?;
    counts.added += fresh.len() as u64;
    counts.changed += changed.len() as u64;
    counts.unchanged += old.len().saturating_sub(changed.len()) as u64;
    let moved = forget_hashes(tx, &old).await?;
    let everything: Vec<(ModelId, &Written<'_>)> =
        fresh.iter().copied().chain(old.iter().map(|(before, model)| (before.id, *model))).collect();
    locations(tx, place, &everything).await?;
    let asked: Vec<ModelId> = changed.iter().copied().filter(|id| !moved.contains(id)).collect();
    let parts = components::parts_of(tx, &asked).await?;
    let outdated = old.iter().filter(|(before, model)| {
        let recognised = (&before.model_type, &before.base, &before.read_as.0)
            != (&model.found.model_type, &model.found.base, &model.found.read_as);
        // its tensors have another canonical form, whatever was known of the old one
        let other = || recognised || !components::are(parts.get(&before.id), &model.found.components);
        moved.contains(&before.id) || (changed.contains(&before.id) && other())
    });
    let outdated: Vec<(ModelId, &Written<'_>)> = outdated.map(|(before, model)| (before.id, *model)).collect();
    let ids: Vec<ModelId> = outdated.iter().map(|(id, _)| *id).collect();
    components::forget(tx, &ids).await?;
    components::add(tx, fresh.iter().chain(&outdated).map(|(id, model)| (*id, model.found.components.as_slice())))
        .await?;
    Ok(Wrote { fresh: added, old: old.iter().map(|(before, _)| before.id).collect() })
}

/// Locks the rows in the order of their paths: whoever else writes several models does the same or waits for one at most.
async fn existing(
    tx: &mut PgConnection,
    place: Place<'_>,
    batch: &[Written<'_>],
) -> Result<HashMap<String, Existing>, DbError> {
    let paths: Vec<&str> = batch.iter().map(|model| model.found.rel_path.as_str()).collect();
    let rows: Vec<Existing> = sqlx::query_as(
        "select m.id, m.rel_path, m.type, m.base, m.read_as,
                (select l.files from model_locations l where l.model_id = m.id and l.host = $2) as files
         from models m where m.root = $1 and m.rel_path = any($3) order by m.rel_path for no key update of m",
    )
    .bind(place.root)
    .bind(place.host)
    .bind(paths)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.rel_path.clone(), row)).collect())
}

/// The columns of models that a scan writes, one array each.
struct Columns<'a> {
    types: Vec<&'a str>,
    bases: Vec<&'a str>,
    formats: Vec<&'a str>,
    variants: Vec<Option<&'a str>>,
    predictions: Vec<Option<&'a str>>,
    sizes: Vec<i64>,
    reasons: Vec<Option<&'a str>>,
    evidence: Vec<&'a str>,
    metadata: Vec<&'a str>,
    read_as: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(models: &[&'a Written<'a>]) -> Self {
        let text = |column: fn(&'a Written<'a>) -> &'a str| models.iter().map(|model| column(model)).collect();
        let option =
            |column: fn(&'a Written<'a>) -> Option<&'a str>| models.iter().map(|model| column(model)).collect();
        Self {
            types: text(|model| &model.found.model_type),
            bases: text(|model| &model.found.base),
            formats: text(|model| &model.found.format),
            variants: option(|model| model.found.variant.as_deref()),
            predictions: option(|model| model.found.prediction.as_deref()),
            sizes: models.iter().map(|model| model.found.size_bytes).collect(),
            reasons: option(|model| model.found.reason.as_deref()),
            evidence: text(|model| &model.texts.evidence),
            metadata: text(|model| &model.texts.metadata),
            read_as: text(|model| &model.texts.read_as),
        }
    }
}

/// Adds models under free names.
async fn insert<'w>(
    tx: &mut PgConnection,
    place: Place<'_>,
    mut models: Vec<&'w Written<'w>>,
) -> Result<Vec<Fresh<'w>>, DbError> {
    let mut added = Vec::with_capacity(models.len());
    // names are taken in one order by everybody, so that nobody waits for one who waits for him
    models.sort_by(|a, b| a.found.name.cmp(&b.found.name));
    let mut left: Vec<(ModelId, &Written<'_>)> = models.into_iter().map(|model| (ModelId::generate(), model)).collect();
    for _ in 0..NAME_ATTEMPTS {
        if left.is_empty() {
            return Ok(added);
        }
        let wanted: Vec<&str> = left.iter().map(|(_, model)| model.found.name.as_str()).collect();
        let names = free_names::free_names(tx, &wanted).await?;
        let done: HashSet<ModelId> = insert_as(tx, place, &left, &names).await?.into_iter().collect();
        let mut out = Vec::new();
        for ((id, model), name) in left.into_iter().zip(names) {
            if done.contains(&id) {
                added.push(Fresh { id, name, model });
            } else {
                out.push((id, model));
            }
        }
        left = out;
    }
    match left.first() {
        None => Ok(added),
        Some((_, model)) => Err(DbError::BadRow(format!("others kept taking the names like `{}`", model.found.name))),
    }
}

/// The ids of those whose name nobody else took in the meantime.
async fn insert_as(
    tx: &mut PgConnection,
    place: Place<'_>,
    models: &[(ModelId, &Written<'_>)],
    names: &[String],
) -> Result<Vec<ModelId>, DbError> {
    let ids: Vec<ModelId> = models.iter().map(|(id, _)| *id).collect();
    let models: Vec<&Written<'_>> = models.iter().map(|(_, model)| *model).collect();
    let paths: Vec<&str> = models.iter().map(|model| model.found.rel_path.as_str()).collect();
    let columns = Columns::of(&models);
    Ok(sqlx::query_scalar(
        "insert into models (id, name, root, rel_path, type, base, format, variant, prediction, size_bytes, reason, evidence, metadata,
                             read_as)
         select id, name, $1, rel_path, type, base, format, variant, prediction, size_bytes, reason, evidence::jsonb, metadata::jsonb,
                read_as::jsonb
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
                     $11::text[], $12::text[], $13::text[], $14::text[])
              as f (id, name, rel_path, type, base, format, variant, prediction, size_bytes, reason, evidence, metadata, read_as)
         on conflict (name) do nothing returning id",
    )
    .bind(place.root)
    .bind(ids)
    .bind(names)
    .bind(paths)
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
    .fetch_all(tx)
    .await?)
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
             read_as = f.read_as, version = m.version + 1, updated_at = now()
         from (select id, type, base, format, variant, prediction, size_bytes, reason, evidence::jsonb, metadata::jsonb,
                      read_as::jsonb
               from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
                           $9::text[], $10::text[], $11::text[])
                    as f (id, type, base, format, variant, prediction, size_bytes, reason, evidence, metadata, read_as)) as f
         where m.id = f.id
           and (m.type, m.base, m.format, m.variant, m.prediction, m.size_bytes, m.state, m.reason, m.evidence, m.metadata,
                m.read_as)
               is distinct from
               (f.type, f.base, f.format, f.variant, f.prediction, f.size_bytes, 'available', f.reason, f.evidence, f.metadata,
                f.read_as)
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
    .fetch_all(tx)
    .await?;
    Ok(changed.into_iter().collect())
}

/// Other bytes on disk: hashes and components of before say nothing of them. The ids of those models.
async fn forget_hashes(
    tx: &mut PgConnection,
    models: &[(&Existing, &Written<'_>)],
) -> Result<HashSet<ModelId>, DbError> {
    let files = |value: &Value| -> Result<Vec<FileIdentity>, DbError> {
        serde_json::from_value(value.clone()).map_err(|error| DbError::BadRow(format!("files of a location: {error}")))
    };
    let mut moved = Vec::new();
    for (before, model) in models {
        if let Some(known) = &before.files
            && files(known)? != model.found.files
        {
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
    sqlx::query(
        "insert into model_locations (model_id, host, root, rel_path, files, stamp)
         select id, $1, $2, rel_path, files::jsonb, stamp
         from unnest($3::text[], $4::text[], $5::text[], $6::text[]) as f (id, rel_path, files, stamp)
         on conflict (model_id, host) do update set root = excluded.root, rel_path = excluded.rel_path, files = excluded.files,
             stamp = excluded.stamp, seen_at = now()",
    )
    .bind(place.host)
    .bind(place.root)
    .bind(ids)
    .bind(paths)
    .bind(files)
    .bind(stamps)
    .execute(tx)
    .await?;
    Ok(())
}
