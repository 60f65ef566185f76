//! The agent's side of a run: hand it over, hear how far it is, take what it leaves.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Packed, Payload, RunPart, RunPhase, RunStep, Runner, RunnerError,
    protocol::{Command, Done, Step},
    request::Patience,
};

/// How long a cancelled run may take to stop before its process is killed: it stops between two nodes of its graph, and the
/// largest convolutions take seconds on a processor.
const CANCEL_GRACE: Duration = Duration::from_secs(20);

/// How long it may take when somebody else may soon start its job: less than the time between the self-fence and the end of
/// the lease.
pub(crate) const HURRIED_GRACE: Duration = Duration::from_secs(2);

/// Work for a runner's engine.
#[derive(Debug, Default)]
pub struct RunOrder {
    /// What to do, as the runner reads it.
    pub work: Value,
    /// Components that take part; each has to be on the device.
    pub parts: Vec<RunPart>,
    /// Its inputs.
    pub inputs: Packed,
    /// Where what it shows goes.
    pub previews: Option<mpsc::Sender<RunPreview>>,
}

/// What a run shows before its end.
#[derive(Debug)]
pub struct RunPreview {
    /// How it was made.
    pub about: Value,
    /// Its pictures.
    pub pictures: Payload,
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// Facts about it; an object.
    pub facts: Value,
    /// Its outputs.
    pub outputs: Payload,
}

impl Runner {
    /// Runs models that are on the device. `progress` hears how far it is. Dropping the future asks the run to stop. One that
    /// is cancelled has 20 s to stop, one whose caller is in a `hurry` 2 s; then its process is killed.
    ///
    /// # Errors
    /// [`RunnerError`]: `OutOfMemory` before anything ran when the estimate does not fit, `Work` with the engine's own
    /// code and words, `Crashed` when the process died under it.
    pub async fn run(
        &self,
        order: RunOrder,
        progress: impl Fn(RunStep) + Send + Sync,
        (cancel, hurry): (&CancellationToken, &CancellationToken),
    ) -> Result<Ran, RunnerError> {
        let RunOrder { work, parts, inputs, previews } = order;
        let (blobs, memory) = inputs.into_parts();
        let command = Box::new(move |call| Command::Run { call, work, parts, blobs });
        let begun = Step::At(RunStep { phase: RunPhase::Preparing, done: 0, total: 0 });
        let (report, reported) = watch::channel(begun);
        let told = |step| match step {
            Step::At(step) => progress(step),
            Step::Copied(_) | Step::Stopping => {}
        };
        let patience = Patience { cancel, hurry: Some((hurry, HURRIED_GRACE)), grace: CANCEL_GRACE };
        match self.carried_out(command, memory, (report, reported), (told, previews), patience).await? {
            Done::Ran(ran) => {
                let outputs = Payload::open(ran.blobs, ran.memory.as_ref())
                    .map_err(|error| self.failed(format!("the outputs cannot be read: {error}")))?;
                Ok(Ran { facts: ran.facts, outputs })
            }
            other => Err(self.unexpected(&other)),
        }
    }
}
