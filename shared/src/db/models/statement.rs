//! The statement of one page of models: the keys of the page by conditions and order, then the rows of those keys.

use sqlx::{Postgres, QueryBuilder};

use super::search::{ModelFilter, ModelSort};

const COLUMNS: &str = "s.model_id, s.name, s.title, s.type, s.base, s.format, s.variant, s.prediction, s.size_bytes, s.state, \
                       s.reason, s.tags, s.created_at, s.updated_at, s.verdict, s.verdict_stale";

/// Parts of names from this length on have trigrams; shorter ones are taken for beginnings.
const TRIGRAM: usize = 3;

/// The statement, after `prefix`. The keys come first, because indexes alone can give them: a row is visited when it is shown.
pub(super) fn statement(prefix: &str, filter: &ModelFilter, limit: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(prefix);
    query.push("select ").push(COLUMNS).push(", k.rank from (select * from (select s.model_id, ");
    match &filter.text {
        Some(text) => text.push_rank(&mut query),
        None => {
            query.push("null::float8");
        }
    }
    query.push(" as rank");
    let (sort, descending) = filter.order();
    if sort != ModelSort::Rank {
        query.push(", s.").push(sort.column().0);
    }
    query.push(" from model_search s where true");
    push_facts(&mut query, filter);
    push_relations(&mut query, filter);
    if let Some(text) = &filter.text {
        text.push_condition(&mut query);
    }
    query.push(") s");
    push_page(&mut query, filter, limit);
    query.push(") k join model_search s using (model_id)");
    push_order(&mut query, "k", sort, descending);
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
        ("judged", &filter.verdicts),
    ];
    for (column, values) in lists {
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
        query.push(" and lower(s.name) collate \"C\" >= lower(").push_bind(part.to_owned()).push(") and ");
        query.push("lower(s.name) collate \"C\" < lower(").push_bind(end).push(")");
        return;
    }
    query.push(" and s.name ilike ").push_bind(format!("%{}%", literal(part)));
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
        push_components(query, kinds, filter.order().0);
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

/// What a model holds goes with its size and often with its age: a walk in such an order may meet none for long, so it asks a
/// set that was made once (`is true` keeps it from becoming a join). Names say nothing of it, so a few look-ups do.
fn push_components(query: &mut QueryBuilder<Postgres>, kinds: &[String], sort: ModelSort) {
    let (begin, end) = match sort {
        ModelSort::Name | ModelSort::Rank => {
            (" and exists (select 1 from model_components p where p.model_id = s.model_id and p.kind", ")")
        }
        ModelSort::Size | ModelSort::Created | ModelSort::Updated => {
            (" and (s.model_id in (select p.model_id from model_components p where p.kind", ")) is true")
        }
    };
    query.push(begin);
    push_values(query, kinds);
    query.push(end);
}

fn push_page(query: &mut QueryBuilder<Postgres>, filter: &ModelFilter, limit: i64) {
    let (sort, descending) = filter.order();
    let (column, kind) = sort.column();
    if let Some((value, id)) = &filter.after {
        query.push(" where (s.").push(column).push(", s.model_id)").push(if descending { " < (" } else { " > (" });
        query.push_bind(value.clone()).push("::text::").push(kind).push(", ").push_bind(*id).push("::text)");
    }
    push_order(query, "s", sort, descending);
    query.push(" limit ").push_bind(limit);
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

    #[test]
    fn only_what_is_asked_for_is_in_the_statement() {
        let plain = statement("", &ModelFilter::default(), 10).sql().as_str().to_owned();
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
        let sql = statement("", &filter, 10).sql().as_str().to_owned();
        assert!(sql.contains("s.type = $1 and s.base = any($2)") && sql.contains("s.sha256 < $4"), "{sql}");
        assert!(sql.contains("(s.size_bytes, s.model_id) < ($9::text::bigint, $10::text)"), "{sql}");
    }

    #[test]
    fn nothing_in_a_part_of_a_name_is_a_pattern() {
        assert_eq!(literal(r"50%_\"), r"50\%\_\\");
    }
}
