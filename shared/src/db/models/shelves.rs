//! Where the models of a list may be: the types and profiles that have what is asked for, how many models those are, and an estimate
//! for conditions that no profile tells.

use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};

use super::{
    search::ModelFilter,
    statement::{push_part, push_profiles, push_rows, push_sizes, push_values},
    way::{Estimate, has_sizes},
};
use crate::db::DbError;

/// Models with the facts that are asked for are counted up to this.
pub(super) const COUNTED: i64 = 2_500;
/// Full pages of the table whose rows are looked at for an estimate: about five hundred models.
const SAMPLED_PAGES: i64 = 40;

/// Models of one type, as far as they have what is asked for.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(super) struct Shelf {
    /// The type.
    #[sqlx(rename = "type")]
    pub(super) model_type: String,
    /// Profiles with the facts that are asked for; none when no facts are asked for.
    pub(super) profiles: Option<Vec<i64>>,
    /// Models on all shelves, up to one more than [`COUNTED`]; none when no facts are asked for.
    pub(super) counted: Option<i64>,
}

/// What of a filter profiles tell: columns of which one of several values is asked for.
pub(super) fn facts(filter: &ModelFilter) -> [(&'static str, &Option<Vec<String>>); 7] {
    [
        ("type", &filter.types),
        ("base", &filter.bases),
        ("format", &filter.formats),
        ("variant", &filter.variants),
        ("prediction", &filter.predictions),
        ("state", &filter.states),
        ("judged", &filter.verdicts),
    ]
}

/// Whether anything is asked for that profiles tell.
pub(super) fn asks_for_facts(filter: &ModelFilter) -> bool {
    filter.components.is_some() || facts(filter).iter().any(|(_, values)| values.is_some())
}

/// The shelves; empty when nothing can pass.
pub(super) async fn find(conn: &mut PgConnection, filter: &ModelFilter) -> Result<Vec<Shelf>, DbError> {
    let mut query = QueryBuilder::<Postgres>::new("");
    if asks_for_facts(filter) {
        push_chosen(&mut query, filter);
    } else {
        query.push("select type, null::bigint[] as profiles, null::bigint as counted from (select distinct type from model_profiles) t");
    }
    if has_sizes(filter) {
        // a walk looks through all of a type to learn that it has nothing of these sizes
        query.push(" where exists (select from model_search s where s.type = t.type");
        push_sizes(&mut query, filter);
        query.push(")");
    }
    query.push(if asks_for_facts(filter) { " group by type" } else { "" });
    Ok(query.build_query_as().persistent(false).fetch_all(conn).await?)
}

/// Types and profiles with the facts that are asked for, and how many models have them.
fn push_chosen(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    query.push("with chosen as materialized (select distinct type, profile from model_profiles p where true");
    for (column, values) in facts(filter) {
        if let Some(values) = values {
            query.push(" and p.").push(column);
            push_values(query, values);
        }
    }
    if let Some(kinds) = &filter.components {
        query.push(" and p.kinds && ").push_bind(kinds.clone());
    }
    query.push(
        ") select type, array_agg(profile) as profiles, (select count(*) from (select from chosen c cross join lateral
           (select from model_search s where s.profile = c.profile offset 0) as alike limit ",
    );
    query.push_bind(COUNTED + 1).push(") as met) as counted from chosen t");
}

/// The share of the table, in percent, that is so many full pages of it. What was changed and not yet written over leaves pages empty, so
/// the rows that the table had when it was last analysed count, up to three pages in four being empty.
pub(super) fn push_share(query: &mut QueryBuilder<Postgres>, full_pages: i64) {
    query.push("select least(100, 100.0 * ").push_bind(full_pages).push(
        "::bigint / greatest(1, pages / 4, least(pages, case when reltuples <= 0 then pages else reltuples / 12 end)))::float8 as share
         from (select reltuples, pg_relation_size(oid)::float8 / current_setting('block_size')::int as pages
               from pg_class where oid = 'model_search'::regclass) as size_of",
    );
}

/// About how many models pass, told from a sample: what is found together with what, no statistics know.
pub(super) async fn estimate(
    conn: &mut PgConnection,
    filter: &ModelFilter,
    shelves: &[Shelf],
) -> Result<Estimate, DbError> {
    let mut query = QueryBuilder::new(
        "select 100 / share * shelved as shelved, 100 / share * with_facts as with_facts, 100 / share * ordered as ordered,
                100 / share * pass as pass from (",
    );
    push_share(&mut query, SAMPLED_PAGES);
    query.push(") as pages cross join lateral (select ");
    let types: Vec<String> = shelves.iter().map(|shelf| shelf.model_type.clone()).collect();
    for name in ["shelved", "with_facts", "ordered", "pass"] {
        query.push("count(*) filter (where s.type = any(").push_bind(types.clone()).push(")");
        if name != "shelved" {
            push_profiles(&mut query, shelves);
        }
        if name == "ordered" || name == "pass" {
            push_sizes(&mut query, filter);
            push_part(&mut query, filter);
        }
        if name == "pass" {
            push_rows(&mut query, filter);
        }
        query.push(") as ").push(name).push(if name == "pass" { "" } else { ", " });
    }
    query.push(" from model_search s tablesample system (share)) as sampled");
    Ok(query.build_query_as().persistent(false).fetch_one(conn).await?)
}
