//! Watching the roots: what changes on disk leads to a scan of that root, without anybody asking for one.
//!
//! One task for each root (`root`) looks by inotify (`inotify`) or, where that cannot see or is not allowed to, by walking
//! (`poll`); `debounce` makes one scan of many changes, `submit` asks for it. A watch only ever asks: what is in the
//! catalogue is what scans found. Failed work asks the same way (`crate::rescan`), also where nothing is watched.

mod debounce;
mod inotify;
mod network;
mod poll;
mod root;
mod state;
mod submit;

use std::{sync::Arc, time::Duration};

use crate::{config::WatchMode, context::Agent, lease::Standing};
pub use state::Watches;
pub(crate) use submit::{Asked, submit};

/// How roots are watched.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// By which way.
    pub mode: WatchMode,
    /// Time without a change that ends a burst of them.
    pub quiet: Duration,
    /// Time between walks, where roots are polled.
    pub poll: Duration,
}

/// Starts the watch of every root.
pub fn start(agent: &Arc<Agent>, standing: &Standing, options: Options) {
    if options.mode == WatchMode::Off {
        return;
    }
    for folder in agent.roots.iter().cloned() {
        let (token, watch) =
            (agent.tasks.token().clone(), root::Watch::new(agent.clone(), standing.clone(), folder, options));
        agent.tasks.spawn("root watch", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = watch.run() => {}
            }
        });
    }
}
