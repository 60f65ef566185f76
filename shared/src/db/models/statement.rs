//! The statement of one page of models: the keys of the page by conditions and order, then the rows of those keys.

use sqlx::{Postgres, QueryBuilder};

use super::{
    search::{ModelFilter, ModelSort},
    way::Way,
};

const COLUMNS: &str = "s.model_id, s.name, s.title, s.type, s.base, s.format, s.variant, s.prediction, s.size_bytes, s.state, \
                       s.reason, s.tags, s.created_at, s.updated_at, s.verdict, s.verdict_stale";

/// What a model is and has, as the index `model_search_found` knows it.
const FACTS: &str = "model_search_facts(s.tags, s.kinds, s.hosts, s.type, s.base, s.format, s.variant, s.prediction, s.state, s.judged)";

/// Parts of names from this length on have trigrams; shorter ones are taken for beginnings.
const TRIGRAM: usize = 3;

/// A page that is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    /// Which models, in which order.
    pub(super) filter: &'w ModelFilter,
    /// The text of the filter as a query of documents.
    pub(super) asked: Option<&'w str>,
    /// Rows of the page.
    pub(super) limit: i64,
}

/// The statement, after `prefix`. The keys come first, because indexes alone can give them: a row is visited when it is shown.
pub(super) fn statement(prefix: &str, wanted: Wanted<'_>, way: Way) -> QueryBuilder<Postgres> {
    let Wanted { filter, limit, .. } = wanted;
    let (sort, descending) = filter.order();
    let mut query = QueryBuilder::new(prefix);
    query.push("select ").push(COLUMNS).push(", k.rank from (select * from (");
    push_found(&mut query, wanted, way);
    query.push(") s");
    if sort == ModelSort::Rank {
        push_after(&mut query, filter, " where ");
    }
    push_order(&mut query, "s", sort, descending);
    query.push(" limit ").push_bind(limit).push(") k join model_search s using (model_id)");
    push_order(&mut query, "k", sort, descending);
    query
}

/// The keys of what passes, in the order of nothing.
fn push_found(query: &mut QueryBuilder<Postgres>, wanted: Wanted<'_>, way: Way) {
    let Wanted { filter, asked, .. } = wanted;
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
    push_source(query, filter, way);
    push_facts(query, filter);
    push_relations(query, filter);
    match (filter.text.as_ref().and_then(|text| text.found.as_ref()), asked) {
        (Some(found), _) => {
            query.push(" and s.model_id = any(").push_bind(found.clone()).push(")");
        }
        (None, Some(asked)) => {
            query.push(" and s.document @@ ").push_bind(asked.to_owned()).push("::text::tsquery");
        }
        (None, None) => {}
    }
    if way == Way::Collect {
        // a fence: the planner is not to walk the order instead
        query.push(" offset 0");
    }
}

/// The models that are looked at, after the last page: a piece of the list, or what the index of facts has.
fn push_source(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter, way: Way) {
    let (sort, descending) = filter.order();
    if matches!(way, Way::Walk(_) | Way::WalkAll) {
        query.push(" from (select * from model_search s where true");
        push_after(query, filter, " and ");
        push_order(query, "s", sort, descending);
        if let Way::Walk(models) = way {
            query.push(" limit ").push_bind(models);
        }
        query.push(") s where true");
        return;
    }
    query.push(" from model_search s where true");
    if sort != ModelSort::Rank {
        push_after(query, filter, " and ");
    }
    if filter.text.as_ref().is_none_or(|text| text.found.is_none()) {
        push_index_of_facts(query, filter);
    }
}

/// Equal facts once more, as the index that has them together knows them.
pub(super) fn push_index_of_facts(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    let mut all: Vec<String> = filter.tags.iter().chain(&filter.host).cloned().collect();
    let mut any_of: Vec<Vec<String>> = Vec::new();
    for (column, values) in lists(filter) {
        match values.as_deref() {
            Some([only]) => all.push(format!("{column}:{only}")),
            Some(several) => any_of.push(several.iter().map(|value| format!("{column}:{value}")).collect()),
            None => {}
        }
    }
    any_of.extend(filter.components.clone());
    if !all.is_empty() {
        query.push(" and ").push(FACTS).push(" @> ").push_bind(all);
    }
    for some in any_of {
        query.push(" and ").push(FACTS).push(" && ").push_bind(some);
    }
}

/// Columns of which one of several values is asked for.
fn lists(filter: &ModelFilter) -> [(&'static str, &Option<Vec<String>>); 7] {
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

/// Conditions on the row itself.
fn push_facts(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter) {
    for (column, values) in lists(filter) {
        if let Some(values) = values {
            query.push(" and s.").push(column);
            push_values(query, values);
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
    if let Some(host) = &filter.host {
        query.push(" and s.hosts @> array[").push_bind(host.clone()).push("::text]");
    }
    if let Some(kinds) = &filter.components {
        query.push(" and s.kinds && ").push_bind(kinds.clone());
    }
    if let Some(part) = &filter.name_contains {
        push_part(query, part);
    }
    if let Some(hash) = &filter.hash {
        push_hash(query, hash);
    }
}

/// A single value is compared as such: then the rest of an index is in order.
fn push_values(query: &mut QueryBuilder<Postgres>, values: &[String]) {
    match values {
        [only] => query.push(" = ").push_bind(only.clone()),
        several => query.push(" = any(").push_bind(several.to_vec()).push(")"),
    };
}

fn push_part(query: &mut QueryBuilder<Postgres>, part: &str) {
    if part.chars().count() < TRIGRAM {
        // after every text that begins with it, and before all others
        let end = format!("{part}{}", char::MAX);
        query
            .push(" and s.folded >= lower(")
            .push_bind(part.to_owned())
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
fn push_after(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter, before: &str) {
    let (sort, descending) = filter.order();
    let (column, kind) = sort.column();
    if let Some((value, id)) = &filter.after {
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
    use crate::ids::ModelId;

    fn sql(filter: &ModelFilter, way: Way) -> String {
        statement("", Wanted { filter, asked: None, limit: 10 }, way).sql().as_str().to_owned()
    }

    #[test]
    fn only_what_is_asked_for_is_in_the_statement() {
        let plain = sql(&ModelFilter::default(), Way::Free);
        assert!(!plain.contains(" and ") && plain.contains("order by s.name asc, s.model_id asc limit $1)"), "{plain}");
        let filter = ModelFilter {
            types: Some(vec!["vae".into()]),
            bases: Some(vec!["sdxl".into(), "sd15".into()]),
            hash: Some("0123abcd".into()),
            sort: ModelSort::Size,
            descending: true,
            after: Some(("7".into(), ModelId::generate())),
            ..ModelFilter::default()
        };
        let collect = sql(&filter, Way::Collect);
        assert!(collect.contains("(s.size_bytes, s.model_id) < ($1::text::bigint, $2::text)"), "{collect}");
        assert!(collect.contains("s.judged) @> $3 and") && collect.contains("s.judged) && $4 and"), "{collect}");
        assert!(collect.contains("s.type = $5 and s.base = any($6)") && collect.contains("s.sha256 < $8"), "{collect}");
        let walk = sql(&filter, Way::Walk(100));
        assert!(
            walk.contains("s.size_bytes desc, s.model_id desc limit $3) s where")
                && !walk.contains("model_search_facts"),
            "{walk}"
        );
    }

    #[test]
    fn nothing_in_a_part_of_a_name_is_a_pattern() {
        assert_eq!(literal(r"50%_\"), r"50\%\_\\");
    }
}
