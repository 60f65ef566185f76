//! Single models, and what belongs to given ones.

use sqlx::{FromRow, PgExecutor, types::Json};

use super::{ComponentRow, FileIdentity, LocationRow, ModelRow};
use crate::{
    db::DbError,
    ids::{ComponentId, ModelId},
};

/// Models in the catalogue.
///
/// # Errors
/// Database errors.
pub async fn count(db: impl PgExecutor<'_>) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select count(*) from models").fetch_one(db).await?)
}

/// A model by id or unique name.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, id_or_name: &str) -> Result<Option<ModelRow>, DbError> {
    Ok(sqlx::query_as("select * from models where id = $1 or name = $1 order by (id = $1) desc limit 1")
        .bind(id_or_name)
        .fetch_optional(db)
        .await?)
}

/// All model names, for "did you mean".
///
/// # Errors
/// Database errors.
pub async fn names(db: impl PgExecutor<'_>) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("select name from models order by name limit 10000").fetch_all(db).await?)
}

/// Names of these models, as far as they are in the catalogue.
///
/// # Errors
/// Database errors.
pub async fn names_of(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<(ModelId, String)>, DbError> {
    Ok(sqlx::query_as("select id, name from models where id = any($1)").bind(models).fetch_all(db).await?)
}

/// Components of models, by model and kind.
///
/// # Errors
/// Database errors.
pub async fn components_of(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<ComponentRow>, DbError> {
    Ok(sqlx::query_as(
        "select c.id, p.model_id, p.kind, c.bytes, c.param_count, c.tensor_count, c.dtype, c.digest
         from model_components p join components c on c.id = p.component_id where p.model_id = any($1) order by p.model_id, p.kind",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}

/// Which components models have, by model and kind: all that a list shows of them.
///
/// # Errors
/// Database errors.
pub async fn component_ids_of(
    db: impl PgExecutor<'_>,
    models: &[ModelId],
) -> Result<Vec<(ModelId, ComponentId)>, DbError> {
    Ok(sqlx::query_as(
        "select model_id, component_id from model_components where model_id = any($1) order by model_id, kind",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}

/// One component, as a part of the first model that has it. The id of a row that was merged into another finds that one.
///
/// # Errors
/// Database errors.
pub async fn component(db: impl PgExecutor<'_>, id: ComponentId) -> Result<Option<ComponentRow>, DbError> {
    Ok(sqlx::query_as(
        "select c.id, p.model_id, p.kind, c.bytes, c.param_count, c.tensor_count, c.dtype, c.digest
         from components c join model_components p on p.component_id = c.id join models m on m.id = p.model_id
         where c.id = (select coalesce(merged_into, id) from components where id = $1)
         order by m.state = 'missing', m.name, p.kind limit 1",
    )
    .bind(id)
    .fetch_optional(db)
    .await?)
}

/// A component with a model that it is in; one row for each such model.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct OwnedComponent {
    /// Component.
    pub id: ComponentId,
    /// Its kind.
    pub kind: String,
    /// The model it is in.
    pub model_id: ModelId,
    /// The model's name.
    pub model_name: String,
    /// Some host reports the model's files.
    pub is_on_disk: bool,
}

/// The owners of components; components that left the catalogue are left out.
///
/// # Errors
/// Database errors.
pub async fn owners_of(db: impl PgExecutor<'_>, components: &[ComponentId]) -> Result<Vec<OwnedComponent>, DbError> {
    Ok(sqlx::query_as(
        "select p.component_id as id, p.kind, p.model_id, m.name as model_name, m.state <> 'missing' as is_on_disk
         from model_components p join models m on m.id = p.model_id
         where p.component_id = any($1) order by m.state = 'missing', m.name, p.kind",
    )
    .bind(components)
    .fetch_all(db)
    .await?)
}

/// Locations of models on hosts. A finished scan of a root saw all that it left there.
///
/// # Errors
/// Database errors.
pub async fn locations_of(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<LocationRow>, DbError> {
    Ok(sqlx::query_as(
        "select l.model_id, l.host, l.root, l.rel_path, r.path as root_path, l.files, l.read_variant,
                greatest(l.seen_at, r.scanned_at) as seen_at
         from model_locations l join roots r on r.host = l.host and r.name = l.root
         where l.model_id = any($1) order by l.model_id, l.host",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}

/// The models of a root on a host that a path below the root belongs to: their own paths below it, and their files. The path may be a
/// model's own, or one of a file in it or beside it.
///
/// # Errors
/// Database errors.
pub async fn files_around(
    db: impl PgExecutor<'_>,
    host: &str,
    root: &str,
    path: &str,
) -> Result<Vec<(String, Vec<FileIdentity>)>, DbError> {
    let rows: Vec<(String, Json<Vec<FileIdentity>>)> = sqlx::query_as(
        "select l.rel_path, l.files from model_locations l
         where l.host = $1 and l.root = $2 and (l.rel_path = $3 or starts_with($3, l.rel_path || '/') or exists
               (select 1 from jsonb_array_elements(l.files) as f (file)
                where regexp_replace(l.rel_path, '[^/]*$', '') || (f.file ->> 'rel_path') = $3))",
    )
    .bind(host)
    .bind(root)
    .bind(path)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|(path, files)| (path, files.0)).collect())
}

/// Models of one of these types that are on the disks of a host, by name.
///
/// # Errors
/// Database errors.
pub async fn of_types_on(db: impl PgExecutor<'_>, host: &str, types: &[&str]) -> Result<Vec<ModelRow>, DbError> {
    Ok(sqlx::query_as(
        "select * from models m where type = any($2) and state = 'available'
           and exists (select 1 from model_locations l where l.model_id = m.id and l.host = $1) order by name",
    )
    .bind(host)
    .bind(types)
    .fetch_all(db)
    .await?)
}

/// Which hosts have which models on disk, for the placement.
///
/// # Errors
/// Database errors.
pub async fn hosts_with(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<(ModelId, String)>, DbError> {
    Ok(sqlx::query_as("select model_id, host from model_locations where model_id = any($1)")
        .bind(models)
        .fetch_all(db)
        .await?)
}

/// Of these, the hosts whose files of a model are still known by another variant than the one that is read by now, or could not be read
/// when they were looked at last while another host has them.
///
/// # Errors
/// Database errors.
pub async fn hosts_behind(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<(ModelId, String)>, DbError> {
    Ok(sqlx::query_as(
        "select l.model_id, l.host from model_locations l join models m on m.id = l.model_id
         where l.model_id = any($1) and l.rel_path = m.rel_path and m.state = 'available'
           and (l.files = '[]' or l.read_variant is distinct from m.read_as ->> 'variant')",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}
