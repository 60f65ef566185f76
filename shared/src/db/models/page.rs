//! Pages of lists over the read model `model_search`: which way each is looked for, and looking.

use sqlx::{FromRow, PgConnection, PgExecutor, Postgres, QueryBuilder, postgres::PgRow};

use super::{
    ModelRow,
    search::{ListedModel, ModelFilter},
    shelves::{self, Shelf},
    statement::{Wanted, statement},
    text::Reading,
    way::{self, Found, Way, through_indexes},
};
use crate::db::DbError;

/// Models in order, one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list(conn: &mut PgConnection, filter: &ModelFilter, limit: i64) -> Result<Vec<ListedModel>, DbError> {
    let mut search = Search::begin(conn, filter, limit).await?;
    let mut way = search.first(conn).await?;
    loop {
        let rows = search.look(conn, "", way).await?;
        match search.next(way, rows) {
            Some(another) => way = another,
            None => return Ok(search.page),
        }
    }
}

/// The same page looked for this way and no other; what a [`Way::Walk`] does not reach is not on it. For comparing ways with each other.
///
/// # Errors
/// Database errors; walks have no ranks, so that they cannot go by them.
pub async fn list_along(
    conn: &mut PgConnection,
    filter: &ModelFilter,
    limit: i64,
    way: Way,
) -> Result<Vec<ListedModel>, DbError> {
    Search::begin(conn, filter, limit).await?.look(conn, "", way).await
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
    let mut search = Search::begin(conn, filter, limit).await?;
    let mut plans = Vec::new();
    let mut way = Some(search.first(conn).await?);
    while let Some(tried) = way {
        let plan = search.look(conn, "explain (analyze, buffers, costs off) ", tried).await?;
        plans.push((tried, plan.into_iter().map(|(line,)| line).collect()));
        let rows = search.look(conn, "", tried).await?;
        way = search.next(tried, rows);
    }
    Ok(plans)
}

/// A page that is looked for: where its models may be, and those that were found.
struct Search<'f> {
    filter: &'f ModelFilter,
    limit: i64,
    shelves: Vec<Shelf>,
    by_size: bool,
    page: Vec<ListedModel>,
    looked: i64,
}

impl<'f> Search<'f> {
    async fn begin(conn: &mut PgConnection, filter: &'f ModelFilter, limit: i64) -> Result<Self, DbError> {
        let found_none = filter.text.as_ref().and_then(|text| text.found.as_ref()).is_some_and(Vec::is_empty);
        let shelves = if found_none { Vec::new() } else { shelves::find(conn, filter).await? };
        let by_size = way::by_size(filter, counted(&shelves), None);
        Ok(Self { filter, limit, shelves, by_size, page: Vec::new(), looked: 0 })
    }

    async fn first(&mut self, conn: &mut PgConnection) -> Result<Way, DbError> {
        let counted = counted(&self.shelves);
        if let Some(way) = way::first(self.filter, counted, self.limit) {
            return Ok(way);
        }
        let estimate = shelves::estimate(conn, self.filter, &self.shelves).await?;
        self.by_size = way::by_size(self.filter, counted, Some(estimate));
        Ok(way::of_so_many(self.filter, estimate, self.by_size, self.limit))
    }

    /// Takes what a way found onto the page; where to go on for the rest.
    fn next(&mut self, way: Way, rows: Vec<ListedModel>) -> Option<Way> {
        let count = |rows: &[ListedModel]| i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if let Way::Walk(length) | Way::WalkRows(length) = way {
            self.looked += length;
        }
        let last = count(&rows);
        self.page.extend(rows);
        way::next(self.filter, way, Found { rows: count(&self.page), last, looked: self.looked }, self.limit)
    }

    /// Rows of a statement for the rest of the page after `prefix`, planned for these very values: a plan that suits every filter
    /// suits none.
    async fn look<T>(&self, conn: &mut PgConnection, prefix: &str, way: Way) -> Result<Vec<T>, DbError>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        if self.shelves.is_empty() {
            return Ok(Vec::new());
        }
        let asked = self.asked(conn, way).await?;
        let last = self.page.last().map(|last| (self.filter.key_of(last), last.id));
        let wanted = Wanted {
            filter: self.filter,
            shelves: &self.shelves,
            asked: asked.as_deref(),
            by_size: self.by_size,
            after: last.as_ref().or(self.filter.after.as_ref()),
            limit: self.limit - i64::try_from(self.page.len()).unwrap_or(self.limit),
        };
        rows(conn, statement(prefix, wanted, way), way).await
    }

    /// The filter's text as a query of documents, for an index or for rows.
    async fn asked(&self, conn: &mut PgConnection, way: Way) -> Result<Option<String>, DbError> {
        match &self.filter.text {
            Some(text) if way == Way::Collect && text.found.is_none() => Ok(Some(text.query(conn).await?)),
            text => Ok(text.as_ref().map(Reading::query_of_rows)),
        }
    }
}

fn counted(shelves: &[Shelf]) -> Option<i64> {
    shelves.first().and_then(|shelf| shelf.counted)
}

/// Rows of a statement that is to find them by indexes.
async fn rows<T>(conn: &mut PgConnection, mut statement: QueryBuilder<Postgres>, way: Way) -> Result<Vec<T>, DbError>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let query = statement.build_query_as().persistent(false);
    let mut tx = through_indexes(conn, way).await?;
    let rows = query.fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(rows)
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
