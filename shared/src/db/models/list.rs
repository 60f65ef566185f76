//! Lists of models: filters, order, keyset pages.

use sqlx::PgExecutor;

use super::ModelRow;
use crate::{db::DbError, ids::ModelId};

/// What to list; absent means any.
#[derive(Debug, Clone, Default)]
pub struct ModelFilter {
    /// Types.
    pub types: Option<Vec<String>>,
    /// Bases.
    pub bases: Option<Vec<String>>,
    /// Formats.
    pub formats: Option<Vec<String>>,
    /// States.
    pub states: Option<Vec<String>>,
    /// On this host's disk.
    pub host: Option<String>,
    /// Part of the name, any case.
    pub name_contains: Option<String>,
    /// With a component ready in this tier (`ram`, `vram`) of some host whose agent's lease is valid.
    pub resident: Option<String>,
    /// Sort key.
    pub sort: ModelSort,
    /// Reverse the order.
    pub descending: bool,
    /// The last row of the page before: (sort value as text, id).
    pub after: Option<(String, ModelId)>,
}

/// Sort keys of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelSort {
    /// By name.
    #[default]
    Name,
    /// By bytes on disk.
    Size,
    /// By first sighting.
    Created,
}

impl ModelSort {
    /// The row's value of this key as text, for a cursor. Text order is not value order; the cursor is compared after a cast.
    pub fn value(self, row: &ModelRow) -> String {
        match self {
            Self::Name => row.name.clone(),
            Self::Size => row.size_bytes.to_string(),
            Self::Created => row.created_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        }
    }
}

macro_rules! list_sql {
    ($column:literal, $cast:literal, $compare:literal, $direction:literal) => {
        concat!(
            "select * from models m
             where ($1::text[] is null or type = any($1)) and ($2::text[] is null or base = any($2))
               and ($3::text[] is null or format = any($3)) and ($4::text[] is null or state = any($4))
               and ($5::text is null or exists (select 1 from model_locations l where l.model_id = m.id and l.host = $5))
               and ($6::text is null or position(lower($6) in lower(name)) > 0)
               and ($10::text is null or exists (select 1 from residency r join model_components c on c.component_id = r.component_id
                    join host_leases h on h.incarnation = r.incarnation and h.lease_until > now()
                    where c.model_id = m.id and r.tier = $10 and r.state = 'ready'))
               and ($7::text is null or (",
            $column,
            ", id) ",
            $compare,
            " ($7::",
            $cast,
            ", $8::text)) order by ",
            $column,
            " ",
            $direction,
            ", id ",
            $direction,
            " limit $9"
        )
    };
}

/// Models in order, one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list(db: impl PgExecutor<'_>, filter: &ModelFilter, limit: i64) -> Result<Vec<ModelRow>, DbError> {
    let statement = match (filter.sort, filter.descending) {
        (ModelSort::Name, false) => list_sql!("name", "text", ">", "asc"),
        (ModelSort::Name, true) => list_sql!("name", "text", "<", "desc"),
        (ModelSort::Size, false) => list_sql!("size_bytes", "text::bigint", ">", "asc"),
        (ModelSort::Size, true) => list_sql!("size_bytes", "text::bigint", "<", "desc"),
        (ModelSort::Created, false) => list_sql!("created_at", "text::timestamptz", ">", "asc"),
        (ModelSort::Created, true) => list_sql!("created_at", "text::timestamptz", "<", "desc"),
    };
    let (after_value, after_id) = filter.after.clone().unzip();
    Ok(sqlx::query_as(statement)
        .bind(&filter.types)
        .bind(&filter.bases)
        .bind(&filter.formats)
        .bind(&filter.states)
        .bind(&filter.host)
        .bind(&filter.name_contains)
        .bind(after_value)
        .bind(after_id)
        .bind(limit)
        .bind(&filter.resident)
        .fetch_all(db)
        .await?)
}
