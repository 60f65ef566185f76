//! The read model of lists, written once for many models instead of by each statement that changes something of them.

use sqlx::{PgConnection, PgExecutor};

use super::{added::Fresh, write::Wrote};
use crate::{db::DbError, ids::ModelId};

/// From now on, in this transaction, lists do not follow what is written, until [`renew`].
pub(super) async fn wait(tx: &mut PgConnection) -> Result<(), DbError> {
    waits(tx, "on").await
}

/// Brings lists and searches up to date with these models: with all that were written since [`wait`].
pub(super) async fn renew(tx: &mut PgConnection, models: Vec<ModelId>) -> Result<(), DbError> {
    sqlx::query("select model_search_renew($1)").bind(models).execute(&mut *tx).await?;
    waits(tx, "off").await
}

/// Brings lists up to date with these models, and has their texts wait for [`make_due_texts`].
pub(super) async fn list(tx: &mut PgConnection, host: &str, wrote: Wrote<'_>) -> Result<(), DbError> {
    add(tx, host, &wrote.fresh).await?;
    if !wrote.old.is_empty() {
        sqlx::query("select model_search_list($1)").bind(wrote.old).execute(&mut *tx).await?;
    }
    waits(tx, "off").await
}

/// Lists models that were added in this transaction: nobody has said anything of them yet, no other host has them, and what is
/// listed is at hand. What `model_search_list` would read back from the tables is a third of what recording them takes the database.
async fn add(tx: &mut PgConnection, host: &str, models: &[Fresh<'_>]) -> Result<(), DbError> {
    if models.is_empty() {
        return Ok(());
    }
    let of = Columns(models);
    sqlx::query(
        "insert into model_search (model_id, name, title, type, base, format, variant, prediction, size_bytes, state, reason, tags,
                                   words, document, created_at, updated_at, kinds, hosts, text_due)
         select id, name, left(title, 1000), type, base, format, variant, prediction, size_bytes,
             case when is_unreadable then 'unreadable' else 'available' end, reason,
             case when tags is null then '{}'
                 else array(select distinct lower(tag) from jsonb_array_elements_text(tags::jsonb) as tag order by 1) end,
             '', '', now(), now(),
             case when kinds like '%,%' then array(select kind from unnest(string_to_array(kinds, ',')) as kind order by 1)
                 else string_to_array(kinds, ',') end,
             array[$1], true
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
                     $11::text[], $12::text[], $13::text[], $14::boolean[])
              as f (id, name, title, type, base, format, variant, prediction, size_bytes, reason, tags, kinds, is_unreadable)",
    )
    .bind(host)
    .bind(of.column(|fresh| fresh.id))
    .bind(of.column(|fresh| fresh.name.as_str()))
    .bind(of.column(|fresh| fresh.model.texts.title.as_deref()))
    .bind(of.column(|fresh| fresh.model.found.model_type.as_str()))
    .bind(of.column(|fresh| fresh.model.found.base.as_str()))
    .bind(of.column(|fresh| fresh.model.found.format.as_str()))
    .bind(of.column(|fresh| fresh.model.found.variant.as_deref()))
    .bind(of.column(|fresh| fresh.model.found.prediction.as_deref()))
    .bind(of.column(|fresh| fresh.model.found.size_bytes))
    .bind(of.column(|fresh| fresh.model.found.reason.as_deref()))
    .bind(of.column(|fresh| fresh.model.texts.tags.as_deref()))
    .bind(of.column(|fresh| {
        fresh.model.found.components.iter().map(|part| part.kind.as_str()).collect::<Vec<_>>().join(",")
    }))
    .bind(of.column(|fresh| fresh.model.found.is_unreadable))
    .execute(tx)
    .await?;
    Ok(())
}

/// Models as the arrays that a statement takes.
struct Columns<'m>(&'m [Fresh<'m>]);

impl<'m> Columns<'m> {
    fn column<T>(&self, of: impl Fn(&'m Fresh<'m>) -> T) -> Vec<T> {
        self.0.iter().map(of).collect()
    }
}

/// Makes the texts that searches by words read of models that are listed without them, for `most` models; of how many, so that
/// fewer than `most` says that none are left which nobody else is making. Any process may, at any time; each text is made once.
///
/// # Errors
/// Database errors.
pub async fn make_due_texts(db: impl PgExecutor<'_>, most: i64) -> Result<u64, DbError> {
    let made: i64 = sqlx::query_scalar("select model_search_read_due($1)").bind(most).fetch_one(db).await?;
    Ok(made.unsigned_abs())
}

/// Models that are listed, but that a search by words does not find yet, or finds by what they were before.
///
/// # Errors
/// Database errors.
pub async fn due_texts(db: impl PgExecutor<'_>) -> Result<u64, DbError> {
    let due: i64 = sqlx::query_scalar("select count(*) from model_search where text_due").fetch_one(db).await?;
    Ok(due.unsigned_abs())
}

async fn waits(tx: &mut PgConnection, value: &str) -> Result<(), DbError> {
    sqlx::query("select set_config('modelyard.search_waits', $1, true)").bind(value).execute(tx).await?;
    Ok(())
}
