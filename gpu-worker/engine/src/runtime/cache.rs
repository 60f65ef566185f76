//! Which sessions there are, and which of them are given up when there are too many or when they rest.
//!
//! A compiled graph without weights is small; what it keeps is the memory of its last run's activations. Giving it up costs
//! a few tenths of a second at its next run, and nobody who holds the session has to know.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::session::Session;

/// Sessions by the key of their graph.
#[derive(Debug, Default)]
pub(super) struct Cache {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

impl Cache {
    /// The session of this key; made when there is none.
    pub(super) fn ensure(&self, key: &str, make: impl FnOnce() -> Session) -> Arc<Session> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sessions.entry(key.to_owned()).or_insert_with(|| Arc::new(make())))
    }

    /// How many are compiled.
    pub(super) fn compiled(&self) -> usize {
        self.all().iter().filter(|session| session.standing() != Standing::Absent).count()
    }

    /// Gives up sessions until one more may be compiled, those first that have rested longest.
    pub(super) fn make_room(&self, most: usize) {
        let sessions = self.all();
        let standings: Vec<Standing> = sessions.iter().map(|session| session.standing()).collect();
        for at in surplus(&standings, most) {
            if let Some(session) = sessions.get(at) {
                session.release();
            }
        }
    }

    /// Gives up sessions that have rested this long, and forgets those that nobody holds. How many were given up, and the
    /// bytes that they had kept.
    pub(super) fn release_idle(&self, rested: Duration) -> (usize, u64) {
        let is_idle = |session: &&Arc<Session>| match session.standing() {
            Standing::Ready(since) => since.elapsed() >= rested,
            Standing::Absent | Standing::Running => false,
        };
        let released: Vec<u64> =
            self.all().iter().filter(is_idle).filter_map(|session| session.release_counted()).collect();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| Arc::strong_count(session) > 1 || session.standing() != Standing::Absent);
        (released.len(), released.iter().sum())
    }

    /// Forgets every session; whoever holds one may go on using it.
    pub(super) fn clear(&self) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not compiled.
    Absent,
    /// In use: it runs, or is being compiled.
    Running,
    /// Compiled; last used at this moment.
    Ready(Instant),
}

/// The sessions to give up so that one of those in use, which is about to be compiled, makes no more than `most`.
fn surplus(standings: &[Standing], most: usize) -> Vec<usize> {
    let running = standings.iter().filter(|standing| **standing == Standing::Running).count();
    let mut ready: Vec<(Instant, usize)> = standings
        .iter()
        .enumerate()
        .filter_map(|(at, standing)| match standing {
            Standing::Ready(since) => Some((*since, at)),
            Standing::Absent | Standing::Running => None,
        })
        .collect();
    ready.sort_unstable();
    let count = (running + ready.len()).saturating_sub(most);
    ready.into_iter().take(count).map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_have_rested_longest_go_and_those_in_use_stay() {
        let now = Instant::now();
        let at = |milliseconds| Standing::Ready(now + Duration::from_millis(milliseconds));
        let standings = [at(30), Standing::Running, at(10), Standing::Absent, at(20)];
        assert_eq!(surplus(&standings, 4), Vec::<usize>::new());
        assert_eq!(surplus(&standings, 2), [2, 4]);
        assert_eq!(surplus(&standings, 0), [2, 4, 0]);
    }
}
