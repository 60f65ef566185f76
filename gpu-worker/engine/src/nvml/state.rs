//! What the two threads leave behind, and what it means at a moment. Time is passed in, so that it can be tested.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Incident, NvmlFigures, xid::Verdict};

/// Kinds of incidents that are remembered per device; a driver has a few hundred numbers.
const KINDS_MAX: usize = 512;

/// A thread's side of the state.
#[derive(Debug, Clone, Default)]
pub(super) struct Side {
    /// The call that it is in: its name, since when, how long it may take.
    pub(super) call: Option<(&'static str, Instant, Duration)>,
    /// Why its library does not work.
    pub(super) fault: Option<String>,
    /// It has answered once.
    pub(super) answered: bool,
}

impl Side {
    fn hangs(&self, now: Instant) -> Option<Standing> {
        let (call, since, allowed) = self.call?;
        let out = now.saturating_duration_since(since);
        (out > allowed).then_some(Standing::Unresponsive { call, seconds: out.as_secs() })
    }
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) figures: Side,
    pub(super) events: Side,
    pub(super) latest: Option<NvmlFigures>,
    pub(super) incidents: BTreeMap<(Option<String>, Incident), Seen>,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) stop: bool,
}

/// How often an incident was seen, and when last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    times: u64,
    last: Instant,
}

impl State {
    /// Notes an incident of a device, or of all when the library cannot say which.
    pub(super) fn incident(&mut self, uuid: Option<String>, incident: Incident, now: Instant) {
        let full = self.incidents.len() >= KINDS_MAX;
        match self.incidents.get_mut(&(uuid.clone(), incident)) {
            Some(seen) => *seen = Seen { times: seen.times + 1, last: now },
            None if full => {}
            None => drop(self.incidents.insert((uuid, incident), Seen { times: 1, last: now })),
        }
    }

    /// Counts an error of the library.
    pub(super) fn error(&mut self, code: &'static str) {
        *self.errors.entry(code).or_default() += 1;
    }

    /// The state as others see it.
    pub(super) fn view(&self, now: Instant) -> NvmlView {
        let event = |((uuid, incident), seen): (&(Option<String>, Incident), &Seen)| NvmlEvent {
            uuid: uuid.clone(),
            incident: *incident,
            times: seen.times,
            last: seen.last,
        };
        NvmlView {
            standing: self.standing(now),
            figures: self.latest.clone(),
            events: self.incidents.iter().map(event).collect(),
            events_reason: self.events.fault.clone(),
            errors: self.errors.clone(),
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        if let Some(hung) = self.figures.hangs(now).or_else(|| self.events.hangs(now)) {
            return hung;
        }
        match (&self.figures.fault, self.figures.answered) {
            (Some(reason), true) => Standing::Failing { reason: reason.clone() },
            (Some(reason), false) => Standing::Unmonitored { reason: reason.clone() },
            (None, false) => Standing::Unmonitored { reason: "it has not answered yet".to_owned() },
            (None, true) => self.standing_of_events(),
        }
    }

    /// A wait for events that worked and fails now tells of trouble; a driver that knows no events does not.
    fn standing_of_events(&self) -> Standing {
        match (&self.events.fault, self.events.answered) {
            (Some(reason), true) => Standing::Failing { reason: format!("waiting for events: {reason}") },
            _ => Standing::Answering,
        }
    }
}

/// How the library stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Answering,
    /// It never answered, e.g. because it is not on this machine; devices are used without it.
    Unmonitored {
        /// Why.
        reason: String,
    },
    /// It answered before and fails now.
    Failing {
        /// What it says.
        reason: String,
    },
    /// A call into it does not return.
    Unresponsive {
        /// Which call.
        call: &'static str,
        /// For how long it has been out.
        seconds: u64,
    },
}

impl Standing {
    /// The standing's name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Answering => "answering",
            Self::Unmonitored { .. } => "unmonitored",
            Self::Failing { .. } => "failing",
            Self::Unresponsive { .. } => "unresponsive",
        }
    }

    /// Why it does not answer.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Answering => None,
            Self::Unmonitored { reason } | Self::Failing { reason } => Some(reason.clone()),
            // no seconds: the reason must not change with every look
            Self::Unresponsive { call, .. } => Some(format!("the call `{call}` does not return")),
        }
    }
}

/// An incident of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmlEvent {
    /// Of which device; none when the library could not say: then of each.
    pub uuid: Option<String>,
    /// What it was.
    pub incident: Incident,
    /// How often it was seen.
    pub times: u64,
    /// When last.
    pub last: Instant,
}

impl NvmlEvent {
    /// What follows from it.
    pub fn verdict(&self) -> Verdict {
        super::judge(self.incident)
    }
}

/// What is known at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct NvmlView {
    /// How the library stands.
    pub standing: Standing,
    /// The last figures, however old: [`Standing::Answering`] says that they are fresh.
    pub figures: Option<NvmlFigures>,
    /// Incidents since the start.
    pub events: Vec<NvmlEvent>,
    /// Why no events are seen.
    pub events_reason: Option<String>,
    /// Errors of the library by code.
    pub errors: BTreeMap<&'static str, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_secs(3);

    fn answered() -> State {
        let side = Side { call: None, fault: None, answered: true };
        State { figures: side.clone(), events: side, ..State::default() }
    }

    #[test]
    fn f32_a_call_that_is_out_too_long_is_told_and_forgotten_when_it_returns() {
        let (mut state, start) = (answered(), Instant::now());
        state.figures.call = Some(("temperature", start, ALLOWED));
        assert_eq!(state.view(start + ALLOWED).standing, Standing::Answering);
        let hung = state.view(start + ALLOWED + Duration::from_secs(2)).standing;
        assert_eq!(hung, Standing::Unresponsive { call: "temperature", seconds: 5 });
        state.figures.call = None;
        assert_eq!(state.view(start + ALLOWED * 9).standing, Standing::Answering);
    }

    #[test]
    fn f32_a_library_that_never_worked_is_no_alarm_and_one_that_fails_is() {
        let mut state = State::default();
        assert_eq!(state.view(Instant::now()).standing.as_str(), "unmonitored");
        state.figures.fault = Some("not found".into());
        assert_eq!(state.view(Instant::now()).standing.as_str(), "unmonitored");
        let mut state = answered();
        state.events.fault = Some("Unknown Error".into());
        assert_eq!(state.view(Instant::now()).standing.as_str(), "failing");
        state.events.answered = false;
        assert_eq!(state.view(Instant::now()).standing, Standing::Answering);
    }

    #[test]
    fn incidents_are_counted_by_device_and_bounded() {
        let (mut state, now) = (State::default(), Instant::now());
        for number in 0..2 * KINDS_MAX as u64 {
            state.incident(Some("GPU-a".into()), Incident::Xid(number), now);
            state.incident(Some("GPU-a".into()), Incident::Xid(0), now);
        }
        let view = state.view(now);
        assert_eq!(view.events.len(), KINDS_MAX);
        assert_eq!(view.events[0].times, 2 * KINDS_MAX as u64 + 1);
    }
}
