//! A scan as the agent makes it, with its own code: walk, what is known, headers recorded as they are read, the end, texts.

use std::{path::Path, sync::Arc, time::Instant};

use gpu_worker::catalogue::{Before, Recorder, make_texts, survey_and_record};
use shared::{
    config::Stores,
    db::{self, Pool, farm, models},
    ids::Incarnation,
};

use crate::cpu;

const HOST: &str = "bench";
const ROOT: &str = "main";

/// What one scan took, in seconds.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Scan {
    /// Until all models are listed and what vanished is gone.
    pub seconds: f64,
    /// Seconds of processors for that: of this process, and of the server.
    pub cpu: f64,
    /// Walking the folders.
    pub walk: f64,
    /// Asking what is known.
    pub known: f64,
    /// Looking at files, reading headers and recording what they say.
    pub read: f64,
    /// The transaction that ends the scan.
    pub end: f64,
    /// After that: texts, so that models are found by words.
    pub texts: f64,
    /// Seconds of processors for those.
    pub texts_cpu: f64,
    /// Models found.
    pub models: usize,
}

/// An empty catalogue with a registered host.
///
/// # Errors
/// Database errors.
pub(crate) async fn catalogue(url: String, root: &Path) -> anyhow::Result<Pool> {
    let pool = db::pool(&Stores { database_url: url, redis_url: None, database_connections: 4 }, "bench")?;
    db::migrate(&pool).await?;
    let registration = farm::Registration {
        host: HOST.to_owned(),
        incarnation: Incarnation::generate(),
        agent_version: "bench".to_owned(),
        labels: Vec::new(),
        slots: 1,
        ram_budget_bytes: 0,
        capabilities: serde_json::json!({}),
        devices: Vec::new(),
        roots: vec![(ROOT.to_owned(), root.display().to_string(), None)],
    };
    let mut tx = pool.begin().await?;
    farm::register(&mut tx, &registration, std::time::Duration::from_secs(600)).await?;
    tx.commit().await?;
    Ok(pool)
}

/// One scan.
///
/// # Errors
/// When the tree cannot be walked, and database errors.
pub(crate) async fn scan(pool: &Pool, root: &Path, threads: usize) -> anyhow::Result<Scan> {
    let (began, busy) = (Instant::now(), cpu::seconds()?);
    let discovery = model_formats::discover(root)?;
    let walked = Instant::now();
    let before = Before { known: models::known(pool, HOST, ROOT, None).await?, ..Before::default() };
    let asked = Instant::now();
    let recorder = Recorder { pool: pool.clone(), host: HOST.to_owned(), root: ROOT.to_owned(), lease: None };
    let found = survey_and_record(&recorder, discovery.candidates, before, Arc::default(), threads, || false).await?;
    let listed = Instant::now();
    let mut tx = pool.begin().await?;
    let scan = models::Scan { found: &found.models, recorded: &found.recorded, unchanged: &found.unchanged };
    models::record_scan(&mut tx, HOST, ROOT, scan).await?;
    tx.commit().await?;
    let (ended, listed_cpu) = (Instant::now(), cpu::seconds()?);
    make_texts(pool, || false, |_| {}).await?;
    Ok(Scan {
        seconds: (ended - began).as_secs_f64(),
        cpu: listed_cpu - busy,
        walk: (walked - began).as_secs_f64(),
        known: (asked - walked).as_secs_f64(),
        read: (listed - asked).as_secs_f64(),
        end: (ended - listed).as_secs_f64(),
        texts: ended.elapsed().as_secs_f64(),
        texts_cpu: cpu::seconds()? - listed_cpu,
        models: found.len(),
    })
}
