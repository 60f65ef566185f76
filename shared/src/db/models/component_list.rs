//! Lists of components over all models: by kind, size and how often they occur on disk.

use sqlx::{FromRow, PgExecutor};

use crate::{db::DbError, ids::ComponentId};

/// What to list; absent means any.
#[derive(Debug, Clone, Default)]
pub struct ComponentFilter {
    /// Kinds.
    pub kinds: Option<Vec<String>>,
    /// Parts of a model with this id or name.
    pub model: Option<String>,
    /// Ready in this tier (`ram`, `vram`) of some host whose agent's lease is valid.
    pub resident: Option<String>,
    /// In at least so many models.
    pub min_models: i64,
    /// The last row of the page before.
    pub after: Option<(i64, ComponentId)>,
}

/// A component with what is known of it wherever it is.
#[derive(Debug, Clone, FromRow)]
pub struct SharedComponent {
    /// Id.
    pub id: ComponentId,
    /// Kind.
    pub kind: String,
    /// Bytes of its tensors.
    pub bytes: i64,
    /// Parameters.
    pub param_count: i64,
    /// Tensors.
    pub tensor_count: i32,
    /// Dtype, or `mixed`.
    pub dtype: String,
    /// Digest of its tensors, once known.
    pub digest: Option<String>,
    /// How many models have it, without those whose files are gone.
    pub models: i64,
    /// Bytes of all their copies on disk but one.
    pub spare_bytes: i64,
}

/// Components, the largest savings first, then by id; one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list_components(
    db: impl PgExecutor<'_>,
    filter: &ComponentFilter,
    limit: i64,
) -> Result<Vec<SharedComponent>, DbError> {
    let (after_spare, after_id) = filter.after.unzip();
    Ok(sqlx::query_as(
        "select * from (
             select c.id, c.kind, c.bytes, c.param_count, c.tensor_count, c.dtype, c.digest,
                    count(*) filter (where m.state <> 'missing') as models,
                    greatest(count(*) filter (where m.state <> 'missing') - 1, 0) * c.bytes as spare_bytes
             from components c join model_components p on p.component_id = c.id join models m on m.id = p.model_id
             where ($1::text[] is null or c.kind = any($1))
               and ($2::text is null or exists (select 1 from model_components q join models n on n.id = q.model_id
                    where q.component_id = c.id and (n.id = $2 or n.name = $2)))
               and ($3::text is null or exists (select 1 from residency r
                    join host_leases h on h.incarnation = r.incarnation and h.lease_until > now()
                    where r.component_id = c.id and r.tier = $3 and r.state = 'ready'))
             group by c.id having $4 <= 1 or count(*) filter (where m.state <> 'missing') >= $4) listed
         where $5::bigint is null or spare_bytes < $5 or (spare_bytes = $5 and id > $6::text)
         order by spare_bytes desc, id limit $7",
    )
    .bind(&filter.kinds)
    .bind(&filter.model)
    .bind(&filter.resident)
    .bind(filter.min_models)
    .bind(after_spare)
    .bind(after_id)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// One component; the id of a row that was merged into another finds that one.
///
/// # Errors
/// Database errors.
pub async fn shared_component(db: impl PgExecutor<'_>, id: ComponentId) -> Result<Option<SharedComponent>, DbError> {
    Ok(sqlx::query_as(
        "select c.id, c.kind, c.bytes, c.param_count, c.tensor_count, c.dtype, c.digest,
                count(*) filter (where m.state <> 'missing') as models,
                greatest(count(*) filter (where m.state <> 'missing') - 1, 0) * c.bytes as spare_bytes
         from components c join model_components p on p.component_id = c.id join models m on m.id = p.model_id
         where c.id = (select coalesce(merged_into, id) from components where id = $1) group by c.id",
    )
    .bind(id)
    .fetch_optional(db)
    .await?)
}
