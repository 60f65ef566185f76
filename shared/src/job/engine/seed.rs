//! Seeds: what may be asked for, and drawing one.

use super::faults::Faults;

/// The largest seed: every JSON reader keeps integers up to here exactly.
pub const SEED_MAX: u64 = (1 << 53) - 1;

/// Seeds that are drawn have at most 32 bits, so that people can write them down.
const DRAWN_BITS: u32 = 32;

/// A fresh seed.
pub fn draw() -> u64 {
    let random = ulid::Ulid::new().random() & u128::from(u64::MAX >> (u64::BITS - DRAWN_BITS));
    u64::try_from(random).unwrap_or(0)
}

pub(super) fn check(seed: Option<u64>, faults: &mut Faults) {
    if let Some(seed) = seed {
        faults.range("/seed", seed, &(0..=SEED_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_seeds_vary_and_may_be_asked_for_again() {
        let seeds: Vec<u64> = (0..50).map(|_| draw()).collect();
        assert!(seeds.iter().any(|seed| *seed != seeds[0]));
        assert!(seeds.iter().all(|seed| *seed <= SEED_MAX && *seed >> DRAWN_BITS == 0));
    }
}
