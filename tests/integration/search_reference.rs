//! What lists and searches find, compared with a reading of the whole catalogue that knows nothing of indexes.

use std::{cmp::Ordering, collections::HashSet};

use chrono::{DateTime, Utc};
use harness::Farm;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use shared::{
    db::{
        Session,
        models::{self, ListedModel, ModelFilter, ModelSort, Way},
    },
    ids::ModelId,
};
use sqlx::Executor;

/// The library of the search bench.
const LIBRARY: &str = include_str!("../bench/search/library.sql");
const QUESTIONS: usize = 200;
const MODELS: usize = 3_000;

/// A model as its own tables have it.
#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: ModelId,
    name: String,
    #[sqlx(rename = "type")]
    model_type: String,
    base: String,
    variant: Option<String>,
    state: String,
    size_bytes: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    tags: Vec<String>,
    hosts: Vec<String>,
    kinds: Vec<String>,
    words: Vec<String>,
}

async fn catalogue(conn: &mut Session) -> Vec<Row> {
    sqlx::query_as(
        "select m.id, m.name, m.type, m.base, m.variant, m.state, m.size_bytes, m.created_at, s.updated_at, s.tags,
             array(select host from model_locations where model_id = m.id) as hosts,
             array(select kind from model_components where model_id = m.id) as kinds, tsvector_to_array(s.document) as words
         from models m join model_search s on s.model_id = m.id",
    )
    .fetch_all(conn)
    .await
    .expect("the catalogue")
}

fn passes(row: &Row, filter: &ModelFilter, words: &[String]) -> bool {
    let among = |values: &Option<Vec<String>>, value: &str| {
        values.as_ref().is_none_or(|values| values.iter().any(|some| some == value))
    };
    let part = |part: &String| match part.chars().count() {
        0..3 => row.name.to_lowercase().starts_with(&part.to_lowercase()),
        _ => row.name.to_lowercase().contains(&part.to_lowercase()),
    };
    among(&filter.types, &row.model_type)
        && among(&filter.bases, &row.base)
        && among(&filter.variants, row.variant.as_deref().unwrap_or_default())
        && among(&filter.states, &row.state)
        && filter.size_min.is_none_or(|least| row.size_bytes >= least)
        && filter.size_max.is_none_or(|most| row.size_bytes <= most)
        && filter.tags.iter().all(|tag| row.tags.contains(tag))
        && filter.host.as_ref().is_none_or(|host| row.hosts.contains(host))
        && filter.components.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| row.kinds.contains(kind)))
        && filter.name_contains.as_ref().is_none_or(part)
        && words.iter().all(|word| row.words.iter().any(|held| begins(word, held)))
}

fn begins(word: &str, held: &str) -> bool {
    if word.chars().count() > 1 { held.starts_with(word) } else { held == word }
}

fn in_order(a: &Row, b: &Row, filter: &ModelFilter) -> Ordering {
    let by_key = match filter.sort {
        ModelSort::Name | ModelSort::Rank => a.name.cmp(&b.name),
        ModelSort::Size => a.size_bytes.cmp(&b.size_bytes),
        ModelSort::Created => a.created_at.cmp(&b.created_at),
        ModelSort::Updated => a.updated_at.cmp(&b.updated_at),
    };
    let order = by_key.then_with(|| a.id.cmp(&b.id));
    if filter.descending { order.reverse() } else { order }
}

/// Some filters of one model or of several, in some order.
fn question(rows: &[Row], rng: &mut SmallRng) -> ModelFilter {
    let orders = [ModelSort::Name, ModelSort::Size, ModelSort::Created, ModelSort::Updated];
    let sort = *orders.choose(rng).expect("an order");
    let mut filter = ModelFilter { sort, descending: rng.random(), ..ModelFilter::default() };
    let first = rows.choose(rng).expect("a row");
    for number in 0..9 {
        if !rng.random_ratio(1, 4) {
            continue;
        }
        let row = if rng.random() { first } else { rows.choose(rng).expect("a row") };
        let name: Vec<char> = row.name.chars().collect();
        let from = rng.random_range(0..name.len());
        match number {
            0 => filter.types = Some(vec![row.model_type.clone()]),
            1 => filter.bases = Some(vec![row.base.clone(), first.base.clone()]),
            2 => filter.variants = row.variant.clone().map(|one| vec![one]),
            3 => filter.states = Some(vec![row.state.clone()]),
            4 => filter.size_min = Some(row.size_bytes),
            5 => filter.tags = row.tags.iter().take(2).cloned().collect(),
            6 => filter.host = row.hosts.first().cloned(),
            7 => filter.components = Some(row.kinds.clone()).filter(|kinds| !kinds.is_empty()),
            _ => filter.name_contains = Some(name.iter().skip(from).take(rng.random_range(1..6)).collect()),
        }
    }
    filter
}

/// All of a list, page after page, each looked for this way or as the product chooses.
async fn all_pages(conn: &mut Session, mut filter: ModelFilter, limit: i64, way: Option<Way>) -> Vec<ListedModel> {
    let mut all = Vec::new();
    loop {
        let page = match way {
            Some(way) => models::list_along(conn, &filter, limit, way).await,
            None => models::list(conn, &filter, limit).await,
        };
        let page = page.expect("a page");
        let full = page.len() as i64 == limit;
        filter.after = page.last().map(|last| (filter.key_of(last), last.id));
        // as the API does: a later page knows the words, not what was found of them
        filter.text = filter.text.map(|text| models::Reading { found: None, ..text });
        all.extend(page);
        if !full {
            return all;
        }
    }
}

/// Ways to all that passes; so few models choose others seldom than to collect.
const WAYS: [Option<Way>; 6] = [
    None,
    Some(Way::WalkAll),
    Some(Way::Collect),
    Some(Way::CollectFacts),
    Some(Way::Walk(MODELS as i64)),
    Some(Way::WalkRows(MODELS as i64)),
];

async fn compare(
    conn: &mut Session,
    rows: &mut [Row],
    filter: ModelFilter,
    words: &[String],
    (limit, way): (i64, Option<Way>),
) {
    rows.sort_by(|a, b| in_order(a, b, &filter));
    let expected: Vec<ModelId> = rows.iter().filter(|row| passes(row, &filter, words)).map(|row| row.id).collect();
    let found: Vec<ModelId> = all_pages(conn, filter.clone(), limit, way).await.into_iter().map(|row| row.id).collect();
    assert_eq!(found, expected, "{filter:?} {way:?}");
}

async fn library(farm: &Farm, count: usize) -> Session {
    let mut tx = farm.ledger.pool().begin().await.expect("a transaction");
    let models = format!("set local bench.models = {count}");
    tx.execute(sqlx::AssertSqlSafe(models)).await.expect("a setting");
    tx.execute(LIBRARY).await.expect("a library");
    tx.commit().await.expect("a library");
    let mut conn = farm.ledger.pool().acquire().await.expect("a connection").detach();
    conn.execute("vacuum (analyze)").await.expect("statistics");
    conn
}

#[tokio::test]
async fn lists_hold_what_a_reading_of_the_whole_catalogue_finds() {
    let farm = Farm::start().await;
    let mut conn = library(&farm, MODELS).await;
    let mut rows = catalogue(&mut conn).await;
    let mut rng = SmallRng::seed_from_u64(5);
    for number in 0..QUESTIONS {
        // what scans take from models and give to them is in the lists as well
        if number == QUESTIONS / 2 {
            for change in [
                "delete from model_locations where host in ('host-2', 'host-8')",
                "delete from model_components where kind = 'text_encoder'",
                "update models set type = 'unet', size_bytes = size_bytes * 3, name = name || ' renamed' where base = 'flux'",
                "insert into model_locations select id, 'host-2', root, rel_path, '[]' from models where type = 'vae'",
            ] {
                conn.execute(change).await.expect(change);
            }
            rows = catalogue(&mut conn).await;
        }
        let filter = question(&rows, &mut rng);
        let (limit, way) = ([41, 101, 1_000][number % 3], WAYS[number / 3 % WAYS.len()]);
        compare(&mut conn, &mut rows, filter, &[], (limit, way)).await;
    }
}

#[tokio::test]
async fn texts_find_what_a_reading_of_the_whole_catalogue_finds() {
    let farm = Farm::start().await;
    let mut conn = library(&farm, MODELS).await;
    let mut rows = catalogue(&mut conn).await;
    let held: HashSet<&String> = rows.iter().flat_map(|row| &row.words).collect();
    let mut held: Vec<String> = held.into_iter().cloned().collect();
    held.sort();
    let unknown: i64 = sqlx::query_scalar(
        "select count(*) from model_search, unnest(tsvector_to_array(document)) as held
         where not exists (select 1 from search_words where word = held collate \"C\")",
    )
    .fetch_one(&mut conn)
    .await
    .expect("a count");
    assert_eq!(unknown, 0, "the vocabulary has every word");
    let mut rng = SmallRng::seed_from_u64(6);
    for number in 0..QUESTIONS / 2 {
        // rare words, words of one model, and beginnings of both
        let row = rows.choose(&mut rng).expect("a row");
        let mut words: Vec<String> = row.words.choose_multiple(&mut rng, 1 + number % 3).cloned().collect();
        words.push(held.choose(&mut rng).expect("a word").chars().take(2 + number % 9).collect());
        words.truncate(1 + number % 4);
        words.retain(|word| word.chars().all(|letter| letter.is_ascii_alphanumeric()));
        words.dedup();
        let reading = models::understand(&mut conn, &words.join(" ")).await.expect("a reading");
        let mut filter = question(&rows, &mut rng);
        filter.text = reading;
        compare(&mut conn, &mut rows, filter.clone(), &words, (101, WAYS[number / 3 % WAYS.len()])).await;
        ranked(&mut conn, &rows, filter, &words).await;
    }
}

/// The same models by rank: the best come first where they are few enough to rank, else all come by name.
async fn ranked(conn: &mut Session, rows: &[Row], filter: ModelFilter, words: &[String]) {
    let Some(reading) = &filter.text else { return };
    let holding = rows.iter().filter(|row| passes(row, &ModelFilter::default(), words)).count() as i64;
    let is_ranked = reading.ranked;
    assert_eq!(is_ranked, holding <= models::RANKED_MOST, "{words:?} are in {holding}");
    let expected: HashSet<ModelId> = rows.iter().filter(|row| passes(row, &filter, words)).map(|row| row.id).collect();
    let filter = ModelFilter { sort: ModelSort::Rank, descending: true, ..filter };
    let found = all_pages(conn, filter, 13, None).await;
    assert_eq!(found.iter().map(|row| row.id).collect::<HashSet<_>>(), expected);
    assert_eq!(found.len(), expected.len(), "none twice");
    let ordered = found.is_sorted_by(|a, b| if is_ranked { a.rank >= b.rank } else { a.name <= b.name });
    assert!(ordered && found.iter().all(|row| row.rank.is_some() == is_ranked), "{found:?}");
}

#[tokio::test]
async fn a_word_with_one_mistake_finds_the_models_of_the_word() {
    let farm = Farm::start().await;
    let mut conn = library(&farm, 1_000).await;
    let rows = catalogue(&mut conn).await;
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..QUESTIONS / 4 {
        let row = rows.choose(&mut rng).expect("a row");
        let Some(word) = row.words.iter().find(|word| (5..14).contains(&word.len()) && word.is_ascii()) else {
            continue;
        };
        let mut letters: Vec<char> = word.chars().collect();
        let at = rng.random_range(1..letters.len() - 1);
        letters.swap(at, at + 1);
        let typed: String = letters.into_iter().collect();
        let is_word = rows.iter().any(|row| row.words.iter().any(|held| held.starts_with(&typed)));
        if is_word || typed.chars().all(|letter| letter.is_ascii_digit()) || !typed.chars().all(char::is_alphanumeric) {
            continue;
        }
        let text = models::understand(&mut conn, &typed).await.expect("a reading");
        let found = all_pages(&mut conn, ModelFilter { text, ..ModelFilter::default() }, 101, None).await;
        assert!(found.iter().any(|listed| listed.id == row.id), "{typed} for {word}");
    }
}
