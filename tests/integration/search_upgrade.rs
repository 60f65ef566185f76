//! A catalogue that was filled before searches had their vocabulary and lists their profiles has both after the migrations.

use std::{fs, path::Path};

use harness::Farm;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// The library of the search bench.
const LIBRARY: &str = include_str!("../bench/search/library.sql");
const MIGRATION: &str = "0013_";

/// The migrations in order, by the beginning of their names.
fn migrations() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let files = fs::read_dir(folder).expect("the migrations").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sql")).collect();
    files.sort();
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), fs::read_to_string(path).expect("a migration"))).collect()
}

#[tokio::test]
async fn a_catalogue_of_before_is_listed_and_searched_as_one_that_is_new() {
    let farm = Farm::start().await;
    let mut conn = PgConnection::connect(&farm.server.empty_database().await).await.expect("a connection");
    for (name, text) in migrations().into_iter().take_while(|(name, _)| !name.starts_with(MIGRATION)) {
        conn.execute(AssertSqlSafe(text)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    conn.execute(AssertSqlSafe(format!("begin; set local bench.models = 500; {LIBRARY}; commit")))
        .await
        .expect("a library");
    for (name, text) in migrations().into_iter().skip_while(|(name, _)| !name.starts_with(MIGRATION)) {
        conn.execute(AssertSqlSafe(text)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let upgraded = read_model(&mut conn).await;
    assert_eq!(upgraded.len(), 500);
    assert!(upgraded.iter().any(|row| row.contains("text_encoder") && row.contains("host-1")), "{:?}", upgraded[0]);
    assert!(upgraded.iter().any(|row| row.contains("invalid")), "verdicts are kept");
    let unknown =
        "select count(*) from model_search s where not exists (select from model_profiles where profile = s.profile)";
    let unknown: i64 = sqlx::query_scalar(unknown).fetch_one(&mut conn).await.expect("a count");
    assert_eq!(unknown, 0, "every profile is known");
    conn.execute(
        "delete from model_search; delete from search_words; select model_search_renew(array(select id from models))",
    )
    .await
    .expect("all written anew");
    conn.execute("select model_search_judge(array(select id from models))").await.expect("verdicts");
    assert_eq!(read_model(&mut conn).await, upgraded);
    conn.close().await.expect("an end");
}

/// The rows of the read model, and of the vocabulary what the document of a model has there.
async fn read_model(conn: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "select s::text || array(select word from search_words
                where word in (select unnest(tsvector_to_array(s.document))) order by word)::text
         from model_search s order by model_id",
    )
    .fetch_all(conn)
    .await
    .expect("the read model")
}
