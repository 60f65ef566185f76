//! Lists of models: filters, text, order, keyset pages, all over the read model `model_search`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor, Postgres, QueryBuilder, postgres::PgRow};

use super::{
    ModelRow,
    statement::{Wanted, push_index_of_facts, statement},
    text::Reading,
    way::{self, Way, through_indexes},
};
use crate::{db::DbError, ids::ModelId};

/// What to list; absent or empty means any.
#[derive(Debug, Clone, Default)]
pub struct ModelFilter {
    /// Types, as the operator says or as detected.
    pub types: Option<Vec<String>>,
    /// Bases, as the operator says or as detected.
    pub bases: Option<Vec<String>>,
    /// Formats.
    pub formats: Option<Vec<String>>,
    /// Dtypes of the weights.
    pub variants: Option<Vec<String>>,
    /// Prediction types.
    pub predictions: Option<Vec<String>>,
    /// States.
    pub states: Option<Vec<String>>,
    /// Verdicts of the last validation: `ok`, `degraded`, `invalid`, `unsafe` of the files that are there, `stale` for one of
    /// other files, `none` without any.
    pub verdicts: Option<Vec<String>>,
    /// On this host's disk.
    pub host: Option<String>,
    /// Part of the name, any case; of one or two characters, its beginning.
    pub name_contains: Option<String>,
    /// With a component ready in this tier (`ram`, `vram`) of some host whose agent's lease is valid.
    pub resident: Option<String>,
    /// With a component of one of these kinds.
    pub components: Option<Vec<String>>,
    /// With all of these tags, in lower case.
    pub tags: Vec<String>,
    /// Least bytes on disk.
    pub size_min: Option<i64>,
    /// Most bytes on disk.
    pub size_max: Option<i64>,
    /// Beginning of a hash in lower-case hex: SHA-256 of the file or of its payload, or BLAKE3.
    pub hash: Option<String>,
    /// Words that it must hold.
    pub text: Option<Reading>,
    /// Sort key.
    pub sort: ModelSort,
    /// Reverse the order.
    pub descending: bool,
    /// The last row of the page before: (sort value as text, id).
    pub after: Option<(String, ModelId)>,
}

impl ModelFilter {
    /// The row's value of the key that orders this list as text, for [`ModelFilter::after`].
    pub fn key_of(&self, row: &ListedModel) -> String {
        self.order().0.value(row)
    }

    /// The order in effect: what is too many to rank comes by name.
    pub(super) fn order(&self) -> (ModelSort, bool) {
        let unranked = self.text.as_ref().is_none_or(|text| !text.ranked);
        if self.sort == ModelSort::Rank && unranked { (ModelSort::Name, false) } else { (self.sort, self.descending) }
    }
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
    /// By last change.
    Updated,
    /// By how well the text fits; needs a text, and descending has the best first.
    Rank,
}

impl ModelSort {
    /// The row's value of this key as text, for a cursor. Text order is not value order; the cursor is compared after a cast.
    fn value(self, row: &ListedModel) -> String {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        match self {
            Self::Name => row.name.clone(),
            Self::Size => row.size_bytes.to_string(),
            Self::Created => time(row.created_at),
            Self::Updated => time(row.updated_at),
            Self::Rank => row.rank.unwrap_or(0.0).to_string(),
        }
    }

    /// Column and type.
    pub(super) fn column(self) -> (&'static str, &'static str) {
        match self {
            Self::Name => ("name", "text"),
            Self::Size => ("size_bytes", "bigint"),
            Self::Created => ("created_at", "timestamptz"),
            Self::Updated => ("updated_at", "timestamptz"),
            Self::Rank => ("rank", "float8"),
        }
    }
}

/// A model as lists show it: type, base and prediction as the operator says, else as detected.
#[derive(Debug, Clone, FromRow)]
pub struct ListedModel {
    /// Id.
    #[sqlx(rename = "model_id")]
    pub id: ModelId,
    /// Unique name.
    pub name: String,
    /// Title of people, else of files.
    pub title: Option<String>,
    /// Type.
    #[sqlx(rename = "type")]
    pub model_type: String,
    /// Base.
    pub base: String,
    /// Format.
    pub format: String,
    /// Dtype of the weights.
    pub variant: Option<String>,
    /// Prediction type.
    pub prediction: Option<String>,
    /// Bytes on disk.
    pub size_bytes: i64,
    /// `available`, `missing`, `unreadable`.
    pub state: String,
    /// Why it is unknown or not available.
    pub reason: Option<String>,
    /// Tags of people and files, in lower case.
    pub tags: Vec<String>,
    /// First seen.
    pub created_at: DateTime<Utc>,
    /// Last changed, by a scan or by people.
    pub updated_at: DateTime<Utc>,
    /// Verdict of the last validation of any host, if there was one.
    pub verdict: Option<String>,
    /// The files that it looked at are others by now.
    pub verdict_stale: bool,
    /// How well the text fits; none without a text, or where the text is too common to rank.
    pub rank: Option<f64>,
}

/// Models in order, one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list(conn: &mut PgConnection, filter: &ModelFilter, limit: i64) -> Result<Vec<ListedModel>, DbError> {
    let mut way = way::first(filter);
    loop {
        let asked = asked(conn, filter, way).await?;
        let wanted = Wanted { filter, asked: asked.as_deref(), limit };
        let page: Vec<ListedModel> = found(conn, statement("", wanted, way), way).await?;
        match next(conn, filter, way, page.len(), limit).await? {
            Some(another) => way = another,
            None => return Ok(page),
        }
    }
}

/// Where to go on after a page of so many rows.
async fn next(
    conn: &mut PgConnection,
    filter: &ModelFilter,
    way: Way,
    rows: usize,
    limit: i64,
) -> Result<Option<Way>, DbError> {
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    let models = if rows < limit && way::counts(filter, way) { Some(with_facts(conn, filter).await?) } else { None };
    Ok(way::next(filter, way, rows, limit, models))
}

/// How many models have the facts that are asked for; the index alone can tell.
async fn with_facts(conn: &mut PgConnection, filter: &ModelFilter) -> Result<i64, DbError> {
    let mut query = QueryBuilder::new("select count(*) from model_search s where true");
    push_index_of_facts(&mut query, filter);
    let mut tx = through_indexes(conn).await?;
    let models = query.build_query_scalar().persistent(false).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(models)
}

/// Rows of a statement, planned for these very values: a plan that suits every filter suits none.
async fn found<T>(conn: &mut PgConnection, mut statement: QueryBuilder<Postgres>, way: Way) -> Result<Vec<T>, DbError>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let query = statement.build_query_as().persistent(false);
    if way != Way::Collect {
        return Ok(query.fetch_all(conn).await?);
    }
    let mut tx = through_indexes(conn).await?;
    let rows = query.fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(rows)
}

/// The filter's text as a query of documents, for an index or for rows.
async fn asked(conn: &mut PgConnection, filter: &ModelFilter, way: Way) -> Result<Option<String>, DbError> {
    match &filter.text {
        Some(text) if way == Way::Collect && text.found.is_none() => Ok(Some(text.query(conn).await?)),
        text => Ok(text.as_ref().map(Reading::query_of_rows)),
    }
}

/// How Postgres would find a page: the plan of each way that it is looked for, with times, line by line.
///
/// # Errors
/// Database errors.
pub async fn explain(
    conn: &mut PgConnection,
    filter: &ModelFilter,
    limit: i64,
) -> Result<Vec<(Way, Vec<String>)>, DbError> {
    let mut plans = Vec::new();
    let mut way = Some(way::first(filter));
    while let Some(tried) = way {
        let asked = asked(conn, filter, tried).await?;
        let wanted = Wanted { filter, asked: asked.as_deref(), limit };
        let plan = found(conn, statement("explain (analyze, buffers, costs off) ", wanted, tried), tried).await?;
        plans.push((tried, plan.into_iter().map(|(line,)| line).collect()));
        let page: Vec<ListedModel> = found(conn, statement("", wanted, tried), tried).await?;
        way = next(conn, filter, tried, page.len(), limit).await?;
    }
    Ok(plans)
}

/// One model as lists show it.
///
/// # Errors
/// Database errors; [`DbError::BadRow`] when it left the catalogue.
pub async fn listed(db: impl PgExecutor<'_>, model: &ModelRow) -> Result<ListedModel, DbError> {
    let found = sqlx::query_as(
        "select model_id, name, title, type, base, format, variant, prediction, size_bytes, state, reason, tags,
                created_at, updated_at, verdict, verdict_stale, null::float8 as rank
         from model_search where model_id = $1",
    )
    .bind(model.id)
    .fetch_optional(db)
    .await?;
    found.ok_or_else(|| DbError::BadRow(format!("model {} is not in `model_search`", model.id)))
}
