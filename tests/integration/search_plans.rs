//! How pages of models are found: by the index that is meant for the question, with the statistics of a real library.

use harness::Farm;
use shared::db::{
    Session,
    models::{self, ModelFilter, ModelSort},
};
use sqlx::Executor;

/// The library of the search bench.
const LIBRARY: &str = include_str!("../bench/search/library.sql");

#[tokio::test]
async fn questions_are_answered_by_the_indexes_that_are_meant_for_them() {
    let farm = Farm::start().await;
    let mut tx = farm.ledger.pool().begin().await.expect("a transaction");
    tx.execute("set local bench.models = 3000").await.expect("a setting");
    tx.execute(LIBRARY).await.expect("a library");
    tx.commit().await.expect("a library");
    let mut conn = farm.ledger.pool().acquire().await.expect("a connection");
    conn.execute("vacuum (analyze)").await.expect("statistics");

    let some = |value: &str| Some(vec![value.to_owned()]);
    let all = ModelFilter::default;
    let sorted = |sort| ModelFilter { sort, descending: true, ..all() };
    let questions = [
        (all(), "model_search_name"),
        (sorted(ModelSort::Size), "model_search_size"),
        (sorted(ModelSort::Created), "model_search_created"),
        (sorted(ModelSort::Updated), "model_search_updated"),
        (ModelFilter { hash: Some("0123abcd".to_owned()), ..all() }, "model_search_sha256"),
        (ModelFilter { tags: vec!["pose".to_owned(), "retro".to_owned()], ..all() }, "model_search_found"),
        (ModelFilter { host: Some("host-8".to_owned()), ..all() }, "model_search_found"),
        (ModelFilter { components: some("controlnet"), ..all() }, "model_search_profile"),
        (ModelFilter { name_contains: Some("zorkami".to_owned()), ..all() }, "model_search_parts"),
        (ModelFilter { name_contains: Some("zq".to_owned()), ..all() }, "model_search_beginning"),
        (ModelFilter { states: some("missing"), ..all() }, "model_search_profile"),
        (ModelFilter { verdicts: some("invalid"), ..all() }, "model_search_profile"),
        (ModelFilter { types: some("vae"), bases: some("flux"), ..all() }, "model_search_profile"),
    ];
    for (filter, index) in questions {
        let plan = plan(&mut conn, &filter).await;
        assert!(plan.contains(index), "{filter:?}: {index} is not used:\n{plan}");
        assert!(!plan.contains("Seq Scan on model"), "{filter:?}: read as a whole:\n{plan}");
    }
    // words that are there, that hardly anything has, and that are mistyped: by their own models
    for text in ["retro", "zorkami", "zorkmai drgaon"] {
        let reading = models::understand(&mut conn, text).await.expect("a reading").expect("words");
        let filter = ModelFilter { text: Some(reading), ..sorted(ModelSort::Rank) };
        let plan = plan(&mut conn, &filter).await;
        assert!(!plan.contains("Seq Scan on model"), "{text}: read as a whole:\n{plan}");
    }
}

/// The plans of all ways that a page is looked for.
async fn plan(conn: &mut Session, filter: &ModelFilter) -> String {
    let ways = models::explain(conn, filter, 101).await.expect("plans");
    ways.into_iter()
        .flat_map(|(way, plan)| std::iter::once(format!("{way:?}")).chain(plan))
        .collect::<Vec<_>>()
        .join("\n")
}
