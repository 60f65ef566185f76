//! Whether a device may have another process after one ended: what its management library has said of it since. Pure.
//!
//! A process that died for its device's sake must not be followed by one that meets the same (F33): the library is asked once
//! a second, a process would be started after a tenth of one.

use std::time::{Duration, Instant};

use engine::nvml::{Condition, MonitorOptions, NvmlView, condition};
use tokio::sync::watch;

/// What is known of the devices of the host, view by view; nothing where nobody watches them.
pub type Views = watch::Receiver<Option<NvmlView>>;

/// Of a host whose devices nobody watches.
pub fn unwatched() -> Views {
    watch::channel(None).1
}

/// How long a device that answers may be without a look that began after the end, or may still list the ended process: the
/// round that is under way, a pause, the one that counts, and a moment for who passes it on.
fn look_most() -> Duration {
    let options = MonitorOptions::default();
    options.deadline * 2 + options.period + Duration::from_secs(1)
}

/// A process that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Past {
    /// When it was known to have ended.
    pub(super) at: Instant,
    /// Its id; none when it never was.
    pub(super) pid: Option<u32>,
}

/// What the library says of a device whose process has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// It was looked at since, answers, and the ended process is not on it any more.
    Clear,
    /// The library never spoke of it: it is used without.
    Unwatched,
    /// It was not looked at since.
    Outdated,
    /// The library still lists the ended process on it: its memory is not back.
    Occupied,
    /// It is broken, or nobody can say how it is.
    Against {
        /// Why.
        reason: String,
    },
}

impl Look {
    /// Of the device with this UUID.
    fn of(view: Option<&NvmlView>, uuid: Option<&str>, past: Past) -> Self {
        let Some((view, uuid)) = view.zip(uuid) else { return Self::Unwatched };
        match condition(view, uuid) {
            Condition::Broken { reason } | Condition::Unknown { reason } => Self::Against { reason },
            Condition::Unmonitored { .. } => Self::Unwatched,
            Condition::Good => Self::good(view, uuid, past),
        }
    }

    fn good(view: &NvmlView, uuid: &str, past: Past) -> Self {
        let figures = view.figures.as_ref().filter(|figures| figures.began.is_some_and(|began| began > past.at));
        let Some(figures) = figures else { return Self::Outdated };
        let processes = figures.device(uuid).and_then(|device| device.processes.as_deref()).unwrap_or_default();
        if processes.iter().any(|process| Some(process.pid) == past.pid) { Self::Occupied } else { Self::Clear }
    }
}

/// Why no process is started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Objection {
    /// Why, to be said after how the last one ended.
    pub(super) reason: String,
    /// When that is believed no longer; none when only the library can say so.
    pub(super) until: Option<Instant>,
}

/// The wait for a device to be clear.
#[derive(Debug)]
pub(super) struct Clearance {
    past: Past,
    uuid: Option<String>,
    /// Until when what only needs time is waited for; the next process finds out by itself then.
    until: Instant,
    /// That time has passed.
    overdue: bool,
}

impl Clearance {
    /// Of the device with this UUID, if it has one.
    pub(super) fn after(past: Past, uuid: Option<String>) -> Self {
        Self { past, uuid, until: past.at + look_most(), overdue: false }
    }

    /// Whether nothing speaks against a process only because the time for a look has passed.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue
    }

    /// What speaks against a process `now`; none when one may be started.
    pub(super) fn objection(&mut self, view: Option<&NvmlView>, now: Instant) -> Option<Objection> {
        let reason = match Look::of(view, self.uuid.as_deref(), self.past) {
            Look::Clear | Look::Unwatched => return None,
            Look::Against { reason } => {
                // the time for a look begins anew when it is over
                self.until = now + look_most();
                return Some(Objection { reason: format!("it gets no other: {reason}"), until: None });
            }
            Look::Outdated => "the device is looked at before it gets another",
            Look::Occupied => "the driver has not taken its memory back yet",
        };
        self.overdue = now >= self.until;
        (!self.overdue).then(|| Objection { reason: reason.to_owned(), until: Some(self.until) })
    }
}

#[cfg(test)]
mod tests {
    use engine::nvml::{DeviceFault, Identity, NvmlDevice, NvmlFigures, NvmlProcess, Standing};

    use super::*;

    const UUID: &str = "GPU-a";

    fn view(began: Instant, pids: &[u32]) -> NvmlView {
        let processes = Some(pids.iter().map(|pid| NvmlProcess { pid: *pid, bytes: None }).collect());
        let identity = Identity { uuid: UUID.into(), ..Identity::default() };
        let device = NvmlDevice { identity, processes, ..NvmlDevice::default() };
        NvmlView {
            standing: Standing::Answering,
            figures: Some(NvmlFigures { began: Some(began), driver: None, devices: vec![device] }),
            events: Vec::new(),
            events_reason: None,
            errors: Default::default(),
        }
    }

    fn look(view: &NvmlView, past: Past) -> Look {
        Look::of(Some(view), Some(UUID), past)
    }

    #[test]
    fn f33_only_a_look_that_began_after_the_end_counts() {
        let now = Instant::now();
        let past = Past { at: now + Duration::from_secs(1), pid: Some(7) };
        assert_eq!(look(&view(now, &[]), past), Look::Outdated);
        assert_eq!(look(&view(past.at, &[]), past), Look::Outdated);
        assert_eq!(look(&view(now + Duration::from_secs(2), &[8]), past), Look::Clear);
    }

    #[test]
    fn f33_a_device_that_still_lists_the_ended_process_is_waited_for_and_not_for_ever() {
        let past = Past { at: Instant::now(), pid: Some(7) };
        let mut clearance = Clearance::after(past, Some(UUID.into()));
        let view = view(past.at + Duration::from_secs(1), &[3, 7]);
        assert_eq!(look(&view, past), Look::Occupied);
        let objection = clearance.objection(Some(&view), past.at).unwrap();
        assert_eq!(objection.until, Some(past.at + look_most()));
        assert_eq!((clearance.objection(Some(&view), past.at + look_most()), clearance.is_overdue()), (None, true));
    }

    #[test]
    fn f33_what_speaks_against_a_device_holds_however_long() {
        let past = Past { at: Instant::now(), pid: Some(7) };
        let mut lost = view(past.at + Duration::from_secs(1), &[]);
        if let Some(figures) = &mut lost.figures {
            figures.devices[0].fault = Some(DeviceFault::Lost);
        }
        let mut hung = view(past.at + Duration::from_secs(1), &[]);
        hung.standing = Standing::Unresponsive { call: "memory", seconds: 4 };
        for (view, word) in [(lost, "fell off the bus"), (hung, "unresponsive")] {
            let mut clearance = Clearance::after(past, Some(UUID.into()));
            let late = past.at + look_most() * 99;
            let objection = clearance.objection(Some(&view), late).unwrap();
            assert!(objection.reason.contains(word) && objection.until.is_none(), "{objection:?}");
            let outdated = self::view(past.at, &[]);
            assert!(clearance.objection(Some(&outdated), late).is_some(), "its time begins when it answers again");
        }
    }

    #[test]
    fn f32_a_device_that_nobody_watches_needs_no_look() {
        let past = Past { at: Instant::now(), pid: None };
        assert_eq!(Look::of(None, Some(UUID), past), Look::Unwatched);
        assert_eq!(Look::of(Some(&view(past.at, &[])), None, past), Look::Unwatched);
        let mut absent = view(past.at, &[]);
        absent.standing = Standing::Unmonitored { reason: "not found".into() };
        assert_eq!(look(&absent, past), Look::Unwatched);
    }
}
