//! Which ways a page is looked for, and in which order: a walk along the list finds what is frequent, the collection of all that pass
//! what is rare. Policy over counts and estimates.

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{
    search::{ModelFilter, ModelSort},
    shelves::{COUNTED, asks_for_facts},
};
use crate::db::DbError;

/// A way to find a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Look at so many models along the list that have what indexes of orders tell, each in its row; a page that is not full then says
    /// nothing of what comes after.
    Walk(i64),
    /// The same, with the rows coming along: faster where most rows have what the indexes tell.
    WalkRows(i64),
    /// Look along the whole list.
    WalkAll,
    /// Collect all that pass by the indexes, then put them in order.
    Collect,
    /// Collect by all that is asked for but the text, which is compared row by row.
    CollectFacts,
}

/// Models whose rows are looked at along a list before what is asked for is taken for rare: at most, and at least; and those whose texts
/// are.
const ROW_WALK: i64 = 4_000;
const ROW_PROBE: i64 = 500;
const TEXT_WALK: i64 = 2_000;
/// Models whose texts are compared to learn how frequent a text is in a list, at least and at most.
const TEXT_PROBE: i64 = 200;
const TEXT_LONG_PROBE: i64 = 400;
/// Where a page takes more texts than these all models that hold the text are collected at once: a walk that is given up is lost time.
const TEXT_WORTH: i64 = 1_500;
/// What takes how long, in entries of an index that are walked by: a row that comes along on a walk; one that is looked up on it; one that is
/// collected, by what only rows tell or by ranges and parts of names; an entry that is collected by facts, or by size.
const ROW_ALONG: f64 = 4.0;
const ROW_APART: f64 = 5.5;
const ROW_COLLECTED: f64 = 5.0;
const RANGE_COLLECTED: f64 = 10.0;
const FACT_COLLECTED: f64 = 0.2;
const SIZE_COLLECTED: f64 = 0.3;
/// So many texts are compared faster than an index finds a frequent word.
const COMPARED: i64 = 700;

/// What of a filter decides how a page is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// What few models are.
    Rare,
    /// A text that many hold.
    Text,
    /// What may be rare, and no counts tell.
    Uncounted,
    /// What profiles say, or nothing.
    Facts,
}

fn asks(filter: &ModelFilter) -> Asks {
    let text = filter.text.as_ref();
    let sizes = has_sizes(filter) && filter.order().0 != ModelSort::Size;
    if filter.hash.is_some() || filter.resident.is_some() || text.is_some_and(|text| text.ranked) {
        Asks::Rare
    } else if text.is_some() {
        Asks::Text
    } else if filter.name_contains.is_some() || filter.host.is_some() || !filter.tags.is_empty() || sizes {
        Asks::Uncounted
    } else {
        Asks::Facts
    }
}

/// A range of sizes is asked for.
pub(super) fn has_sizes(filter: &ModelFilter) -> bool {
    filter.size_min.is_some() || filter.size_max.is_some()
}

/// How to begin, when `counted` models have the facts that are asked for (up to one more than [`COUNTED`]; none when no facts are);
/// none when that takes an estimate of how many models pass. Each way costs milliseconds at most where it is chosen: bases, types and
/// sizes go together, words do, and a planner that guesses wrong walks the whole list.
pub(super) fn first(filter: &ModelFilter, counted: Option<i64>, limit: i64) -> Option<Way> {
    let few = counted.is_some_and(|models| models <= COUNTED);
    match asks(filter) {
        Asks::Rare => Some(Way::Collect),
        Asks::Text if counted.is_some_and(|models| models <= COMPARED) => Some(Way::CollectFacts),
        Asks::Text => Some(of_a_text(filter, counted, limit)),
        Asks::Uncounted if few => Some(Way::Collect),
        Asks::Uncounted => None,
        Asks::Facts => Some(if few { Way::Collect } else { Way::WalkAll }),
    }
}

/// How a text begins: as is known of it if nothing else is asked for, else with a probe.
fn of_a_text(filter: &ModelFilter, counted: Option<i64>, limit: i64) -> Way {
    let alone = counted.is_none() && !has_sizes(filter) && filter.name_contains.is_none();
    let alone = alone && filter.host.is_none() && filter.tags.is_empty();
    let share = filter.text.as_ref().and_then(|text| text.share).filter(|_| alone);
    let Some(share) = share else { return Way::Walk(TEXT_PROBE) };
    let needed = limit as f64 / share * 4.0 / 3.0;
    if needed <= TEXT_WORTH as f64 {
        Way::WalkRows((needed as i64).clamp(TEXT_PROBE, TEXT_LONG_PROBE))
    } else {
        Way::Collect
    }
}

/// What a sample tells of a list.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::FromRow)]
pub(super) struct Estimate {
    /// Models of the types that are asked for.
    pub(super) shelved: f64,
    /// Those that have the facts that are asked for as well.
    pub(super) with_facts: f64,
    /// Those that have what indexes of orders tell, which is facts, sizes and names.
    pub(super) ordered: f64,
    /// Those that pass.
    pub(super) pass: f64,
}

/// How to begin when it is known about how many models pass.
pub(super) fn of_so_many(filter: &ModelFilter, estimate: Estimate, by_size: bool, limit: i64) -> Way {
    let Estimate { shelved, ordered, pass, .. } = estimate;
    let walks = pass > 0.0 && time_to_walk(filter, estimate, limit) < time_to_collect(filter, estimate, by_size);
    if !walks {
        return Way::Collect;
    }
    let needed = (ordered * limit as f64 / pass * 4.0 / 3.0) as i64;
    let length = needed.clamp(ROW_PROBE, ROW_WALK);
    if ordered * 4.0 >= shelved { Way::WalkRows(length) } else { Way::Walk(length) }
}

/// What collecting takes: all that passes, and the entries of the indexes that are put together for it.
fn time_to_collect(filter: &ModelFilter, estimate: Estimate, by_size: bool) -> f64 {
    let Estimate { shelved, with_facts, ordered, pass, .. } = estimate;
    let rows = pass * if asks_rows(filter) { ROW_COLLECTED } else { RANGE_COLLECTED };
    let facts = if asks_for_facts(filter) { with_facts * FACT_COLLECTED } else { 0.0 };
    let sizes = if by_size { shelved * ordered / with_facts.max(1.0) * SIZE_COLLECTED } else { 0.0 };
    rows + facts + sizes
}

/// What walking takes: each model on the way to a full page, and the rows of those that the indexes of orders do not pass over.
fn time_to_walk(filter: &ModelFilter, estimate: Estimate, limit: i64) -> f64 {
    let Estimate { shelved, ordered, pass, .. } = estimate;
    let entries = shelved * limit as f64 / pass;
    let rows = match asks_rows(filter) {
        false => 0.0,
        true if ordered * 4.0 >= shelved => ROW_ALONG,
        true => ROW_APART * ordered / shelved,
    };
    entries * (1.0 + rows)
}

/// Whether the index of sizes is worth asking when models are collected: it names all of a range, which may be half of the catalogue.
pub(super) fn by_size(filter: &ModelFilter, counted: Option<i64>, estimate: Option<Estimate>) -> bool {
    let few = counted.is_some_and(|models| models <= COUNTED);
    has_sizes(filter) && !few && estimate.is_none_or(|estimate| estimate.ordered * 3.0 <= estimate.with_facts)
}

/// What came of the ways so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// Rows of the page.
    pub(super) rows: i64,
    /// Those of the last way.
    pub(super) last: i64,
    /// Models that walks looked at.
    pub(super) looked: i64,
}

/// Where to go on after the last row that was found, for the rest of a page of `limit`; none when the page stands.
pub(super) fn next(filter: &ModelFilter, way: Way, found: Found, limit: i64) -> Option<Way> {
    let (Way::Walk(_) | Way::WalkRows(_)) = way else { return None };
    if found.rows >= limit {
        return None;
    }
    // as far as the rest is likely to be, and a third more
    let needed = found.looked * (limit - found.rows) * 4 / (found.rows.max(1) * 3) + 1;
    let most = if asks(filter) == Asks::Text { TEXT_WALK } else { ROW_WALK * 3 / 2 };
    Some(match way {
        _ if found.last == 0 || found.looked + needed > most => Way::Collect,
        Way::WalkRows(_) => Way::WalkRows(needed),
        _ => Way::Walk(needed),
    })
}

/// Whether the rest of what is asked for, that no index of an order tells, has to be looked up in rows.
pub(super) fn asks_rows(filter: &ModelFilter) -> bool {
    filter.text.is_some()
        || filter.hash.is_some()
        || filter.resident.is_some()
        || filter.host.is_some()
        || !filter.tags.is_empty()
}

/// Whether indexes of orders say something that is asked for.
pub(super) fn asks_orders(filter: &ModelFilter) -> bool {
    asks_for_facts(filter) || has_sizes(filter) || filter.name_contains.is_some()
}

/// A transaction that reads tables only where an index says so: what looks cheap to the planner, a filter that reads all rows until
/// it has met enough of them, is dear where texts are compared. A walk goes along the index of its order and puts nothing in order.
pub(super) async fn through_indexes(conn: &mut PgConnection, way: Way) -> Result<Transaction<'_, Postgres>, DbError> {
    let mut tx = conn.begin().await?;
    let settings = match way {
        Way::Walk(_) | Way::WalkRows(_) | Way::WalkAll => {
            "select set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true),
                set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true),
                set_config('enable_incremental_sort', 'off', true)"
        }
        Way::Collect | Way::CollectFacts => {
            // the planner takes comparing a text for cheap, and would rather read rows than ask one more index
            "select set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true),
                set_config('enable_indexonlyscan', 'off', true), set_config('cpu_operator_cost', '0.05', true),
                set_config('max_parallel_workers_per_gather', '0', true)"
        }
    };
    sqlx::query(settings).execute(&mut *tx).await?;
    Ok(tx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::models::Reading;

    fn text(ranked: bool, share: Option<f64>) -> Option<Reading> {
        Some(Reading { text: "x".into(), words: vec![vec!["x".into()]], ranked, share, found: None })
    }

    fn some() -> Option<Vec<String>> {
        Some(vec!["x".to_owned()])
    }

    #[test]
    fn what_is_rare_is_collected_and_what_is_frequent_is_walked_to() {
        let all = ModelFilter::default;
        let first = |filter: ModelFilter, counted| first(&filter, counted, 101);
        assert_eq!(first(all(), None), Some(Way::WalkAll));
        assert_eq!(first(ModelFilter { size_min: Some(1), sort: ModelSort::Size, ..all() }, None), Some(Way::WalkAll));
        assert_eq!(first(ModelFilter { size_min: Some(1), ..all() }, None), None);
        assert_eq!(first(ModelFilter { types: some(), ..all() }, Some(COUNTED + 1)), Some(Way::WalkAll));
        assert_eq!(first(ModelFilter { types: some(), ..all() }, Some(COUNTED)), Some(Way::Collect));
        let host = || ModelFilter { types: some(), host: Some("a".into()), ..all() };
        assert_eq!(first(host(), Some(COUNTED + 1)), None);
        assert_eq!(first(host(), Some(1)), Some(Way::Collect));
    }

    #[test]
    fn a_frequent_text_is_walked_to_as_far_as_is_known_of_it() {
        let tags = || vec!["x".to_owned()];
        let first = |text, tags, counted| first(&ModelFilter { text, tags, ..ModelFilter::default() }, counted, 101);
        assert_eq!(first(text(true, None), tags(), None), Some(Way::Collect));
        assert_eq!(first(text(false, Some(0.5)), tags(), None), Some(Way::Walk(TEXT_PROBE)), "of both it is not known");
        assert_eq!(first(text(false, None), tags(), Some(COMPARED)), Some(Way::CollectFacts));
        assert_eq!(first(text(false, Some(0.5)), vec![], None), Some(Way::WalkRows(269)));
        assert_eq!(first(text(false, Some(0.1)), vec![], None), Some(Way::WalkRows(TEXT_LONG_PROBE)));
        assert_eq!(first(text(false, Some(0.08)), vec![], None), Some(Way::Collect));
    }

    #[test]
    fn an_estimate_says_what_is_less_to_look_at() {
        let of = |pass, ordered| Estimate { shelved: 50_000.0, with_facts: 50_000.0, ordered, pass };
        let of_so_many = |filter: &ModelFilter, pass, ordered| of_so_many(filter, of(pass, ordered), false, 101);
        let tagged = ModelFilter { tags: vec!["x".into()], ..ModelFilter::default() };
        assert_eq!(of_so_many(&tagged, 0.0, 0.0), Way::Collect);
        assert_eq!(of_so_many(&tagged, 2_200.0, 50_000.0), Way::Collect);
        assert_eq!(of_so_many(&tagged, 2_500.0, 50_000.0), Way::WalkRows(2_693));
        assert_eq!(of_so_many(&tagged, 2_500.0, 12_000.0), Way::Walk(646));
        assert_eq!(of_so_many(&tagged, 50_000.0, 50_000.0), Way::WalkRows(ROW_PROBE));
        let named = ModelFilter { name_contains: Some("x".into()), ..ModelFilter::default() };
        assert_eq!(of_so_many(&named, 3_000.0, 3_000.0), Way::Walk(ROW_PROBE), "the index of names is enough");
        assert_eq!(of_so_many(&named, 700.0, 700.0), Way::Collect);
        let typed = ModelFilter { types: some(), ..tagged };
        assert_eq!(
            of_so_many(&typed, 1_600.0, 50_000.0),
            Way::WalkRows(ROW_WALK),
            "entries of facts take time as well"
        );
        let sized = ModelFilter { size_min: Some(1), ..ModelFilter::default() };
        assert!(by_size(&sized, None, None) && by_size(&sized, Some(COUNTED + 1), Some(of(1.0, 5_000.0))));
        assert!(!by_size(&sized, Some(1), None) && !by_size(&sized, None, Some(of(1.0, 40_000.0))));
    }

    #[test]
    fn the_rest_of_a_page_is_walked_to_or_collected() {
        let tagged = ModelFilter { tags: vec!["x".into()], ..ModelFilter::default() };
        let words = ModelFilter { text: text(false, None), ..ModelFilter::default() };
        let found = |rows, last, looked| Found { rows, last, looked };
        assert_eq!(next(&tagged, Way::Walk(ROW_WALK), found(101, 101, ROW_WALK), 101), None);
        assert_eq!(next(&tagged, Way::Walk(ROW_WALK), found(90, 90, ROW_WALK), 101), Some(Way::Walk(652)));
        assert_eq!(next(&tagged, Way::Walk(ROW_WALK), found(50, 50, ROW_WALK), 101), Some(Way::Collect));
        assert_eq!(next(&tagged, Way::Walk(652), found(90, 0, ROW_WALK + 652), 101), Some(Way::Collect));
        assert_eq!(next(&words, Way::WalkRows(200), found(20, 20, 200), 101), Some(Way::WalkRows(1_081)));
        assert_eq!(next(&words, Way::Walk(200), found(10, 10, 200), 101), Some(Way::Collect));
        for last in [Way::Collect, Way::CollectFacts, Way::WalkAll] {
            assert_eq!(next(&words, last, found(0, 0, 0), 101), None);
        }
    }
}
