//! The tensors of a model's components, as its files have them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::{
    db::DbError,
    ids::{ComponentId, ModelId},
};

/// A tensor of a file. Stored as a list of its fields in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct TensorRow {
    /// Name in the file.
    pub name: String,
    /// Names in diffusers or transformers of what is made of it: several of a fused one, none of an unknown one.
    pub canonical: Vec<String>,
    /// Element type.
    pub dtype: String,
    /// Shape in the file.
    pub shape: Vec<u64>,
    /// Path of the file below the model's own path; empty for a single file.
    pub file: String,
    /// First byte in the file.
    pub begin: u64,
    /// One past the last byte in the file.
    pub end: u64,
}

type Stored = (String, Vec<String>, String, Vec<u64>, String, u64, u64);

impl From<Stored> for TensorRow {
    fn from((name, canonical, dtype, shape, file, begin, end): Stored) -> Self {
        Self { name, canonical, dtype, shape, file, begin, end }
    }
}

impl From<TensorRow> for Stored {
    fn from(row: TensorRow) -> Self {
        (row.name, row.canonical, row.dtype, row.shape, row.file, row.begin, row.end)
    }
}

/// Records the tensors of a model's component, or of the one that it was merged into; false when the model does not have it any more.
///
/// # Errors
/// Database errors.
pub async fn set_tensors(
    tx: &mut PgConnection,
    model: ModelId,
    kind: &str,
    component: ComponentId,
    tensors: &[TensorRow],
) -> Result<bool, DbError> {
    let value = serde_json::to_value(tensors).map_err(|error| DbError::BadRow(error.to_string()))?;
    let set = sqlx::query(
        "update model_components set tensors = $4 where model_id = $1 and kind = $2
             and component_id = (select coalesce(merged_into, id) from components where id = $3)",
    )
    .bind(model)
    .bind(kind)
    .bind(component)
    .bind(value)
    .execute(tx)
    .await?;
    Ok(set.rows_affected() == 1)
}

/// Which tensors to list.
#[derive(Debug, Clone, Default)]
pub struct TensorFilter {
    /// Of this component.
    pub kind: Option<String>,
    /// With this text in a name, in any case.
    pub text: Option<String>,
    /// The last row of the page before: kind and number.
    pub after: Option<(String, i64)>,
}

/// A listed tensor: kind of its component, its number in it from 1, itself.
pub type ListedTensor = (String, i64, TensorRow);

/// Tensors of a model by component and in the order of its files; one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list_tensors(
    db: impl PgExecutor<'_>,
    model: ModelId,
    filter: &TensorFilter,
    limit: i64,
) -> Result<Vec<ListedTensor>, DbError> {
    let (after_kind, after_number) = filter.after.clone().unzip();
    let rows: Vec<(String, i64, Value)> = sqlx::query_as(
        "select p.kind, t.number, t.tensor
         from model_components p cross join lateral jsonb_array_elements(p.tensors) with ordinality as t (tensor, number)
         where p.model_id = $1 and ($2::text is null or p.kind = $2)
           and ($3::text is null or position(lower($3) in lower(t.tensor ->> 0)) > 0
                or position(lower($3) in lower(t.tensor ->> 1)) > 0)
           and ($4::text is null or (p.kind, t.number) > ($4, $5))
         order by p.kind, t.number limit $6",
    )
    .bind(model)
    .bind(&filter.kind)
    .bind(&filter.text)
    .bind(after_kind)
    .bind(after_number)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(kind, number, tensor)| {
            let tensor = serde_json::from_value(tensor)
                .map_err(|error| DbError::BadRow(format!("tensor {number} of `{kind}` of model {model}: {error}")))?;
            Ok((kind, number, tensor))
        })
        .collect()
}

/// Kinds of the model's components whose tensors nobody has listed yet.
///
/// # Errors
/// Database errors.
pub async fn without_tensors(db: impl PgExecutor<'_>, model: ModelId) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("select kind from model_components where model_id = $1 and tensors is null order by kind")
        .bind(model)
        .fetch_all(db)
        .await?)
}
