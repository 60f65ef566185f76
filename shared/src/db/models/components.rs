//! Component rows: one for each content. A row without a digest is provisional: when its tensors turn out to be those of
//! another row, it is merged into that one.

use std::collections::HashMap;

use sqlx::{PgConnection, PgExecutor};

use super::FoundComponent;
use crate::{
    db::DbError,
    ids::{ComponentId, ModelId},
};

/// What became of a digest that a load computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is the component's digest now, or was already.
    Own,
    /// The tensors are those of this older row; every model that had the component has that one now. What is resident under the component
    /// the caller moves.
    Merged(ComponentId),
    /// Another digest is registered for the component (G7).
    Mismatch,
    /// The component left the catalogue in the meantime.
    Gone,
}

/// Registers the digest that a read of a component's tensors computed in the canonical form of this version, in the caller's transaction.
/// Of a component that stands in the form of another build, nothing is registered or compared: a scan reads its model again.
///
/// # Errors
/// Database errors.
pub async fn register_digest(
    tx: &mut PgConnection,
    component: ComponentId,
    digest: &str,
    form: i32,
) -> Result<Registered, DbError> {
    // two loads of equal content under two rows: the second sees the first one's row
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('digest/' || $1, 0))")
        .bind(digest)
        .execute(&mut *tx)
        .await?;
    // not `for update`: the agent's own report of what is resident refers to the row at the same time
    let row: Option<(Option<String>, Option<ComponentId>)> = sqlx::query_as(
        "select digest, merged_into from components c where id = $1 and not exists
                 (select 1 from model_components p join models m on m.id = p.model_id
                  where p.component_id = c.id and m.canonical_form <> $2 and m.state <> 'missing') for no key update of c",
    )
    .bind(component)
    .bind(form)
    .fetch_optional(&mut *tx)
    .await?;
    match row {
        None => Ok(Registered::Gone),
        Some((Some(known), _)) => Ok(if known == digest { Registered::Own } else { Registered::Mismatch }),
        Some((None, Some(survivor))) => compare(tx, survivor, digest).await,
        Some((None, None)) => adopt(tx, component, digest).await,
    }
}

/// The row was merged before this load ended: the survivor's digest decides.
async fn compare(tx: &mut PgConnection, survivor: ComponentId, digest: &str) -> Result<Registered, DbError> {
    let same: Option<bool> = sqlx::query_scalar("select digest = $2 from components where id = $1")
        .bind(survivor)
        .bind(digest)
        .fetch_optional(tx)
        .await?
        .flatten();
    Ok(if same == Some(true) { Registered::Merged(survivor) } else { Registered::Mismatch })
}

async fn adopt(tx: &mut PgConnection, component: ComponentId, digest: &str) -> Result<Registered, DbError> {
    let survivor: Option<ComponentId> =
        sqlx::query_scalar("select id from components where digest = $1").bind(digest).fetch_optional(&mut *tx).await?;
    let Some(survivor) = survivor else {
        sqlx::query("update components set digest = $2, updated_at = now() where id = $1")
            .bind(component)
            .bind(digest)
            .execute(tx)
            .await?;
        return Ok(Registered::Own);
    };
    sqlx::query("update model_components set component_id = $2 where component_id = $1")
        .bind(component)
        .bind(survivor)
        .execute(&mut *tx)
        .await?;
    sqlx::query("update components set merged_into = $2, updated_at = now() where id = $1 or merged_into = $1")
        .bind(component)
        .bind(survivor)
        .execute(&mut *tx)
        .await?;
    Ok(Registered::Merged(survivor))
}

/// Of these, the ones that were merged into another, with that other.
///
/// # Errors
/// Database errors.
pub async fn merged(
    db: impl PgExecutor<'_>,
    components: &[ComponentId],
) -> Result<Vec<(ComponentId, ComponentId)>, DbError> {
    Ok(sqlx::query_as("select id, merged_into from components where id = any($1) and merged_into is not null")
        .bind(components)
        .fetch_all(db)
        .await?)
}

/// A part of a model: kind, bytes, parameters, tensors, dtype.
type Part = (String, i64, i64, i32, String);

/// The parts of these models.
pub(super) async fn parts_of(
    tx: &mut PgConnection,
    models: &[ModelId],
) -> Result<HashMap<ModelId, Vec<Part>>, DbError> {
    let mut parts: HashMap<ModelId, Vec<Part>> = HashMap::new();
    if models.is_empty() {
        return Ok(parts);
    }
    let rows: Vec<(ModelId, String, i64, i64, i32, String)> = sqlx::query_as(
        "select p.model_id, p.kind, c.bytes, c.param_count, c.tensor_count, c.dtype
         from model_components p join components c on c.id = p.component_id where p.model_id = any($1)",
    )
    .bind(models)
    .fetch_all(tx)
    .await?;
    for (model, kind, bytes, params, tensors, dtype) in rows {
        parts.entry(model).or_default().push((kind, bytes, params, tensors, dtype));
    }
    Ok(parts)
}

/// Whether these are exactly the parts that were found: metadata may change while the tensors do not.
pub(super) fn are(known: Option<&Vec<Part>>, found: &[FoundComponent]) -> bool {
    let part = |part: &FoundComponent| {
        (part.kind.clone(), part.bytes, part.param_count, part.tensor_count, part.dtype.clone())
    };
    let mut found: Vec<Part> = found.iter().map(part).collect();
    let mut known = known.cloned().unwrap_or_default();
    found.sort();
    known.sort();
    known == found
}

/// Takes their parts from models: their files changed, so what is known of the old ones says nothing of the new.
pub(super) async fn forget(tx: &mut PgConnection, models: &[ModelId]) -> Result<(), DbError> {
    if !models.is_empty() {
        sqlx::query("delete from model_components where model_id = any($1)").bind(models).execute(tx).await?;
    }
    Ok(())
}

/// Gives models the parts that were found, each a row of its own until digests tell which are equal.
pub(super) async fn add<'f>(
    tx: &mut PgConnection,
    models: impl Iterator<Item = (ModelId, &'f [FoundComponent])>,
) -> Result<(), DbError> {
    let parts: Vec<(ModelId, &FoundComponent)> =
        models.flat_map(|(model, parts)| parts.iter().map(move |part| (model, part))).collect();
    if parts.is_empty() {
        return Ok(());
    }
    let ids: Vec<ComponentId> = parts.iter().map(|_| ComponentId::generate()).collect();
    let column = |of: fn(&FoundComponent) -> &str| parts.iter().map(|(_, part)| of(part)).collect::<Vec<_>>();
    let (kinds, dtypes) = (column(|part| &part.kind), column(|part| &part.dtype));
    sqlx::query(
        "insert into components (id, kind, bytes, param_count, tensor_count, dtype)
         select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::integer[], $6::text[])",
    )
    .bind(&ids)
    .bind(&kinds)
    .bind(parts.iter().map(|(_, part)| part.bytes).collect::<Vec<_>>())
    .bind(parts.iter().map(|(_, part)| part.param_count).collect::<Vec<_>>())
    .bind(parts.iter().map(|(_, part)| part.tensor_count).collect::<Vec<_>>())
    .bind(dtypes)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into model_components (model_id, kind, component_id)
         select * from unnest($1::text[], $2::text[], $3::text[])",
    )
    .bind(parts.iter().map(|(model, _)| *model).collect::<Vec<_>>())
    .bind(kinds)
    .bind(ids)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes rows that no model has and no agent reports. A merged row stays for a day: an agent may still hold bytes under it.
pub(super) async fn sweep(tx: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query(
        "delete from components c
         where not exists (select 1 from model_components p where p.component_id = c.id)
           and not exists (select 1 from residency r where r.component_id = c.id)
           and not exists (select 1 from components m where m.merged_into = c.id)
           and (merged_into is null or updated_at < now() - interval '1 day')",
    )
    .execute(tx)
    .await?;
    Ok(())
}
