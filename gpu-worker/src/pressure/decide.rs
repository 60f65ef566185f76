//! How many bytes the RAM tier may hold, from what the system says: pure, so that every case can be played through.
//!
//! The tier may hold what it holds plus what is still free, less the headroom that others are left. A cut holds at once;
//! more is allowed only after some calm, and in steps that are worth it, so that the limit does not swing.

use std::time::Duration;

use super::sample::Sample;

/// All work standing still for this part of ten seconds is pressure, whatever the free bytes say.
const STALL_PERCENT: f64 = 10.0;
/// Time between cuts because of stalls: their average moves slowly.
const STALL_PAUSE: Duration = Duration::from_secs(2);
/// Part of the held bytes that one such cut takes.
const STALL_STEP: u64 = 16;
/// Part of the configured budget that stalls leave: so few bytes are not what the machine lacks, and a tier that nearly is empty
/// would be cut to nothing because others are short.
const STALL_FLOOR: u64 = 8;
/// Calm before the limit is raised.
const CALM: Duration = Duration::from_secs(5);
/// Smallest raise, as a part of the configured budget.
const RAISE: u64 = 32;

/// What is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The tier's budget.
    pub budget_bytes: u64,
    /// Memory that others are left.
    pub headroom_bytes: u64,
}

/// What the tier holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// By the ledger: ready, and promised to running loads.
    pub ledger_bytes: u64,
    /// Really allocated, as the system says.
    pub system_bytes: u64,
}

/// How tight it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// The whole budget may be used.
    #[default]
    None,
    /// The budget is cut.
    Tight,
    /// More is held than is allowed, and it is in use or protected.
    Critical,
}

impl Level {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tight => "tight",
            Self::Critical => "critical",
        }
    }
}

/// What the tier is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Bytes that it may hold.
    pub limit_bytes: u64,
    /// How tight it is, before the tier has done anything about it.
    pub level: Level,
    /// Why it is less than the budget; empty otherwise.
    pub cause: String,
    /// Bytes that are short even if the tier held nothing: others of ours have to give them.
    pub deficit_bytes: u64,
}

/// Remembers what was ordered.
#[derive(Debug)]
pub struct Governor {
    settings: Settings,
    limit_bytes: u64,
    cause: String,
    /// Since when more could be allowed.
    calm_since: Option<Duration>,
    /// The last cut because of stalls.
    stalled_at: Option<Duration>,
}

impl Governor {
    /// Allows the whole budget.
    pub fn new(settings: Settings) -> Self {
        let limit_bytes = settings.budget_bytes;
        Self { settings, limit_bytes, cause: String::new(), calm_since: None, stalled_at: None }
    }

    /// The order for a sample that was taken at `now`, a time that never runs backwards.
    pub fn step(&mut self, sample: &Sample, held: Held, now: Duration) -> Order {
        let (allowed, cause) = self.allowed(sample, held, now);
        if allowed < self.limit_bytes {
            (self.limit_bytes, self.cause, self.calm_since) = (allowed, cause, None);
        } else if allowed > self.limit_bytes {
            self.raise(allowed, now);
        } else {
            self.calm_since = None;
        }
        let deficit_bytes = self.kept(sample).saturating_sub(reach(sample, held));
        Order { limit_bytes: self.limit_bytes, level: self.level(held), cause: self.cause.clone(), deficit_bytes }
    }

    fn allowed(&mut self, sample: &Sample, held: Held, now: Duration) -> (u64, String) {
        let by_room = reach(sample, held).saturating_sub(self.kept(sample)).min(self.settings.budget_bytes);
        if sample.stalled_full_percent < STALL_PERCENT {
            return (by_room, cause_of(sample, self.settings.headroom_bytes));
        }
        let again = self.stalled_at.is_none_or(|at| now.saturating_sub(at) >= STALL_PAUSE);
        let base = self.limit_bytes.min(held.ledger_bytes.max(held.system_bytes));
        let floor = self.limit_bytes.min(self.settings.budget_bytes / STALL_FLOOR);
        let by_stalls = if again { (base - base / STALL_STEP).max(floor) } else { self.limit_bytes };
        if again {
            self.stalled_at = Some(now);
        }
        let stalls =
            format!("work stood still for want of memory in {:.0} % of ten seconds", sample.stalled_full_percent);
        if by_room < by_stalls {
            (by_room, cause_of(sample, self.settings.headroom_bytes))
        } else {
            (by_stalls, stalls)
        }
    }

    /// Bytes that must not be taken: the headroom, and what the group is over its limit.
    fn kept(&self, sample: &Sample) -> u64 {
        self.settings.headroom_bytes.saturating_add(sample.over_bytes())
    }

    fn raise(&mut self, allowed: u64, now: Duration) {
        let since = *self.calm_since.get_or_insert(now);
        let whole = allowed >= self.settings.budget_bytes;
        let worth_it = allowed - self.limit_bytes >= self.settings.budget_bytes / RAISE;
        if now.saturating_sub(since) >= CALM && (whole || worth_it) {
            self.limit_bytes = allowed;
            self.calm_since = None;
            if whole {
                self.cause.clear();
            }
        }
    }

    fn level(&self, held: Held) -> Level {
        if self.limit_bytes >= self.settings.budget_bytes {
            Level::None
        } else if held.ledger_bytes > self.limit_bytes {
            Level::Critical
        } else {
            Level::Tight
        }
    }
}

/// Bytes that the tier could have: what it holds and what is free.
fn reach(sample: &Sample, held: Held) -> u64 {
    held.system_bytes.saturating_add(sample.room_bytes())
}

fn cause_of(sample: &Sample, headroom_bytes: u64) -> String {
    let of_group = sample.group.as_ref().filter(|group| group.room_bytes() < sample.available_bytes);
    match of_group {
        Some(group) => format!(
            "the control group {} uses {} of {} bytes and {headroom_bytes} are kept free",
            group.name, group.used_bytes, group.limit_bytes
        ),
        None => {
            format!("the machine has {} bytes available and {headroom_bytes} are kept free", sample.available_bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::sample::Group, *};

    const MIB: u64 = 1 << 20;
    const SETTINGS: Settings = Settings { budget_bytes: 700 * MIB, headroom_bytes: 100 * MIB };

    fn sample(limit: u64, used: u64) -> Sample {
        let group = Group { name: "/farm".into(), limit_bytes: limit * MIB, used_bytes: used * MIB };
        let total_bytes = 4096 * MIB;
        Sample { total_bytes, available_bytes: 3000 * MIB, group: Some(group), ..Sample::default() }
    }

    fn held(mib: u64) -> Held {
        Held { ledger_bytes: mib * MIB, system_bytes: mib * MIB }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_limit_cut_by_thirty_percent_while_full_cuts_the_budget_at_once_and_calm_gives_it_back() {
        let mut governor = Governor::new(SETTINGS);
        let order = governor.step(&sample(1000, 800), held(700), at(0));
        assert_eq!((order.limit_bytes, order.level), (700 * MIB, Level::None));
        let order = governor.step(&sample(700, 800), held(700), at(1));
        assert_eq!((order.limit_bytes, order.level), (500 * MIB, Level::Critical), "what is over, and the headroom");
        let order = governor.step(&sample(700, 600), held(500), at(3));
        assert_eq!((order.limit_bytes, order.level), (500 * MIB, Level::Tight), "{order:?}");
        assert!(order.cause.contains("/farm uses"), "{order:?}");
        for second in 4..9 {
            assert_eq!(governor.step(&sample(1000, 600), held(500), at(second)).limit_bytes, 500 * MIB);
        }
        let order = governor.step(&sample(1000, 600), held(500), at(9));
        assert_eq!((order.limit_bytes, order.level, order.cause.as_str()), (700 * MIB, Level::None, ""));
    }

    #[test]
    fn swings_smaller_than_a_step_do_not_raise_it() {
        let mut governor = Governor::new(SETTINGS);
        governor.step(&sample(600, 400), held(400), at(0));
        for second in 1..60 {
            let order = governor.step(&sample(610, 400), held(400), at(second));
            assert_eq!(order.limit_bytes, 500 * MIB);
        }
        for second in 60..66 {
            governor.step(&sample(640, 400), held(400), at(second));
        }
        assert_eq!(governor.step(&sample(640, 400), held(400), at(70)).limit_bytes, 540 * MIB);
    }

    #[test]
    fn what_the_tier_cannot_give_is_short() {
        let mut governor = Governor::new(SETTINGS);
        let order = governor.step(&sample(1000, 960), held(10), at(0));
        assert_eq!((order.limit_bytes, order.deficit_bytes), (0, 50 * MIB), "{order:?}");
        let order = governor.step(&sample(700, 800), held(700), at(1));
        assert_eq!(order.deficit_bytes, 0, "{order:?}");
    }

    #[test]
    fn stalls_cut_in_steps_even_where_bytes_are_free() {
        let mut governor = Governor::new(SETTINGS);
        let stalled = Sample { stalled_full_percent: 30.0, ..sample(4000, 700) };
        let order = governor.step(&stalled, held(640), at(0));
        assert_eq!((order.limit_bytes, order.level), (600 * MIB, Level::Critical));
        assert!(order.cause.contains("stood still"), "{order:?}");
        assert_eq!(governor.step(&stalled, held(600), at(1)).limit_bytes, 600 * MIB);
        assert_eq!(governor.step(&stalled, held(600), at(2)).limit_bytes, 600 * MIB - 600 * MIB / 16);
    }

    #[test]
    fn stalls_leave_an_empty_tier_room_for_a_load() {
        let mut governor = Governor::new(SETTINGS);
        let stalled = Sample { stalled_full_percent: 30.0, ..sample(4000, 700) };
        for second in 0..60 {
            let order = governor.step(&stalled, held(0), at(second));
            assert_eq!(order.limit_bytes, SETTINGS.budget_bytes / STALL_FLOOR, "{order:?}");
        }
        let scarce = Sample { stalled_full_percent: 30.0, ..sample(760, 700) };
        assert_eq!(governor.step(&scarce, held(0), at(60)).limit_bytes, 0, "bytes that are not there are not allowed");
    }

    #[test]
    fn the_machine_counts_where_it_is_tighter_than_the_group() {
        let mut governor = Governor::new(SETTINGS);
        let order = governor.step(&Sample { available_bytes: 150 * MIB, ..sample(4000, 700) }, held(300), at(0));
        assert_eq!(order.limit_bytes, 350 * MIB);
        assert!(order.cause.contains("the machine has"), "{order:?}");
    }

    proptest! {
        #[test]
        fn never_beyond_the_budget_nor_into_the_headroom_and_a_cut_is_never_late(
            steps in proptest::collection::vec((0u64..2000, 0u64..2000, 0u64..900, 0.0..40.0f64, 0u64..4), 1..60),
        ) {
            let mut governor = Governor::new(SETTINGS);
            let mut now = Duration::ZERO;
            for (limit, used, tier, stall, pause) in steps {
                now += at(pause);
                let sample = Sample { stalled_full_percent: stall, ..sample(limit, used) };
                let order = governor.step(&sample, held(tier), now);
                prop_assert!(order.limit_bytes <= SETTINGS.budget_bytes);
                let reach = (tier * MIB + sample.room_bytes()).saturating_sub(SETTINGS.headroom_bytes);
                prop_assert!(order.limit_bytes <= reach, "{order:?}");
                prop_assert_eq!(order.level == Level::None, order.limit_bytes == SETTINGS.budget_bytes);
                prop_assert_eq!(order.level == Level::None, order.cause.is_empty());
            }
        }
    }
}
