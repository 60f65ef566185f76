//! How fast models are found among many: pages of every list, filter, order and text, asked through the functions that the API
//! asks with, in a library of generated rows. Prints the plan of each kind; a plan that reads a whole table fails the run.

#[path = "../facts.rs"]
mod facts;
#[path = "../latency.rs"]
mod latency;
mod library;
mod measure;
mod plan;
mod processor;
mod questions;
mod report;
#[path = "../server.rs"]
mod server;

use std::path::PathBuf;

use clap::Parser;
use shared::{config::Stores, db};

use report::{Report, Row};
use server::Server;

/// Measures pages of models.
#[derive(Debug, Parser)]
struct Args {
    /// Folder for the private server; removed by the caller.
    #[arg(long)]
    dir: PathBuf,
    /// A server with a database that was filled by an earlier run; nothing is generated.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Models of the library.
    #[arg(long, default_value_t = 100_000)]
    models: i32,
    /// Questions of each kind.
    #[arg(long, default_value_t = 2_000)]
    questions: usize,
    /// Ask each question so many times and take the fastest: on a machine that others use too, it says what a quiet one would.
    #[arg(long, default_value_t = 1)]
    best_of: usize,
    /// Only kinds whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Print a plan of each kind.
    #[arg(long)]
    plans: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(&args))?;
    if args.json {
        report.print_json()?;
    } else {
        report.print(args.plans);
    }
    let whole: Vec<&str> = report.rows.iter().filter(|row| !row.whole_tables.is_empty()).map(|row| row.kind).collect();
    anyhow::ensure!(whole.is_empty(), "plans that read whole tables: {}", whole.join(", "));
    Ok(())
}

async fn run(args: &Args) -> anyhow::Result<Report> {
    let machine = facts::facts(&args.dir)?;
    let (server, url) = match &args.database {
        Some(url) => (None, url.clone()),
        None => {
            let server = Server::start(&args.dir).await?;
            let url = server.database("bench_search").await?;
            (Some(server), url)
        }
    };
    let pool = db::pool(&Stores { database_url: url, redis_url: None, database_connections: 2 }, "bench")?;
    if let Some(server) = &server {
        db::migrate(&pool).await?;
        library::make(&pool, args.models).await?;
        server.settle().await?;
    }
    let mut conn = pool.acquire().await?;
    let sample = library::sample(&mut conn).await?;
    let mut rows = Vec::new();
    for kind in questions::KINDS.iter().filter(|kind| kind.name.contains(&args.only)) {
        rows.push(measure::kind(&mut conn, kind, &sample, args.questions, args.best_of).await?);
    }
    if rows.len() > 1 {
        rows.push(Row::of_all(&rows));
    }
    let postgres = server.as_ref().map_or("given", |server| server.version()).to_owned();
    drop(conn);
    pool.close().await;
    Ok(Report { machine, postgres, models: sample.models, best_of: args.best_of, rows })
}
