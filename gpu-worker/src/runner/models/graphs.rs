//! Users' graphs that were read: as long as a file stays the same, so does its graph.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use engine::graph::UserGraph;

use crate::runner::GraphFile;

/// Graphs that are kept: the parts of a few models. Without its weights one has some megabytes.
const MOST: usize = 16;

/// Those that were read last.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    read: Mutex<VecDeque<(GraphFile, Arc<UserGraph>)>>,
}

impl Graphs {
    /// The graph of this file, if it was read and the file is still the same.
    pub(super) fn find(&self, file: &GraphFile) -> Option<Arc<UserGraph>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.iter().find(|(known, _)| known == file).map(|(_, graph)| graph.clone())
    }

    /// Keeps a graph, and lets the oldest go where there are too many.
    pub(super) fn keep(&self, file: GraphFile, graph: Arc<UserGraph>) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|(known, _)| known.path() != file.path());
        read.push_back((file, graph));
        while read.len() > MOST {
            read.pop_front();
        }
    }
}
