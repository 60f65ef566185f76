//! G11: leases and order use the database's clock, so that the clocks of machines do not matter.

use harness::{Clock, Farm, LONG, libfaketime};
use shared::job::JobState;

use crate::support::{big_model, bytes_move, device_is, load, loaded, small_model};

#[tokio::test]
async fn g11_clock_independence() {
    if libfaketime().is_none() {
        // tests/run counts what was skipped by this line
        println!("skipped: g11_clock_independence: libfaketime is not installed");
        return;
    }
    let farm = Farm::builder().with(|settings| settings.clock = Clock::Moved("-1h")).start().await;
    small_model(&farm);
    big_model(&farm, 48);
    let a = farm.agent("a").clock(Clock::Moved("+1h")).read_limit("16MB");
    let mut a = farm.agent_with_library(a).await;
    device_is(&farm, "a/cpu:0", "live, whatever the clocks", |view| view.state == "ready" && !view.staleness.stale)
        .await;
    loaded(&farm, "small").await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;

    let _b = farm.agent_with_library(farm.agent("b")).await;
    a.process.kill().await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(done.job.host.as_deref(), Some("b"));
    let attempts = farm.ledger.attempts(job.id).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    assert!(attempts[0].began < attempts[1].began, "{attempts:#?}");
    let events = farm.ledger.events(job.id).await;
    assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at), "{events:#?}");
    let strange = farm
        .ledger
        .number(
            "select (select count(*) from jobs where abs(extract(epoch from now() - created_at)) > 1200
                 or abs(extract(epoch from now() - run_at)) > 1200 or started_at < created_at or finished_at < started_at)
              + (select count(*) from job_events where abs(extract(epoch from now() - at)) > 1200)
              + (select count(*) from host_leases where lease_until > now() + interval '20 minutes')",
        )
        .await;
    assert_eq!(strange, 0, "no time in the database comes from a process");
    farm.assert_ledger_is_clean().await;
}
