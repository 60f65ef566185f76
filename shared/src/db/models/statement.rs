//! The statement of one page of models: the keys of the page by conditions and order, then the rows of those keys.

use sqlx::{Postgres, QueryBuilder};

use super::{
    search::{ModelFilter, ModelSort},
    shelves::Shelf,
    way::{Way, asks_orders, asks_rows},
};
use crate::ids::ModelId;

const COLUMNS: &str = "s.model_id, s.name, s.title, s.type, s.base, s.format, s.variant, s.prediction, s.size_bytes, s.state, \
                       s.reason, s.tags, s.created_at, s.updated_at, s.verdict, s.verdict_stale";

/// What rows are asked for along a list, where their orders' indexes cannot say anything of it.
const ASKED_OF_ROWS: &str = ", s.tags, s.hosts, s.document";

/// Parts of names from this length on have trigrams; shorter ones are taken for beginnings.
const TRIGRAM: usize = 3;

/// A page that is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    /// Which models, in which order.
    pub(super) filter: &'w ModelFilter,
    /// Where they may be; not empty.
    pub(super) shelves: &'w [Shelf],
    /// The text of the filter as a query of documents.
    pub(super) asked: Option<&'w str>,
    /// The index of sizes is to be asked when models are collected.
    pub(super) by_size: bool,
    /// The last row that is known: (sort value as text, id).
    pub(super) after: Option<&'w (String, ModelId)>,
    /// Rows that are wanted after it.
    pub(super) limit: i64,
}

/// The statement, after `prefix`. The keys come first, because indexes alone can give them: a row is visited when it is shown.
pub(super) fn statement(prefix: &str, wanted: Wanted<'_>, way: Way) -> QueryBuilder<Postgres> {
    let Wanted { filter, after, limit, .. } = wanted;
    let (sort, descending) = filter.order();
    let mut query = QueryBuilder::new(prefix);
    query.push("select ").push(COLUMNS).push(", k.rank from (select * from (");
    match way {
        Way::Walk(models) => push_walk(&mut query, wanted, Some(models), asks_orders(filter)),
        Way::WalkRows(models) => push_walk(&mut query, wanted, Some(models), false),
        Way::WalkAll => push_walk(&mut query, wanted, None, asks_orders(filter)),
        Way::Collect => push_collection(&mut query, wanted, true),
        Way::CollectFacts => push_collection(&mut query, wanted, false),
    }
    query.push(") s");
    if sort == ModelSort::Rank {
        push_after(&mut query, filter, after, " where ");
    }
    push_order(&mut query, "s", sort, descending);
    query.push(" limit ").push_bind(limit).push(") k join model_search s using (model_id)");
    push_order(&mut query, "k", sort, descending);
    query
}

/// The keys of all that pass, in the order of nothing. The fence keeps the planner from walking the order instead.
fn push_collection(query: &mut QueryBuilder<Postgres>, wanted: Wanted<'_>, text_by_index: bool) {
    let Wanted { filter, asked, after, .. } = wanted;
    let (sort, _) = filter.order();
    query.push("select s.model_id, ");
    match &filter.text {
        Some(text) => text.push_rank(query),
        None => {
            query.push("null::float8");
        }
    }
    query.push(" as rank");
    if sort != ModelSort::Rank {
        query.push(", s.").push(sort.column().0);
    }
    query.push(if text_by_index {
        " from model_search s where true"
    } else {
        " from (select * from model_search s where true"
    });
    if sort != ModelSort::Rank {
        push_after(query, filter, after, " and ");
    }
    push_conditions(query, wanted);
    if !text_by_index {
        query.push(" offset 0) s where true");
    }
    push_text(query, filter, asked);
    query.push(" offset 0");
}

/// The keys of what passes among so many models along the list, or all, in its order: the lists of all types, merged. What indexes of
/// orders tell is looked at first; rows of what is left `apart`, or as they come along.
fn push_walk(query: &mut QueryBuilder<Postgres>, wanted: Wanted<'_>, models: Option<i64>, apart: bool) {
    let Wanted { filter, asked, .. } = wanted;
    let (sort, descending) = filter.order();
    let apart = asks_rows(filter) && apart;
    let (walked, also) = match (apart, asks_rows(filter)) {
        (true, _) => ("w", ""),
        (false, true) => ("s", ASKED_OF_ROWS),
        (false, false) => ("s", ""),
    };
    query
        .push("select ")
        .push(walked)
        .push(".model_id, null::float8 as rank, ")
        .push(walked)
        .push(".")
        .push(sort.column().0);
    query.push(" from (select * from (");
    push_shelves(query, wanted, also);
    query.push(") s");
    push_order(query, "s", sort, descending);
    if let Some(models) = models {
        query.push(" limit ").push_bind(models);
    }
    query.push(") ").push(walked);
    query.push(if apart {
        " cross join lateral (select from model_search s where s.model_id = w.model_id"
    } else {
        " where true"
    });
    push_rows(query, filter);
    push_text(query, filter, asked);
    query.push(if apart { " offset 0) as row" } else { "" });
}

/// The list of each type after the last page, with the columns `also`.
fn push_shelves(query: &mut QueryBuilder<Postgres>, wanted: Wanted<'_>, also: &str) {
    let Wanted { filter, shelves, after, .. } = wanted;
    let (sort, descending) = filter.order();
    let mut separator = "(";
    for shelf in shelves {
        query.push(separator).push("select s.model_id, s.").push(sort.column().0).push(also);
        query.push(" from model_search s where s.type = ").push_bind(shelf.model_type.clone());
        if let Some(profiles) = &shelf.profiles {
            query.push(" and s.profile = any(").push_bind(profiles.clone()).push(")");
        }
        push_sizes(query, filter);
        push_part(query, filter);
        push_after(query, filter, after, " and ");
        push_order(query, "s", sort, descending);
        query.push(")");
        separator = " union all (";
    }
}

/// All that is asked for but the text, in words that indexes know.
fn push_conditions(query: &mut QueryBuilder<Postgres>, wanted: Wanted<'_>) {
    let Wanted { filter, shelves, by_size, .. } = wanted;
    push_profiles(query, shelves);
    if by_size {
        // the index of sizes begins with it
        let types: Vec<String> = shelves.iter().map(|shelf| shelf.model_type.clone()).collect();
        query.push(" and s.type = any(").push_bind(types).push(")");
    }
    push_sizes(query, filter);
    let marks: Vec<String> = filter.tags.iter().chain(&filter.host).cloned().collect();
    if !marks.is_empty() {
        query.push(" and (s.tags || s.hosts) @> ").push_bind(marks);
    }
    push_part(query, filter);
    push_rows(query, filter);
}

/// Those that have the facts that are asked for.
pub(super) fn push_profiles(query: &mut QueryBuilder<Postgres>, shelves: &[Shelf]) {
    let profiles: Option<Vec<&[i64]>> = shelves.iter().map(|shelf| shelf.profiles.as_deref()).collect();
    if let Some(profiles) = profiles {
        query.push(" and s.profile = any(").push_bind(profiles.concat()).push(")");
    }
}

pub(super) fn push_sizes(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    for (compare, size) in [(">=", filter.size_min), ("<=", filter.size_max)] {
        if let Some(size) = size {
            query.push(" and s.size_bytes ").push(compare).push(" ").push_bind(size);
        }
    }
}

/// What only rows say.
pub(super) fn push_rows(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    if !filter.tags.is_empty() {
        query.push(" and s.tags @> ").push_bind(filter.tags.clone());
    }
    if let Some(host) = &filter.host {
        query.push(" and s.hosts @> array[").push_bind(host.clone()).push("::text]");
    }
    if let Some(hash) = &filter.hash {
        push_hash(query, hash);
    }
    push_relations(query, filter);
}

/// The text: by the models that were found to hold it, else by the query of their documents.
fn push_text(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter, asked: Option<&str>) {
    match (filter.text.as_ref().and_then(|text| text.found.as_ref()), asked) {
        (Some(found), _) => {
            query.push(" and s.model_id = any(").push_bind(found.clone()).push(")");
        }
        (None, Some(asked)) => {
            query.push(" and s.document @@ ").push_bind(asked.to_owned()).push("::text::tsquery");
        }
        (None, None) => {}
    }
}

/// A single value is compared as such: then the rest of an index is in order.
pub(super) fn push_values(query: &mut QueryBuilder<Postgres>, values: &[String]) {
    match values {
        [only] => query.push(" = ").push_bind(only.clone()),
        several => query.push(" = any(").push_bind(several.to_vec()).push(")"),
    };
}

pub(super) fn push_part(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    let Some(part) = &filter.name_contains else { return };
    if part.chars().count() < TRIGRAM {
        // after every text that begins with it, and before all others
        let end = format!("{part}{}", char::MAX);
        query
            .push(" and s.folded >= lower(")
            .push_bind(part.clone())
            .push(") and s.folded < lower(")
            .push_bind(end)
            .push(")");
        return;
    }
    query.push(" and s.folded like lower(").push_bind(format!("%{}%", literal(part))).push(")");
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
    if let Some(tier) = &filter.resident {
        query.push(
            " and exists (select 1 from residency r join model_components p on p.component_id = r.component_id
              join host_leases h on h.incarnation = r.incarnation and h.lease_until > now()
              where p.model_id = s.model_id and r.state = 'ready' and r.tier = ",
        );
        query.push_bind(tier.clone()).push(")");
    }
}

/// What follows the last row of the page before.
fn push_after(
    query: &mut QueryBuilder<Postgres>,
    filter: &ModelFilter,
    after: Option<&(String, ModelId)>,
    before: &str,
) {
    let (sort, descending) = filter.order();
    let (column, kind) = sort.column();
    if let Some((value, id)) = after {
        query.push(before).push("(s.").push(column).push(", s.model_id)").push(if descending {
            " < ("
        } else {
            " > ("
        });
        query.push_bind(value.clone()).push("::text::").push(kind).push(", ").push_bind(*id).push("::text)");
    }
}

fn push_order(query: &mut QueryBuilder<Postgres>, of: &str, sort: ModelSort, descending: bool) {
    let direction = if descending { " desc" } else { " asc" };
    query.push(" order by ").push(of).push(".").push(sort.column().0).push(direction);
    query.push(", ").push(of).push(".model_id").push(direction);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(filter: &ModelFilter, way: Way) -> String {
        let shelf =
            |model_type: &str| Shelf { model_type: model_type.into(), profiles: Some(vec![1]), counted: Some(1) };
        let shelves = [shelf("vae"), shelf("lora")];
        let wanted =
            Wanted { filter, shelves: &shelves, asked: None, by_size: true, after: filter.after.as_ref(), limit: 10 };
        statement("", wanted, way).sql().as_str().to_owned()
    }

    #[test]
    fn a_walk_merges_the_lists_of_types_and_asks_rows_only_what_only_they_know() {
        let filter = ModelFilter {
            sort: ModelSort::Size,
            descending: true,
            size_min: Some(1),
            after: Some(("7".into(), ModelId::generate())),
            ..ModelFilter::default()
        };
        let lone = "(select s.model_id, s.size_bytes from model_search s where s.type = $1 and s.profile = any($2) and s.size_bytes >= $3 \
                    and (s.size_bytes, s.model_id) < ($4::text::bigint, $5::text) order by s.size_bytes desc, s.model_id desc)";
        let walk = sql(&filter, Way::WalkAll);
        assert!(walk.contains(&format!("{lone} union all (select")) && !walk.contains("lateral"), "{walk}");
        let tagged = ModelFilter { tags: vec!["x".into()], ..filter };
        let walk = sql(&tagged, Way::Walk(7));
        assert!(walk.contains(" limit $11) w cross join lateral (select from model_search s where"), "{walk}");
        let walk = sql(&tagged, Way::WalkRows(7));
        assert!(walk.contains(" limit $11) s where true and s.tags @> ") && !walk.contains("lateral"), "{walk}");
        let named = ModelFilter { name_contains: Some("abc".into()), ..ModelFilter::default() };
        let walk = sql(&named, Way::WalkAll);
        assert!(walk.contains("s.folded like") && !walk.contains("s.document"), "the index tells it: {walk}");
    }

    #[test]
    fn a_collection_asks_the_indexes_for_all_at_once() {
        let filter = ModelFilter {
            hash: Some("0123abcd".into()),
            host: Some("a".into()),
            tags: vec!["x".into()],
            size_max: Some(1),
            ..ModelFilter::default()
        };
        let collect = sql(&filter, Way::Collect);
        assert!(
            collect.contains(
                "s.profile = any($1) and s.type = any($2) and s.size_bytes <= $3 and (s.tags || s.hosts) @> $4"
            ),
            "{collect}"
        );
        assert!(collect.contains("s.sha256 < $8") && collect.contains(" offset 0) s order by s.name"), "{collect}");
    }

    #[test]
    fn nothing_in_a_part_of_a_name_is_a_pattern() {
        assert_eq!(literal(r"50%_\"), r"50\%\_\\");
    }
}
