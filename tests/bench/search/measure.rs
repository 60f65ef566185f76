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
    processor::Processor,
    questions::{Kind, Question},
    report::Row,
};

/// Rows of a page of default size, and the one that tells whether there are more.
const LIMIT: i64 = 101;
/// Questions of each kind before the clock runs.
const WARM_UP: usize = 20;
/// Questions of each kind whose plans are looked at, beside the slowest one.
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
    let (mut took_ms, mut cpu_ms, mut found) = (Vec::new(), Vec::new(), 0);
    let mut slowest = None;
    let session = Processor::of(conn).await?;
    for number in 0..WARM_UP + count {
        let question = (kind.ask)(sample, &mut rng);
        let (mut ms, mut cpu, mut rows) = (f64::INFINITY, None, 0);
        for _ in 0..times {
            let before = session.used_ms();
            let (took, some) = ask(conn, question.clone()).await?;
            let used = session.used_ms().zip(before).map(|(after, before)| after - before);
            (ms, rows) = (ms.min(took), some);
            cpu = used.map(|used| used.min(cpu.unwrap_or(f64::INFINITY)));
        }
        if number >= WARM_UP {
            let cost = cpu.unwrap_or(ms);
            if slowest.as_ref().is_none_or(|(most, _)| cost > *most) {
                slowest = Some((cost, question));
            }
            took_ms.push(ms);
            cpu_ms.extend(cpu);
            found += rows;
        }
    }
    let mut plans = Vec::new();
    let chosen = slowest.map(|(_, question)| question).into_iter();
    for question in chosen.chain((0..PLANS).map(|_| (kind.ask)(sample, &mut rng))) {
        let filter = ready(conn, question).await?;
        let ways = models::explain(conn, &filter, LIMIT).await?;
        plans.push(
            ways.into_iter()
                .flat_map(|(way, plan)| std::iter::once(format!("{way:?}")).chain(plan))
                .collect::<Vec<_>>(),
        );
    }
    let whole_tables = plans.iter().flat_map(|plan| plan::whole_tables(plan)).collect();
    Ok(Row {
        kind: kind.name,
        rows: found as f64 / count as f64,
        latency: Latency::of(took_ms.clone()),
        database: Latency::of(cpu_ms.clone()),
        whole_tables,
        plan: plans.swap_remove(0),
        took_ms,
        cpu_ms,
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
    models::component_ids_of(conn, &ids).await?;
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
