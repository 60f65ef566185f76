//! A job for several places: it ends when its children have ended, and sums up what became of each.

use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection};

use super::settle::apply;
use crate::{
    db::DbError,
    error::{ErrorBody, ErrorCode},
    ids::JobId,
    job::{JobState, rules::Settled},
};

/// A child as the summary of its parent shows it.
#[derive(Debug, Clone, FromRow)]
struct Child {
    id: JobId,
    state: String,
    place: Option<String>,
    /// Why it did not succeed.
    error: Option<String>,
    /// Bytes that it brought in.
    bytes: Option<i64>,
    /// Bytes that it gave back.
    freed_bytes: Option<i64>,
}

/// Settles the parent of a job that just ended, if it has one.
pub(super) async fn settle_parent_of(tx: &mut PgConnection, child: JobId) -> Result<(), DbError> {
    let parent: Option<Option<JobId>> =
        sqlx::query_scalar("select parent from jobs where id = $1").bind(child).fetch_optional(&mut *tx).await?;
    match parent.flatten() {
        Some(parent) => settle_parent(tx, parent).await,
        None => Ok(()),
    }
}

/// Ends a job with children when all of them have ended: failed if one failed, cancelled if one was cancelled, else succeeded.
///
/// # Errors
/// Database errors.
pub async fn settle_parent(tx: &mut PgConnection, parent: JobId) -> Result<(), DbError> {
    // the lock orders children that end at the same moment: the last one sees all
    let open: Option<Option<Value>> = sqlx::query_scalar(
        "select placement from jobs where id = $1 and lane = 'fanout' and state = 'running' for update",
    )
    .bind(parent)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(placement) = open else { return Ok(()) };
    let children = children_of(tx, parent).await?;
    let states = children.iter().map(state_of).collect::<Result<Vec<_>, _>>()?;
    if !states.iter().all(|state| state.is_terminal()) {
        return Ok(());
    }
    let (state, error) = end(&children, &states);
    let result = summary(&children, placement.as_ref());
    let settled =
        Settled { state, delay: std::time::Duration::ZERO, attempt: 0, crash_count: 0, outcome: state.as_str(), error };
    Box::pin(apply(tx, parent, &settled, Some(result))).await
}

async fn children_of(tx: &mut PgConnection, parent: JobId) -> Result<Vec<Child>, DbError> {
    Ok(sqlx::query_as(
        "select id, state, coalesce(device, host, pin_device, pin_host) as place, error->>'message' as error,
                (result->>'bytes')::bigint as bytes, (result->>'freed_bytes')::bigint as freed_bytes
         from jobs where parent = $1 order by id",
    )
    .bind(parent)
    .fetch_all(tx)
    .await?)
}

fn state_of(child: &Child) -> Result<JobState, DbError> {
    child.state.parse().map_err(|error: crate::job::state::UnknownState| DbError::BadRow(error.to_string()))
}

fn end(children: &[Child], states: &[JobState]) -> (JobState, Option<ErrorBody>) {
    let is_failed = |state: &JobState| matches!(state, JobState::Failed | JobState::Quarantined);
    if !states.iter().any(is_failed) {
        let cancelled = states.contains(&JobState::Cancelled);
        return (if cancelled { JobState::Cancelled } else { JobState::Succeeded }, None);
    }
    let done = states.iter().filter(|state| **state == JobState::Succeeded).count();
    let first = children.iter().zip(states).find(|(_, state)| is_failed(state)).map(|(child, _)| child);
    let why = first.map(|child| {
        let place = child.place.as_deref().unwrap_or("a place that is not known any more");
        format!("; the first, on `{place}`: {}", child.error.as_deref().unwrap_or(&child.state))
    });
    let (missed, all) = (children.len() - done, children.len());
    let message = format!("{missed} of {all} child jobs did not succeed{}", why.unwrap_or_default());
    (JobState::Failed, Some(ErrorBody::new(ErrorCode::Conflict, message)))
}

/// What became of each child, and the places that were left out when the job was planned.
fn summary(children: &[Child], placement: Option<&Value>) -> Value {
    let child = |child: &Child| {
        let mut line = json!({ "id": child.id, "state": child.state, "place": child.place });
        let figures = [("bytes", child.bytes), ("freed_bytes", child.freed_bytes)];
        for (name, figure) in figures {
            if let Some(figure) = figure {
                line[name] = figure.into();
            }
        }
        if let Some(error) = &child.error {
            line["error"] = error.clone().into();
        }
        line
    };
    let left_out = placement.and_then(|placement| placement.get("left_out")).cloned().unwrap_or_else(|| json!([]));
    json!({ "children": children.iter().map(child).collect::<Vec<_>>(), "left_out": left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(place: &str, state: JobState, error: Option<&str>) -> Child {
        let (place, error) = (Some(place.to_owned()), error.map(str::to_owned));
        Child { id: JobId::generate(), state: state.to_string(), place, error, bytes: Some(5), freed_bytes: None }
    }

    fn ended(children: &[Child]) -> (JobState, Option<ErrorBody>) {
        let states: Vec<JobState> = children.iter().map(|child| state_of(child).unwrap()).collect();
        end(children, &states)
    }

    #[test]
    fn a_failure_is_named_with_its_place_and_reason() {
        let mut children =
            vec![child("a/cpu:0", JobState::Succeeded, None), child("b/cpu:0", JobState::Cancelled, None)];
        assert_eq!(ended(&children[..1]), (JobState::Succeeded, None));
        assert_eq!(ended(&children), (JobState::Cancelled, None));
        children.push(child("c/cpu:0", JobState::Failed, Some("no such file")));
        let (state, error) = ended(&children);
        assert_eq!(state, JobState::Failed);
        assert_eq!(error.unwrap().message, "2 of 3 child jobs did not succeed; the first, on `c/cpu:0`: no such file");
    }

    #[test]
    fn the_summary_names_what_was_left_out() {
        let left_out = json!([{ "place": "d/cpu:0", "reason": "has only 1 B" }]);
        let children = [child("a/cpu:0", JobState::Succeeded, None)];
        let result = summary(&children, Some(&json!({ "left_out": left_out })));
        assert_eq!((&result["left_out"], &result["children"][0]["bytes"]), (&left_out, &json!(5)));
        assert_eq!(summary(&children, None)["left_out"], json!([]));
    }
}
