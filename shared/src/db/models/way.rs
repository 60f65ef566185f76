//! Which ways a page is looked for, and in which order: first a walk of bounded length along the list, which finds what is
//! frequent, then the collection of all that pass, which finds what is rare.

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::search::ModelFilter;
use crate::db::DbError;

/// A way to find a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Look at so many models along the list; a page that is not full then says nothing.
    Walk(i64),
    /// Look along the whole list.
    WalkAll,
    /// Collect all that pass, then put them in order.
    Collect,
    /// As the planner thinks best.
    Free,
}

/// Models that are looked at where the index of an order has everything that is asked for; where the row is looked at as
/// well; and where its text is.
const INDEX_WALK: i64 = 10_000;
const ROW_WALK: i64 = 3_000;
const TEXT_WALK: i64 = 500;
/// A walk that filled two fifths of a page is worth going on with for so many times its length.
const LONGER: i64 = 3;
/// Collecting more than these takes longer than looking along the index of an order until a page is full; what is a part of models goes
/// with their size, so that it takes longer to meet.
const COLLECTED: i64 = 20_000;
const COLLECTED_PARTS: i64 = 30_000;

/// What of a filter decides how a page is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// What few models are.
    Rare,
    /// A text that many hold.
    Text,
    /// What the rows say.
    Rows,
    /// What the indexes of the orders say.
    Facts,
    /// A range of sizes, or nothing.
    Little,
}

fn asks(filter: &ModelFilter) -> Asks {
    let text = filter.text.as_ref();
    if filter.hash.is_some() || filter.resident.is_some() || text.is_some_and(|text| text.ranked) {
        Asks::Rare
    } else if text.is_some() {
        Asks::Text
    } else if filter.name_contains.is_some() || filter.host.is_some() || !filter.tags.is_empty() {
        Asks::Rows
    } else if facts(filter) {
        Asks::Facts
    } else {
        Asks::Little
    }
}

/// How to begin. Each way costs milliseconds at most whatever is asked, where statistics cannot tell: bases, types and sizes go
/// together, words do, and a planner that guesses wrong walks the whole list.
pub(super) fn first(filter: &ModelFilter) -> Way {
    match asks(filter) {
        Asks::Rare => Way::Collect,
        Asks::Text => Way::Walk(TEXT_WALK),
        Asks::Rows => Way::Walk(ROW_WALK),
        Asks::Facts => Way::Walk(INDEX_WALK),
        Asks::Little => Way::Free,
    }
}

/// Where to go on when a way found so many `rows` of a page of `limit`; none when its page stands. `models` have the facts that are
/// asked for, as far as that was counted.
pub(super) fn next(filter: &ModelFilter, way: Way, rows: i64, limit: i64, models: Option<i64>) -> Option<Way> {
    match way {
        Way::Walk(length) if rows < limit => Some(match asks(filter) {
            Asks::Text if length == TEXT_WALK && rows * 5 >= limit * 2 => Way::Walk(length * LONGER),
            Asks::Facts if models.is_some_and(|models| models > collected(filter)) => Way::WalkAll,
            _ => Way::Collect,
        }),
        _ => None,
    }
}

fn collected(filter: &ModelFilter) -> i64 {
    if filter.components.is_some() { COLLECTED_PARTS } else { COLLECTED }
}

/// Whether [`next`] wants to know how many models have the facts that are asked for.
pub(super) fn counts(filter: &ModelFilter, way: Way) -> bool {
    matches!(way, Way::Walk(_)) && asks(filter) == Asks::Facts
}

/// Something is asked for that the indexes of the orders have.
fn facts(filter: &ModelFilter) -> bool {
    let lists = [
        &filter.types,
        &filter.bases,
        &filter.formats,
        &filter.variants,
        &filter.predictions,
        &filter.states,
        &filter.verdicts,
        &filter.components,
    ];
    lists.iter().any(|list| list.is_some())
}

/// A transaction that reads tables only where an index says so: what looks cheap to the planner, a filter that reads all rows until
/// it has met enough of them, is dear where texts are compared.
pub(super) async fn through_indexes(conn: &mut PgConnection) -> Result<Transaction<'_, Postgres>, DbError> {
    let mut tx = conn.begin().await?;
    sqlx::query("select set_config('enable_seqscan', 'off', true), set_config('enable_indexonlyscan', 'off', true)")
        .execute(&mut *tx)
        .await?;
    Ok(tx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::models::Reading;

    fn text(ranked: bool) -> Option<Reading> {
        Some(Reading { text: "x".into(), words: vec![vec!["x".into()]], ranked, found: None })
    }

    #[test]
    fn what_is_rare_is_collected_and_what_may_be_frequent_is_walked_to_first() {
        let all = ModelFilter::default;
        let some = || Some(vec!["x".to_owned()]);
        assert_eq!(first(&all()), Way::Free);
        assert_eq!(first(&ModelFilter { size_min: Some(1), ..all() }), Way::Free);
        assert_eq!(first(&ModelFilter { types: some(), ..all() }), Way::Walk(INDEX_WALK));
        assert_eq!(first(&ModelFilter { types: some(), host: Some("a".into()), ..all() }), Way::Walk(ROW_WALK));
        assert_eq!(first(&ModelFilter { text: text(true), tags: vec!["x".into()], ..all() }), Way::Collect);
        assert_eq!(first(&ModelFilter { text: text(false), tags: vec!["x".into()], ..all() }), Way::Walk(TEXT_WALK));
    }

    #[test]
    fn a_page_that_is_not_full_is_looked_for_another_way() {
        let facts = ModelFilter { types: Some(vec!["x".into()]), ..ModelFilter::default() };
        let words = ModelFilter { text: text(false), ..ModelFilter::default() };
        assert_eq!(next(&facts, Way::Walk(INDEX_WALK), 101, 101, None), None);
        assert_eq!(next(&facts, Way::Walk(INDEX_WALK), 100, 101, Some(5)), Some(Way::Collect));
        assert_eq!(next(&facts, Way::Walk(INDEX_WALK), 100, 101, Some(COLLECTED + 1)), Some(Way::WalkAll));
        assert_eq!(next(&words, Way::Walk(TEXT_WALK), 41, 101, None), Some(Way::Walk(TEXT_WALK * LONGER)));
        assert_eq!(next(&words, Way::Walk(TEXT_WALK * LONGER), 51, 101, None), Some(Way::Collect));
        assert_eq!(next(&words, Way::Walk(TEXT_WALK), 40, 101, None), Some(Way::Collect));
        for last in [Way::Collect, Way::WalkAll, Way::Free] {
            assert_eq!(next(&facts, last, 0, 101, None), None);
        }
    }
}
