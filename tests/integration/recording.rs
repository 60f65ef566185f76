//! Models that a scan records while it reads others: what is listed of them at once, and several hosts that record one library.

use std::{collections::BTreeSet, time::Duration};

use futures::future::try_join_all;
use harness::{Farm, SHORT, wait_for};
use serde_json::{Value, json};
use shared::{
    config::Stores,
    db::{
        self, DbError, Pool, farm,
        hashes::{self, ModelHashes},
        models::{self, Batch, FileIdentity, FoundComponent, FoundModel, ReadAs, Registered, Scan, Written},
        residency,
    },
    ids::ComponentId,
    job::{JobSpec, NewJob, ScanArgs, Target, enqueue},
};

use crate::support::registration;

const HOSTS: [&str; 2] = ["a", "b"];

async fn catalogue(farm: &Farm) -> Pool {
    let url = farm.server.empty_database().await;
    let stores = Stores { database_url: url, redis_url: None, database_connections: 8 };
    let pool = db::pool(&stores, "test").expect("a pool");
    db::migrate(&pool).await.expect("a schema");
    for host in HOSTS {
        register(&pool, host, vec![("main".to_owned(), "/library".to_owned(), None)]).await.expect("a host");
    }
    pool
}

async fn register(pool: &Pool, host: &str, roots: Vec<(String, String, Option<String>)>) -> Result<(), DbError> {
    let registration = registration(host, roots);
    let mut tx = pool.begin().await.expect("a transaction");
    farm::register(&mut tx, &registration, Duration::from_secs(600)).await?;
    tx.commit().await.expect("a commit");
    Ok(())
}

/// One of a library in which every third model wants a name that others want.
fn found(number: usize) -> FoundModel {
    let kinds: &[&str] = [["vae"].as_slice(), &[], &["vae", "text_encoder", "unet"]][number % 3];
    let component = |kind: &&str| FoundComponent {
        kind: (*kind).to_owned(),
        bytes: 1,
        param_count: 1,
        tensor_count: 1,
        dtype: "fp16".to_owned(),
    };
    let said = match number % 4 {
        0 => json!({ "extracted": { "title": "é".repeat(1200), "tags": ["Style", "b", "style", "Ä,\"ß'"] } }),
        1 => {
            json!({ "extracted": { "title": "One", "tags": [], "trigger_words": ["zorg"], "description": "<p>x</p>" } })
        }
        2 => json!({ "extracted": { "tags": ["a b"] } }),
        _ => json!({}),
    };
    let name = if number.is_multiple_of(3) { "model".to_owned() } else { format!("model-{number}") };
    FoundModel {
        rel_path: format!("{:02}/{name}-{number}.safetensors", number * 7 % 60),
        name,
        model_type: ["checkpoint", "vae"][number % 2].to_owned(),
        base: "sd15".to_owned(),
        format: "safetensors".to_owned(),
        variant: (number % 2 == 1).then(|| "fp16".to_owned()),
        prediction: (number % 5 == 1).then(|| "epsilon".to_owned()),
        size_bytes: 1,
        is_unreadable: false,
        reason: number.is_multiple_of(5).then(|| "no rule matched".to_owned()),
        evidence: json!([]),
        metadata: said,
        files: Vec::new(),
        read_as: ReadAs::default(),
        canonical_form: 1,
        components: kinds.iter().map(component).collect(),
        stamp: None,
    }
}

fn batch(models: &[FoundModel]) -> Batch<'_> {
    let mut batch = Batch::default();
    models.iter().for_each(|model| batch.push(Written::of(model).expect("JSON")));
    batch.sort();
    batch
}

async fn lists(pool: &Pool) -> Vec<String> {
    sqlx::query_scalar("select s::text from model_search s order by model_id").fetch_all(pool).await.expect("lists")
}

/// What lists read of new models is written without reading them back from the tables.
#[tokio::test]
async fn models_that_are_new_are_listed_as_they_are_listed_ever_after() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let models: Vec<FoundModel> = (0..60).map(found).collect();
    models::record_models(&pool, None, ("a", "main"), &batch(&models)).await.expect("a record");
    let first = lists(&pool).await;
    assert_eq!(first.len(), models.len());
    sqlx::query("select model_search_list(array(select id from models))").execute(&pool).await.expect("lists anew");
    assert_eq!(lists(&pool).await, first);
    // with its text
    while models::make_due_texts(&pool, 25).await.expect("texts") > 0 {}
    let whole = lists(&pool).await;
    sqlx::query("select model_search_renew(array(select id from models))").execute(&pool).await.expect("all anew");
    assert_eq!(lists(&pool).await, whole);
}

/// A disk that does not answer says nothing of a model: what was known of it holds until its files can be read again.
#[tokio::test]
async fn what_is_known_of_a_model_outlives_that_its_files_cannot_be_read() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let file = FileIdentity { rel_path: String::new(), size_bytes: 1, mtime_ns: 2, inode: 3, dev: 4 };
    let whole = FoundModel { files: vec![file], ..found(2) };
    let unread = FoundModel {
        model_type: "unknown".to_owned(),
        base: "unknown".to_owned(),
        is_unreadable: true,
        reason: Some("it cannot be read".to_owned()),
        metadata: json!({}),
        files: Vec::new(),
        components: Vec::new(),
        ..found(2)
    };
    let fresh = FoundModel { rel_path: "x.safetensors".to_owned(), name: "x".to_owned(), ..unread.clone() };
    let record = async |model: &FoundModel| {
        models::record_models(&pool, None, ("a", "main"), &batch(std::slice::from_ref(model))).await.expect("a record")
    };
    record(&whole).await;
    sqlx::query("update models set sha256 = 'ab'").execute(&pool).await.expect("a hash");
    type Row = (String, String, Option<String>, Option<String>, i64, String);
    let rows = async || -> Vec<Row> {
        sqlx::query_as(
            "select m.state, m.type, m.reason, m.sha256, (select count(*) from model_components p where p.model_id = m.id), s.state
             from models m join model_search s on s.model_id = m.id order by m.rel_path",
        )
        .fetch_all(&pool)
        .await
        .expect("rows")
    };
    let row = |state: &str, reason: Option<&str>| {
        (
            state.to_owned(),
            "checkpoint".to_owned(),
            reason.map(str::to_owned),
            Some("ab".to_owned()),
            3,
            state.to_owned(),
        )
    };
    assert_eq!(rows().await, [row("available", None)]);
    let counts = record(&unread).await.expect("no lease to lose");
    assert_eq!((counts.changed, counts.unchanged), (1, 0));
    assert_eq!(rows().await, [row("unreadable", Some("it cannot be read"))]);
    assert_eq!(record(&unread).await.expect("no lease to lose").unchanged, 1);
    record(&whole).await;
    assert_eq!(rows().await, [row("available", None)]);
    let kept: i64 = sqlx::query_scalar("select count(*) from models where metadata <> '{}'")
        .fetch_one(&pool)
        .await
        .expect("metadata");
    assert_eq!(kept, 1);
    // another host whose disk fails says nothing of this one's
    models::record_models(&pool, None, ("b", "main"), &batch(std::slice::from_ref(&unread))).await.expect("a record");
    assert_eq!(rows().await, [row("available", None)]);
    // back, but not to be read
    sqlx::query("update models set state = 'missing'").execute(&pool).await.expect("a state");
    sqlx::query("delete from model_locations").execute(&pool).await.expect("no place");
    record(&unread).await;
    let places: Vec<(String, Value)> =
        sqlx::query_as("select host, files from model_locations").fetch_all(&pool).await.expect("places");
    assert_eq!(places, [("a".to_owned(), json!([]))]);
    assert_eq!(rows().await, [row("unreadable", Some("it cannot be read"))]);
    record(&whole).await;
    assert_eq!(rows().await, [row("available", None)]);
    record(&fresh).await;
    let state = rows().await.pop().map(|row| (row.0, row.1, row.5));
    assert_eq!(state, Some(("unreadable".to_owned(), "unknown".to_owned(), "unreadable".to_owned())));
}

/// Two hosts that have one library, each over several connections, with batches that are cut differently.
#[tokio::test]
async fn hosts_that_record_one_library_at_once_make_every_model_once() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let models: Vec<FoundModel> = (0..60).map(found).collect();
    // as a scan does it: each lane's batches one after the other, the lanes at once
    let lanes: [Vec<FoundModel>; models::LANES] = std::array::from_fn(|lane| {
        let models = (0..60).map(found).filter(|model| models::lane(&model.rel_path) == lane);
        models.collect()
    });
    assert!(lanes.iter().all(|lane| lane.len() > 20), "both lanes have work");
    let record = async |host: &str, models: &[FoundModel], size: usize| -> Result<u64, DbError> {
        let mut added = 0;
        for models in models.chunks(size) {
            let counts = models::record_models(&pool, None, (host, "main"), &batch(models)).await?;
            added += counts.map_or(0, |counts| counts.added);
        }
        Ok(added)
    };
    let batches = HOSTS.into_iter().zip([7, 11]).flat_map(|(host, size)| {
        let record = &record;
        lanes.iter().map(move |models| record(host, models, size))
    });
    let added: u64 = try_join_all(batches).await.expect("every batch is recorded").into_iter().sum();
    assert_eq!(added, models.len() as u64);
    let count = async |what: &'static str| -> i64 { sqlx::query_scalar(what).fetch_one(&pool).await.expect("a count") };
    assert_eq!(count("select count(distinct (name, rel_path)) from models").await, 60);
    assert_eq!(count("select count(*) from model_locations").await, 120);
    assert_eq!(count("select count(*) from model_components").await, 20 + 3 * 20);
    assert_eq!(
        count("select count(*) from model_search s join models m on m.id = s.model_id where s.hosts = '{a,b}' and s.name = m.name").await,
        60
    );
}

/// What another build cut has another digest for the same bytes: nothing is wrong with them.
#[tokio::test]
async fn digests_of_another_form_are_neither_registered_nor_compared() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    models::record_models(&pool, None, ("a", "main"), &batch(&[found(0)])).await.expect("a record");
    let component: ComponentId = sqlx::query_scalar("select id from components").fetch_one(&pool).await.expect("one");
    let (mine, other) = ("a".repeat(64), "b".repeat(64));
    let mut tx = pool.begin().await.expect("a transaction");
    for (digest, form, expected) in [
        (&mine, 2, Registered::Gone),
        (&mine, 1, Registered::Own),
        (&other, 2, Registered::Gone),
        (&other, 1, Registered::Mismatch),
    ] {
        let answer = models::register_digest(&mut tx, component, digest, form).await.expect("an answer");
        assert_eq!(answer, expected, "{digest} of form {form}");
    }
}

fn file(inode: u64) -> FileIdentity {
    FileIdentity { rel_path: "unet/x".to_owned(), size_bytes: 1, mtime_ns: 2, inode, dev: 4 }
}

/// A folder as it is read usually, and as its variant `fp16`.
fn variants() -> (FoundModel, FoundModel) {
    let read_as = ReadAs { variant: Some("fp16".to_owned()), ..ReadAs::default() };
    (FoundModel { files: vec![file(1)], ..found(0) }, FoundModel { files: vec![file(2)], read_as, ..found(0) })
}

async fn record_one(pool: &Pool, host: &str, model: &FoundModel) {
    let batch = batch(std::slice::from_ref(model));
    models::record_models(pool, None, (host, "main"), &batch).await.expect("a record");
}

/// A host that follows a choice of a variant reports other files than before, and the same as the host that followed first.
#[tokio::test]
async fn what_one_host_knows_of_a_chosen_variant_outlives_that_another_follows() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let (usual, chosen) = variants();
    let unread = FoundModel { is_unreadable: true, files: Vec::new(), ..chosen.clone() };
    let record = async |host: &str, model: &FoundModel| record_one(&pool, host, model).await;
    let misread = async |host: &str| models::misread(&pool, host, None).await.expect("roots");
    let known = async || -> (Option<String>, ComponentId) {
        let known = "select m.sha256, p.component_id from models m join model_components p on p.model_id = m.id";
        sqlx::query_as(known).fetch_one(&pool).await.expect("one component")
    };
    for host in HOSTS {
        record(host, &usual).await;
        assert!(misread(host).await.is_empty());
    }
    let before = known().await;
    sqlx::query("update models set overrides = '{\"variant\": \"fp16\"}'").execute(&pool).await.expect("a choice");
    record("a", &chosen).await;
    let first = known().await;
    assert_ne!(first.1, before.1, "other files have other components");
    assert_eq!((misread("a").await, misread("b").await), (vec![], vec!["main".to_owned()]));
    sqlx::query("update models set sha256 = 'ab'").execute(&pool).await.expect("a hash");
    // a host that cannot read its files now has looked, and is not asked to scan again and again
    record("b", &unread).await;
    assert!(misread("b").await.is_empty());
    record("b", &chosen).await;
    assert!(misread("b").await.is_empty());
    assert_eq!(known().await, (Some("ab".to_owned()), first.1));
    // other files of the same variant are other ones
    record("b", &FoundModel { files: vec![file(3)], ..chosen }).await;
    assert_eq!(known().await.0, None);
}

/// A choice that was taken back before every host followed it, or was made while the files could not be read or were gone.
#[tokio::test]
async fn hashes_of_another_variant_are_forgotten_whoever_reads_the_chosen_one_first() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let (usual, chosen) = variants();
    let record = async |host: &str, model: &FoundModel| record_one(&pool, host, model).await;
    let run = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.expect("a statement");
    };
    let known = async || -> Option<String> {
        sqlx::query_scalar("select sha256 from models").fetch_one(&pool).await.expect("one model")
    };
    for host in HOSTS {
        record(host, &usual).await;
    }
    // a followed and hashed; the choice is taken back, and b, which still has the usual files, is first to say so
    record("a", &chosen).await;
    run("update models set sha256 = 'ab'").await;
    record("b", &usual).await;
    assert_eq!(known().await, None);
    run("update models set sha256 = 'cd'").await;
    record("a", &usual).await;
    assert_eq!(known().await.as_deref(), Some("cd"), "a only follows");

    // no files are known: the host looked while its disk did not answer
    let unread = FoundModel { is_unreadable: true, files: Vec::new(), ..chosen.clone() };
    for host in HOSTS {
        record(host, &unread).await;
    }
    record("a", &chosen).await;
    assert_eq!(known().await, None);
    // or the files were gone
    run("update models set sha256 = 'ef', state = 'missing'").await;
    run("delete from model_locations").await;
    record("a", &usual).await;
    assert_eq!(known().await, None);
}

/// A host that hashed what it had before it followed a choice says nothing of the variant that is read by now.
#[tokio::test]
async fn hashes_of_a_host_that_has_not_followed_are_not_recorded() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let (usual, chosen) = variants();
    let record = async |host: &str, model: &FoundModel| record_one(&pool, host, model).await;
    for host in HOSTS {
        record(host, &usual).await;
    }
    record("a", &chosen).await;
    let model = sqlx::query_scalar("select id from models").fetch_one(&pool).await.expect("one model");
    let hashed = |of: &FoundModel| ModelHashes {
        model,
        files: serde_json::to_value(&of.files).expect("JSON"),
        content_digest: "ab".to_owned(),
        sha256: None,
        payload_sha256: None,
    };
    let mut tx = pool.begin().await.expect("a transaction");
    assert!(!hashes::record_model(&mut tx, "b", &hashed(&usual)).await.expect("an answer"));
    assert!(hashes::record_model(&mut tx, "a", &hashed(&chosen)).await.expect("an answer"));
    let behind = models::hosts_behind(&mut *tx, &[model]).await.expect("hosts");
    assert_eq!(behind, [(model, "b".to_owned())]);
}

/// A host without files of the chosen variant reports nothing of the model, and takes nothing from the one that has them.
#[tokio::test]
async fn a_host_that_lacks_a_chosen_variant_takes_nothing_from_one_that_has_it() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let (usual, chosen) = variants();
    let lacking = FoundModel { components: Vec::new(), reason: Some("it has no `fp16`".to_owned()), ..chosen.clone() };
    let known = async || -> (String, Option<String>, Option<String>, i64) {
        let known = "select state, reason, sha256, (select count(*) from model_components) from models";
        sqlx::query_as(known).fetch_one(&pool).await.expect("one model")
    };
    for host in HOSTS {
        record_one(&pool, host, &usual).await;
    }
    record_one(&pool, "a", &chosen).await;
    sqlx::query("update models set sha256 = 'ab'").execute(&pool).await.expect("a hash");
    let before = known().await;
    record_one(&pool, "b", &lacking).await;
    assert_eq!(known().await, before);
    let model = sqlx::query_scalar("select id from models").fetch_one(&pool).await.expect("one model");
    let behind = models::hosts_behind(&pool, &[model]).await.expect("hosts");
    assert_eq!(behind, [(model, "b".to_owned())], "it has nothing that could be read");
    // where nobody has it, that is what the model is
    record_one(&pool, "a", &lacking).await;
    let (_, reason, _, components) = known().await;
    assert_eq!((reason.as_deref(), components), (Some("it has no `fp16`"), 0));
}

/// A mark is of a file: choosing another variant and taking that back makes no byte of it better.
#[tokio::test]
async fn a_mark_outlives_that_another_variant_is_read_meanwhile() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let (usual, chosen) = variants();
    let scan = async |model: &FoundModel| {
        let mut tx = pool.begin().await.expect("a transaction");
        let found = std::slice::from_ref(model);
        models::record_scan(&mut tx, "a", "main", Scan { found, recorded: &[], unchanged: &[] }).await.expect("a scan");
        tx.commit().await.expect("a commit");
    };
    let marks = async || models::count_corrupt_files(&pool).await.expect("a count");
    scan(&usual).await;
    sqlx::query(
        "insert into corrupt_files (host, file, component_id, expected, actual, job_id)
         select 'a', (l.files -> 0) - 'rel_path', p.component_id, 'x', 'y', 'job'
         from model_locations l join model_components p using (model_id)",
    )
    .execute(&pool)
    .await
    .expect("a mark");
    scan(&usual).await;
    assert_eq!(marks().await, 1);
    scan(&chosen).await;
    assert_eq!(marks().await, 0, "no model has the file");
    scan(&usual).await;
    assert_eq!(marks().await, 1, "it is the file that it was");
    sqlx::query("update corrupt_files set found_at = now() - interval '91 days'").execute(&pool).await.expect("time");
    scan(&chosen).await;
    scan(&usual).await;
    assert_eq!(marks().await, 1, "it was gone for a moment, however long ago it was found");
    scan(&chosen).await;
    sqlx::query("update corrupt_files set left_at = left_at - interval '91 days'").execute(&pool).await.expect("time");
    scan(&chosen).await;
    scan(&usual).await;
    assert_eq!(marks().await, 0, "nobody asked for it for so long");
}

/// A scan is followed by another for what was said while it ran, and not for what it could not follow.
#[tokio::test]
async fn only_what_was_said_during_a_scan_asks_for_another() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    let (usual, _) = variants();
    record_one(&pool, "a", &usual).await;
    let mut tx = pool.begin().await.expect("a transaction");
    let spec = JobSpec::Scan(ScanArgs { root: None, model: None });
    let scan = enqueue(&mut tx, NewJob::new(spec, Target::Host("a".to_owned()))).await.expect("a job").id;
    tx.commit().await.expect("a commit");
    let misread = async || models::misread(&pool, "a", Some(scan)).await.expect("roots");
    let run = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.expect("a statement");
    };
    run("update models set overrides = '{\"variant\": \"fp16\"}', updated_at = now() - interval '1 minute'").await;
    run("update jobs set started_at = now()").await;
    assert!(misread().await.is_empty(), "it was said before");
    run("update jobs set started_at = now() - interval '2 minutes'").await;
    assert_eq!(misread().await, ["main"]);
    // this host's files of the model are no longer where the model is
    run("update models set rel_path = 'elsewhere'").await;
    assert!(misread().await.is_empty());
}

/// A registration that takes a root off its host, and a commit that has a model of that root and then writes what is resident there: the one
/// waits for the other, and never both.
#[tokio::test]
async fn a_registration_and_a_commit_take_models_before_what_is_resident() {
    let farm = Farm::start().await;
    let pool = catalogue(&farm).await;
    models::record_models(&pool, None, ("a", "main"), &batch(&[found(1)])).await.expect("a record");
    let mut commit = pool.begin().await.expect("a transaction");
    sqlx::query("select 1 from models for no key update").execute(&mut *commit).await.expect("the model");
    let registering = register(&pool, "a", vec![("other".to_owned(), "/other".to_owned(), None)]);
    let committing = async {
        wait_for("the registration to wait for the model", SHORT, || async {
            let waits: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
            )
            .fetch_one(&pool)
            .await
            .expect("an answer");
            if waits == 1 { Ok(()) } else { Err(format!("{waits} wait")) }
        })
        .await;
        residency::lock(&mut commit, &BTreeSet::from(["a".to_owned()])).await.expect("nobody has it");
        commit.commit().await.expect("a commit");
    };
    let (registered, ()) = tokio::join!(registering, committing);
    registered.expect("a registration");
    let left: i64 = sqlx::query_scalar("select count(*) from model_locations").fetch_one(&pool).await.expect("a count");
    assert_eq!(left, 0);
}
