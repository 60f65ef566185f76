//! Model-based: random declarations, deaths, failures and passing time against the rules, with one table row as the database
//! keeps it. Never two active jobs, never a hot loop, and when the trouble ends, what is wanted is there.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What happens to the farm between two looks of the scheduler.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// Somebody declares the pipeline anew and has it applied.
    Declare,
    /// Somebody has it restored.
    Unwant,
    /// The runner dies; a job that runs on it fails with this code, or with none and is repeated by the queue.
    RunnerDies,
    /// The agent goes away, and its jobs with it.
    HostGoes,
    /// An agent is there again.
    HostComes,
    /// The job succeeds.
    Succeeds,
    /// The job fails.
    Fails(ErrorCode),
    /// So many seconds pass.
    Pass(u16),
}

/// The row, its job and its device.
#[derive(Debug, Clone)]
struct World {
    wanted: bool,
    wanted_generation: i64,
    applied: Option<Applied>,
    job: Option<(JobFacts, i64, bool)>,
    failures: u32,
    failed: bool,
    retry_at: Option<u64>,
    now: u64,
    agent: Option<Incarnation>,
    runner: i64,
    jobs_by_itself: u32,
    failures_in_all: u32,
    deaths: u32,
}

impl World {
    fn new() -> Self {
        Self {
            wanted: false,
            wanted_generation: 0,
            applied: None,
            job: None,
            failures: 0,
            failed: false,
            retry_at: None,
            now: 0,
            agent: Some(Incarnation::generate()),
            runner: 0,
            jobs_by_itself: 0,
            failures_in_all: 0,
            deaths: 0,
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            wanted: self.wanted,
            wanted_generation: self.wanted_generation,
            applied: self.applied,
            agent: self.agent,
            device_ready: self.agent.is_some(),
            runner_generation: self.runner,
            job: self.job.map(|(job, ..)| job),
            failed: self.failed,
            retry_in: self.retry_at.map(|at| Duration::from_secs(at.saturating_sub(self.now))),
        }
    }

    fn active(&self) -> bool {
        self.job.is_some_and(|(job, ..)| job.state == Some(JobState::Running))
    }

    /// What somebody asks for replaces the newest job, and forgets failures.
    fn asked(&mut self, wanted: bool) {
        self.wanted = wanted;
        (self.failures, self.failed, self.retry_at) = (0, false, None);
        self.begin(wanted);
    }

    fn begin(&mut self, applies: bool) {
        self.job = Some((JobFacts { state: Some(JobState::Running), code: None }, self.wanted_generation, applies));
    }

    fn end(&mut self, state: JobState, code: Option<ErrorCode>) {
        if self.active()
            && let Some((job, ..)) = &mut self.job
        {
            *job = JobFacts { state: Some(state), code };
            self.failures_in_all += 1;
        }
    }

    /// As the agent's transaction writes it.
    fn succeed(&mut self) {
        let (Some(incarnation), Some((_, generation, applies))) = (self.agent, self.job.filter(|_| self.active()))
        else {
            return;
        };
        let there = Applied { generation, incarnation, runner_generation: self.runner };
        self.applied = applies.then_some(there);
        self.job = None;
        (self.failures, self.failed, self.retry_at) = (0, false, None);
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Declare => {
                self.wanted_generation += 1;
                self.asked(true);
            }
            Happening::Unwant if self.applied.is_some() => self.asked(false),
            Happening::Unwant => {}
            Happening::RunnerDies => {
                self.runner += 1;
                self.deaths += 1;
                self.end(JobState::Failed, Some(ErrorCode::Unavailable));
            }
            Happening::HostGoes => {
                self.agent = None;
                self.deaths += 1;
                self.end(JobState::Failed, Some(ErrorCode::WorkerLost));
            }
            Happening::HostComes if self.agent.is_none() => {
                self.agent = Some(Incarnation::generate());
                self.runner = 0;
            }
            Happening::HostComes => {}
            Happening::Succeeds => self.succeed(),
            Happening::Fails(code) => self.end(JobState::Failed, Some(code)),
            Happening::Pass(seconds) => self.now += u64::from(seconds),
        }
    }

    /// What the scheduler does at one look.
    fn look(&mut self) -> Step {
        let step = step(&self.facts());
        match step {
            Step::Wait => {}
            Step::Note { again } => {
                self.job = None;
                self.failed = true;
                self.failures += 1;
                self.retry_at = again.then(|| self.now + pause(self.failures).as_secs());
            }
            Step::Settle => {
                self.job = None;
                (self.failures, self.failed, self.retry_at) = (0, false, None);
            }
            Step::Apply | Step::Restore => {
                assert!(!self.active(), "a second job while one is active");
                assert!(self.retry_at.is_none_or(|at| at <= self.now), "before its pause is over");
                assert!(self.agent.is_some(), "on a host that is away");
                self.jobs_by_itself += 1;
                self.begin(step == Step::Apply);
            }
            Step::Forget => self.applied = None,
        }
        step
    }
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        1 => Just(Happening::Declare),
        1 => Just(Happening::Unwant),
        1 => Just(Happening::RunnerDies),
        1 => Just(Happening::HostGoes),
        2 => Just(Happening::HostComes),
        3 => Just(Happening::Succeeds),
        1 => prop::sample::select(ErrorCode::ALL.to_vec()).prop_map(Happening::Fails),
        3 => (0..120u16).prop_map(Happening::Pass),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    #[test]
    fn what_is_wanted_comes_to_be_and_nothing_runs_hot(happenings in happenings()) {
        let mut world = World::new();
        for happening in happenings {
            world.happens(happening);
            // two looks: what is noted at one is acted upon at the next
            world.look();
            world.look();
        }
        // the trouble is over: jobs succeed, and time passes
        world.happens(Happening::HostComes);
        for _ in 0..8 {
            world.succeed();
            world.look();
            world.now += PAUSE_CAP.as_secs();
        }
        let facts = world.facts();
        prop_assert_eq!(step(&facts), Step::Wait);
        let stopped = world.failed && world.retry_at.is_none();
        let wanted = if world.wanted { Standing::Applied } else { Standing::Restored };
        prop_assert!(stopped || standing(&facts) == wanted, "{:?}: {:?}", standing(&facts), facts);
        let most = world.failures_in_all + world.deaths + 2;
        prop_assert!(world.jobs_by_itself <= most, "{} jobs for {most} causes", world.jobs_by_itself);
    }
}
