//! Starts servers: detached, or tied to a thread that lives as long as the handle.

use std::{
    io,
    process::Command,
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use crate::process::ProcessId;

/// The signal of "end when your parent does" is sent when the starting *thread* ends, so tied servers are all started
/// from one thread that outlives the callers' own.
#[derive(Debug)]
pub(crate) enum Spawner {
    Detached,
    Tied { requests: Option<SyncSender<Request>>, thread: Option<JoinHandle<()>> },
}

#[derive(Debug)]
pub(crate) struct Request {
    command: Command,
    answer: SyncSender<io::Result<Option<ProcessId>>>,
}

impl Spawner {
    pub(crate) fn new(detached: bool) -> io::Result<Self> {
        if detached {
            return Ok(Self::Detached);
        }
        let (requests, inbox) = sync_channel::<Request>(1);
        let work = move || {
            for Request { command, answer } in inbox {
                // nobody waits for the answer only when the caller has gone, and then nobody needs it
                let _ = answer.send(start(command));
            }
        };
        let thread = std::thread::Builder::new().name("store-keeper".to_owned()).spawn(work)?;
        Ok(Self::Tied { requests: Some(requests), thread: Some(thread) })
    }

    /// Starts the command and reaps it when it ends; none when it has ended already.
    pub(crate) fn spawn(&self, command: Command) -> io::Result<Option<ProcessId>> {
        match self {
            Self::Detached => start(command),
            Self::Tied { requests, .. } => {
                let gone = || io::Error::other("the thread that starts servers has ended");
                let (answer, outcome) = sync_channel(1);
                let requests = requests.as_ref().ok_or_else(gone)?;
                requests.send(Request { command, answer }).map_err(|_| gone())?;
                outcome.recv().map_err(|_| gone())?
            }
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        if let Self::Tied { requests, thread } = self {
            requests.take();
            if let Some(thread) = thread.take() {
                // it only forwards commands and has nothing to fail with
                let _ = thread.join();
            }
        }
    }
}

fn start(mut command: Command) -> io::Result<Option<ProcessId>> {
    let mut child = command.spawn()?;
    let id = ProcessId::of(child.id());
    std::thread::Builder::new().name("store-reaper".to_owned()).spawn(move || child.wait())?;
    Ok(id)
}
