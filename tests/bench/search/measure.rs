//! How long a page takes, asked as the API asks.

use std::time::Instant;

use rand::{SeedableRng, rngs::SmallRng};
use shared::{
    db::{
        Session,
        models::{self, ListedModel, ModelFilter},
    },
    ids::ModelId,
};

use crate::{
    latency::Latency,
    library::Sample,
    plan,
    questions::{Kind, Question},
    report::Row,
};

/// Rows of a page of default size, and the one that tells whether there are more.
const LIMIT: i64 = 101;
/// Questions of each kind before the clock runs.
const WARM_UP: usize = 20;
/// Questions of each kind whose plans are looked at.
const PLANS: usize = 5;

/// Asks questions of one kind, each `times` times; the fastest counts.
///
/// # Errors
/// Database errors.
pub(crate) async fn kind(
    conn: &mut Session,
    kind: &Kind,
    sample: &Sample,
    count: usize,
    times: usize,
) -> anyhow::Result<Row> {
    let mut rng = SmallRng::seed_from_u64(17);
    let (mut took_ms, mut found) = (Vec::new(), 0);
    for number in 0..WARM_UP + count {
        let question = (kind.ask)(sample, &mut rng);
        let (mut ms, rows) = ask(conn, question.clone()).await?;
        for _ in 1..times {
            ms = ms.min(ask(conn, question.clone()).await?.0);
        }
        if number >= WARM_UP {
            took_ms.push(ms);
            found += rows;
        }
    }
    let mut plans = Vec::new();
    for _ in 0..PLANS {
        let filter = ready(conn, (kind.ask)(sample, &mut rng)).await?;
        plans.push(models::explain(conn, &filter, LIMIT).await?);
    }
    let whole_tables = plans.iter().flat_map(|plan| plan::whole_tables(plan)).collect();
    Ok(Row {
        kind: kind.name,
        rows: found as f64 / count as f64,
        latency: Latency::of(took_ms),
        whole_tables,
        plan: plans.swap_remove(0),
    })
}

/// Milliseconds and rows of one page.
async fn ask(conn: &mut Session, mut question: Question) -> anyhow::Result<(f64, usize)> {
    if question.second_page {
        question.filter = ready(conn, question.clone()).await?;
        question.text = None;
    }
    let began = Instant::now();
    understood(conn, &mut question).await?;
    let rows = models::list(conn, &question.filter, LIMIT).await?;
    let ids: Vec<ModelId> = rows.iter().map(|row| row.id).collect();
    models::components_of(conn, &ids).await?;
    Ok((began.elapsed().as_secs_f64() * 1e3, rows.len()))
}

async fn understood(conn: &mut Session, question: &mut Question) -> anyhow::Result<()> {
    if let Some(text) = question.text.take() {
        question.filter.text = models::understand(conn, &text).await?;
    }
    Ok(())
}

/// The filter of a question; of its second page where it asks for that.
async fn ready(conn: &mut Session, mut question: Question) -> anyhow::Result<ModelFilter> {
    understood(conn, &mut question).await?;
    if question.second_page {
        let rows: Vec<ListedModel> = models::list(conn, &question.filter, LIMIT - 1).await?;
        question.filter.after = rows.last().map(|last| (question.filter.key_of(last), last.id));
    }
    Ok(question.filter)
}
