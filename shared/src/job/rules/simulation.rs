//! A seeded simulation of the job and lease state machine: the rules of `rules` over a table in memory, several workers
//! with drifting clocks, crashes, freezes and partitions, a network that delays, loses and doubles messages, two schedulers
//! that may both believe to lead, and a database that goes away. Invariants are checked after every step.
//!
//! Guarantees: terminal states never change and a result commits at most once (G3), attempts and kills are bounded (G4), no
//! write under an old fence is accepted (G5), a worker that acts on a job holds its lease (G6), nothing is taken from a worker
//! that is well (grace), and every job ends once the faults stop (G2). A violation prints its seed.
//! The tests with a flag switched off show that the simulation notices what that rule prevents.

mod actors;
mod table;
mod world;

use world::World;

/// Milliseconds, as in production: lease TTL 15 s, heartbeat at a third, self-fence at four fifths.
const LEASE_TTL: u64 = 15_000;
const BEAT: f64 = 5_000.0;
const SELF_FENCE: f64 = 12_000.0;
const TERM_TTL: u64 = 5_000;
const CLAIM_GRACE: u64 = 5_000;
const STEPS: u64 = 4_000;

/// Which rules are in force.
#[derive(Debug, Clone, Copy)]
struct Flags {
    /// Reports must match (fence, incarnation, running).
    fences: bool,
    /// Workers stop at their local deadline and drop claims from before it.
    self_fence: bool,
    /// Nothing is reaped for one TTL after winning or regaining the database.
    grace: bool,
    /// A defect: the deadline counts from the answer instead of from the question.
    deadline_from_answer: bool,
    /// A defect: a claim that is answered after the worker fenced itself and renewed again is taken up.
    late_claims: bool,
}

const SOUND: Flags =
    Flags { fences: true, self_fence: true, grace: true, deadline_from_answer: false, late_claims: false };

/// A broken guarantee.
#[derive(Debug)]
struct Violation(String);

fn run(seed: u64, flags: Flags) -> Result<u64, Violation> {
    let mut world = World::new(seed, flags);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.calm()?;
    Ok(world.ended)
}

fn holds_for(seeds: std::ops::Range<u64>) {
    let mut ended = 0;
    for seed in seeds.clone() {
        match run(seed, SOUND) {
            Ok(count) => ended += count,
            Err(Violation(what)) => panic!("seed {seed}: {what}"),
        }
    }
    let seeds = seeds.end - seeds.start;
    assert!(ended > 20 * seeds, "{ended} jobs ended in {seeds} runs: the simulation does too little");
}

/// The first violation that some seed finds when a rule is missing.
fn found_with(flags: Flags) -> String {
    let found = (0..200).find_map(|seed| run(seed, flags).err());
    found.expect("no seed noticed that the rule is missing").0
}

#[test]
fn the_guarantees_hold_in_a_quarter_million_steps_a() {
    holds_for(0..63);
}

#[test]
fn the_guarantees_hold_in_a_quarter_million_steps_b() {
    holds_for(1000..1063);
}

#[test]
fn the_guarantees_hold_in_a_quarter_million_steps_c() {
    holds_for(2000..2063);
}

#[test]
fn the_guarantees_hold_in_a_quarter_million_steps_d() {
    holds_for(3000..3063);
}

#[test]
fn without_fences_the_simulation_finds_a_stale_or_second_write() {
    let found = found_with(Flags { fences: false, ..SOUND });
    assert!(found.contains("was accepted") || found.contains("went from") || found.contains("committed"), "{found}");
}

#[test]
fn without_self_fencing_the_simulation_finds_a_worker_that_acts_on_a_lost_job() {
    let found = found_with(Flags { self_fence: false, ..SOUND });
    assert!(found.contains("no longer holds"), "{found}");
}

#[test]
fn without_the_grace_the_simulation_finds_a_job_taken_from_a_healthy_worker() {
    let found = found_with(Flags { grace: false, ..SOUND });
    assert!(found.contains("was well all the time"), "{found}");
}

#[test]
fn a_deadline_counted_from_the_answer_lets_a_worker_act_too_long() {
    let found = found_with(Flags { deadline_from_answer: true, ..SOUND });
    assert!(found.contains("no longer holds"), "{found}");
}

#[test]
fn a_claim_that_outlives_a_self_fence_lets_a_worker_act_on_a_lost_job() {
    let found = found_with(Flags { late_claims: true, ..SOUND });
    assert!(found.contains("no longer holds"), "{found}");
}
