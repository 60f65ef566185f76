//! Lists of models: filters, text, order, keyset pages, all over the read model `model_search`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor, Postgres, QueryBuilder};

use super::{ModelRow, text::Reading};
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
    /// On this host's disk.
    pub host: Option<String>,
    /// Part of the name, any case.
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
    fn order(&self) -> (ModelSort, bool) {
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
    fn column(self) -> (&'static str, &'static str) {
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
    /// How well the text fits; none without a text, or where the text is too common to rank.
    pub rank: Option<f64>,
}

const COLUMNS: &str = "s.model_id, s.name, s.title, s.type, s.base, s.format, s.variant, s.prediction, s.size_bytes, s.state, \
                       s.reason, s.tags, s.created_at, s.updated_at";

/// Models in order, one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list(conn: &mut PgConnection, filter: &ModelFilter, limit: i64) -> Result<Vec<ListedModel>, DbError> {
    if let Some(text) = &filter.text {
        text.prepare(conn).await?;
    }
    // planned for these very values: a plan that suits every filter suits none
    Ok(statement("", filter, limit).build_query_as().persistent(false).fetch_all(conn).await?)
}

/// How Postgres would find a page: its plan with times, line by line.
///
/// # Errors
/// Database errors.
pub async fn explain(conn: &mut PgConnection, filter: &ModelFilter, limit: i64) -> Result<Vec<String>, DbError> {
    if let Some(text) = &filter.text {
        text.prepare(conn).await?;
    }
    let mut statement = statement("explain (analyze, buffers, costs off) ", filter, limit);
    Ok(statement.build_query_scalar().persistent(false).fetch_all(conn).await?)
}

/// One model as lists show it.
///
/// # Errors
/// Database errors; [`DbError::BadRow`] when it left the catalogue.
pub async fn listed(db: impl PgExecutor<'_>, model: &ModelRow) -> Result<ListedModel, DbError> {
    let found = sqlx::query_as(
        "select model_id, name, title, type, base, format, variant, prediction, size_bytes, state, reason, tags,
                created_at, updated_at, null::float8 as rank
         from model_search where model_id = $1",
    )
    .bind(model.id)
    .fetch_optional(db)
    .await?;
    found.ok_or_else(|| DbError::BadRow(format!("model {} is not in `model_search`", model.id)))
}

fn statement(prefix: &str, filter: &ModelFilter, limit: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(prefix);
    query.push("select * from (select ").push(COLUMNS).push(", ");
    match &filter.text {
        Some(text) => text.push_rank(&mut query),
        None => {
            query.push("null::float8");
        }
    }
    query.push(" as rank from model_search s where true");
    push_facts(&mut query, filter);
    push_relations(&mut query, filter);
    if let Some(text) = &filter.text {
        text.push_condition(&mut query);
    }
    query.push(") s");
    push_page(&mut query, filter, limit);
    query
}

/// Conditions on the row itself.
fn push_facts(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    let lists = [
        ("type", &filter.types),
        ("base", &filter.bases),
        ("format", &filter.formats),
        ("variant", &filter.variants),
        ("prediction", &filter.predictions),
        ("state", &filter.states),
    ];
    for (column, values) in lists {
        if let Some(values) = values {
            query.push(" and s.").push(column).push(" = any(").push_bind(values.clone()).push(")");
        }
    }
    for (compare, size) in [(">=", filter.size_min), ("<=", filter.size_max)] {
        if let Some(size) = size {
            query.push(" and s.size_bytes ").push(compare).push(" ").push_bind(size);
        }
    }
    if !filter.tags.is_empty() {
        query.push(" and s.tags @> ").push_bind(filter.tags.clone());
    }
    if let Some(part) = &filter.name_contains {
        // the name begins `words`, which has the index
        let pattern = format!("%{}%", literal(part));
        query.push(" and s.words ilike ").push_bind(pattern.clone()).push(" and s.name ilike ").push_bind(pattern);
    }
    if let Some(hash) = &filter.hash {
        push_hash(query, hash);
    }
}

/// A text in which nothing is a pattern.
fn literal(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

/// Hex digits sort below `g`, so that a beginning is a range of an index.
fn push_hash(query: &mut QueryBuilder<Postgres>, hash: &str) {
    let mut or = " and (";
    for column in ["sha256", "payload_sha256", "content_digest"] {
        query.push(or).push("(s.").push(column).push(" >= ").push_bind(hash.to_owned());
        query.push(" and s.").push(column).push(" < ").push_bind(format!("{hash}g")).push(")");
        or = " or ";
    }
    query.push(")");
}

/// Conditions on what belongs to the model.
fn push_relations(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    if let Some(host) = &filter.host {
        query.push(" and exists (select 1 from model_locations l where l.model_id = s.model_id and l.host = ");
        query.push_bind(host.clone()).push(")");
    }
    if let Some(kinds) = &filter.components {
        query.push(" and exists (select 1 from model_components p where p.model_id = s.model_id and p.kind = any(");
        query.push_bind(kinds.clone()).push("))");
    }
    if let Some(tier) = &filter.resident {
        query.push(
            " and exists (select 1 from residency r join model_components p on p.component_id = r.component_id
              join host_leases h on h.incarnation = r.incarnation and h.lease_until > now()
              where p.model_id = s.model_id and r.state = 'ready' and r.tier = ",
        );
        query.push_bind(tier.clone()).push(")");
    }
}

fn push_page(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter, limit: i64) {
    let (sort, descending) = filter.order();
    let (column, kind) = sort.column();
    let (compare, direction) = if descending { (" < (", " desc") } else { (" > (", " asc") };
    if let Some((value, id)) = &filter.after {
        query.push(" where (s.").push(column).push(", s.model_id)").push(compare);
        query.push_bind(value.clone()).push("::text::").push(kind).push(", ").push_bind(*id).push("::text)");
    }
    query.push(" order by s.").push(column).push(direction).push(", s.model_id").push(direction);
    query.push(" limit ").push_bind(limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_in_the_statement() {
        let plain = statement("", &ModelFilter::default(), 10).sql().as_str().to_owned();
        assert!(!plain.contains(" and ") && plain.ends_with("order by s.name asc, s.model_id asc limit $1"), "{plain}");
        let filter = ModelFilter {
            types: Some(vec!["vae".into()]),
            hash: Some("0123abcd".into()),
            sort: ModelSort::Size,
            descending: true,
            after: Some(("7".into(), ModelId::generate())),
            ..ModelFilter::default()
        };
        let sql = statement("", &filter, 10).sql().as_str().to_owned();
        assert!(sql.contains("s.type = any($1)") && sql.contains("s.sha256 < $3"), "{sql}");
        assert!(sql.contains("(s.size_bytes, s.model_id) < ($8::text::bigint, $9::text)"), "{sql}");
    }

    #[test]
    fn nothing_in_a_part_of_a_name_is_a_pattern() {
        assert_eq!(literal(r"50%_\"), r"50\%\_\\");
    }
}
