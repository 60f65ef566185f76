//! Models that the catalogue did not have, written under free names.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{columns::Columns, free_names, write::Place, written::Written};
use crate::{db::DbError, ids::ModelId};

/// How often names are looked for anew when others take them first.
const NAME_ATTEMPTS: usize = 5;

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

/// Adds models under free names.
pub(super) async fn insert<'w>(
    tx: &mut PgConnection,
    place: Place<'_>,
    models: Vec<&'w Written<'w>>,
) -> Result<Vec<Fresh<'w>>, DbError> {
    let mut added = Vec::with_capacity(models.len());
    let mut left: Vec<(ModelId, &Written<'_>)> = models.into_iter().map(|model| (ModelId::generate(), model)).collect();
    for _ in 0..NAME_ATTEMPTS {
        if left.is_empty() {
            return Ok(added);
        }
        let wanted: Vec<&str> = left.iter().map(|(_, model)| model.found.name.as_str()).collect();
        let names = free_names::free_names(tx, &wanted).await?;
        let mut named: Vec<Fresh<'_>> =
            left.into_iter().zip(names).map(|((id, model), name)| Fresh { id, name, model }).collect();
        // a round takes its names in one order, so that few wait for one who waits for them: Postgres ends one of those
        named.sort_by(|a, b| a.name.cmp(&b.name));
        let done: HashSet<ModelId> = insert_as(tx, place, &named).await?.into_iter().collect();
        let (there, taken): (Vec<_>, Vec<_>) = named.into_iter().partition(|fresh| done.contains(&fresh.id));
        added.extend(there);
        left = taken.into_iter().map(|fresh| (fresh.id, fresh.model)).collect();
    }
    match left.first() {
        None => Ok(added),
        // with the names that this transaction holds others cannot go on either
        Some((_, model)) => Err(DbError::Names(model.found.name.clone())),
    }
}

/// The ids of those whose name nobody else took in the meantime.
async fn insert_as(tx: &mut PgConnection, place: Place<'_>, named: &[Fresh<'_>]) -> Result<Vec<ModelId>, DbError> {
    let ids: Vec<ModelId> = named.iter().map(|fresh| fresh.id).collect();
    let names: Vec<&str> = named.iter().map(|fresh| fresh.name.as_str()).collect();
    let models: Vec<&Written<'_>> = named.iter().map(|fresh| fresh.model).collect();
    let paths: Vec<&str> = models.iter().map(|model| model.found.rel_path.as_str()).collect();
    let columns = Columns::of(&models);
    Ok(sqlx::query_scalar(
        "insert into models (id, name, root, rel_path, type, base, format, variant, prediction, size_bytes, reason, evidence, metadata,
                             read_as, canonical_form)
         select id, name, $1, rel_path, type, base, format, variant, prediction, size_bytes, reason, evidence::jsonb, metadata::jsonb,
                read_as::jsonb, canonical_form
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
                     $11::text[], $12::text[], $13::text[], $14::text[], $15::integer[])
              as f (id, name, rel_path, type, base, format, variant, prediction, size_bytes, reason, evidence, metadata, read_as,
                    canonical_form)
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
    .bind(columns.canonical_forms)
    .fetch_all(tx)
    .await?)
}
