//! `unload`: a model off a device; success means that the bytes are back.

use std::sync::Arc;

use shared::job::UnloadArgs;

use super::{Done, cache_remove, load, model};
use crate::{commit::Effects, context::Agent, error::WorkError, runner::RunnerError, running::Attempt};

pub(super) async fn run(agent: &Arc<Agent>, args: UnloadArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("freeing", 0);
    let wanted = model::wanted(agent, args.model, args.components.as_ref()).await?;
    let device = load::device_of(agent, attempt)?;
    let (mut unloaded, mut freed_bytes) = (Vec::new(), 0);
    for row in &wanted.components {
        if attempt.cancel.is_cancelled() {
            return Err(WorkError::Cancelled);
        }
        attempt.progress.detail(&row.kind);
        for held in agent.aliases.held(row.id) {
            match device.runner.unload(held).await {
                Ok(bytes) => {
                    freed_bytes += bytes;
                    unloaded.push(serde_json::json!({ "id": row.id, "kind": row.kind, "bytes": bytes }));
                }
                // unloading what is not there has the effect that was asked for
                Err(RunnerError::NotResident { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let mut result = serde_json::json!({
        "model": wanted.model.name, "device": device.id, "freed_bytes": freed_bytes, "components": unloaded,
    });
    if args.from_ram {
        let ids: Vec<_> = wanted.components.iter().map(|row| row.id).collect();
        result["ram"] = cache_remove::evict(agent, &ids).await?;
    }
    Ok(Done { result, effects: Effects::Resident(Vec::new()) })
}
