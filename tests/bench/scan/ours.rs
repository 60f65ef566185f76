//! A scan as the agent makes it, with its own code: walk, what is known, headers, one transaction.

use std::{path::Path, time::Instant};

use gpu_worker::catalogue::{Before, Seen, survey};
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
    /// All of it.
    pub seconds: f64,
    /// Seconds of processors: of this process, and of the server.
    pub cpu: f64,
    /// The same while headers were read.
    pub read_cpu: f64,
    /// Walking the folders.
    pub walk: f64,
    /// Asking what is known.
    pub known: f64,
    /// Looking at files, and reading headers.
    pub read: f64,
    /// Recording.
    pub record: f64,
    /// Models found.
    pub models: usize,
}

/// An empty catalogue with a registered host.
///
/// # Errors
/// Database errors.
pub(crate) async fn catalogue(url: String, root: &Path) -> anyhow::Result<Pool> {
    let pool = db::pool(&Stores { database_url: url, redis_url: None, database_connections: 2 }, "bench")?;
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
    let (asked, asked_cpu) = (Instant::now(), cpu::seconds()?);
    let found = survey(&discovery.candidates, &before, &Seen::default(), threads, &|| false);
    let (read, read_cpu) = (Instant::now(), cpu::seconds()?);
    let mut tx = pool.begin().await?;
    models::record_scan(&mut tx, HOST, ROOT, &found.models, &found.unchanged).await?;
    tx.commit().await?;
    Ok(Scan {
        seconds: began.elapsed().as_secs_f64(),
        cpu: cpu::seconds()? - busy,
        read_cpu: read_cpu - asked_cpu,
        walk: (walked - began).as_secs_f64(),
        known: (asked - walked).as_secs_f64(),
        read: (read - asked).as_secs_f64(),
        record: read.elapsed().as_secs_f64(),
        models: found.len(),
    })
}
