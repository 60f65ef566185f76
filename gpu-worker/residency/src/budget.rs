//! The byte budget: reservations are guards, none is granted beyond the capacity. The limit may be cut while bytes are
//! held: then nothing is granted until enough has come back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Shortage;

/// Bytes that may be resident on this host, shared by everything that reserves.
#[derive(Debug, Clone)]
pub struct Budget {
    ledger: Arc<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    configured_bytes: u64,
    headroom_bytes: u64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    limit: u64,
    used: u64,
    reserved: u64,
    underflows: u64,
}

/// What the ledger says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BudgetView {
    /// Budget in all, as it is allowed now.
    pub budget_bytes: u64,
    /// Budget as configured; more than the above while it is cut.
    pub configured_bytes: u64,
    /// Part of it that is never handed out.
    pub headroom_bytes: u64,
    /// Held by ready content.
    pub used_bytes: u64,
    /// Held by loads that are not ready yet.
    pub reserved_bytes: u64,
    /// Times a return exceeded what was held: always zero unless there is a bug.
    pub underflows_total: u64,
}

impl BudgetView {
    /// Bytes that may be held: budget less headroom.
    pub fn capacity_bytes(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.headroom_bytes)
    }

    /// Bytes held beyond the capacity, after a cut.
    pub fn excess_bytes(&self) -> u64 {
        self.used_bytes.saturating_add(self.reserved_bytes).saturating_sub(self.capacity_bytes())
    }

    /// Bytes that nobody holds.
    pub fn available_bytes(&self) -> u64 {
        self.capacity_bytes().saturating_sub(self.used_bytes).saturating_sub(self.reserved_bytes)
    }
}

impl Budget {
    /// A budget of which `headroom_bytes` are never handed out.
    pub fn new(budget_bytes: u64, headroom_bytes: u64) -> Self {
        let counts = Mutex::new(Counts { limit: budget_bytes, ..Counts::default() });
        Self { ledger: Arc::new(Ledger { configured_bytes: budget_bytes, headroom_bytes, counts }) }
    }

    /// Allows so many bytes of the configured budget from now on. What is held stays held.
    pub fn set_limit(&self, bytes: u64) {
        self.ledger.lock().limit = bytes.min(self.ledger.configured_bytes);
    }

    /// Takes `bytes`, all or nothing, without waiting and without evicting.
    ///
    /// # Errors
    /// The shortage, with `would_free_bytes` zero: the budget does not know the entries.
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation, Shortage> {
        let mut counts = self.ledger.lock();
        let view = self.ledger.view(&counts);
        if bytes > view.available_bytes() {
            return Err(Shortage {
                needed_bytes: bytes,
                available_bytes: view.available_bytes(),
                would_free_bytes: 0,
                capacity_bytes: view.capacity_bytes(),
            });
        }
        counts.reserved += bytes;
        drop(counts);
        Ok(Reservation { ledger: self.ledger.clone(), bytes, used: false })
    }

    /// The ledger now.
    pub fn view(&self) -> BudgetView {
        self.ledger.view(&self.ledger.lock())
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, counts: &Counts) -> BudgetView {
        BudgetView {
            budget_bytes: counts.limit,
            configured_bytes: self.configured_bytes,
            headroom_bytes: self.headroom_bytes,
            used_bytes: counts.used,
            reserved_bytes: counts.reserved,
            underflows_total: counts.underflows,
        }
    }
}

/// Bytes taken from the budget; dropping it gives them back, once.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    bytes: u64,
    used: bool,
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Books the bytes as used: their content is ready.
    #[must_use]
    pub fn commit(mut self) -> Self {
        if !self.used {
            let mut counts = self.ledger.lock();
            take(&mut counts, false, self.bytes);
            counts.used += self.bytes;
            drop(counts);
            self.used = true;
        }
        self
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        take(&mut self.ledger.lock(), self.used, self.bytes);
    }
}

/// Subtracts; an underflow is a bug that must not turn into a huge budget.
fn take(counts: &mut Counts, used: bool, bytes: u64) {
    let held = if used { &mut counts.used } else { &mut counts.reserved };
    debug_assert!(*held >= bytes, "budget underflow: {held} held, {bytes} returned");
    if *held < bytes {
        counts.underflows += 1;
    }
    let held = if used { &mut counts.used } else { &mut counts.reserved };
    *held = held.saturating_sub(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shortage_names_what_is_missing() {
        let budget = Budget::new(100, 20);
        let held = budget.try_reserve(50).unwrap();
        let shortage = budget.try_reserve(31).unwrap_err();
        assert_eq!((shortage.needed_bytes, shortage.available_bytes), (31, 30));
        assert_eq!(shortage.capacity_bytes, 80);
        drop(held);
        assert!(budget.try_reserve(80).is_ok());
    }

    #[test]
    fn a_cut_grants_nothing_until_enough_is_back_and_takes_nothing_away() {
        let budget = Budget::new(100, 10);
        let held = budget.try_reserve(80).unwrap().commit();
        budget.set_limit(60);
        assert_eq!((budget.view().available_bytes(), budget.view().excess_bytes(), held.bytes()), (0, 30, 80));
        assert!(budget.try_reserve(1).is_err());
        drop(held);
        assert_eq!(budget.try_reserve(51).unwrap_err().available_bytes, 50);
        budget.set_limit(1000);
        assert_eq!(budget.view().budget_bytes, 100, "never more than configured");
    }

    proptest! {
        #[test]
        fn never_exceeded_and_returns_to_zero(ops in proptest::collection::vec((0u64..60, 0u8..3, 0usize..8), 0..200)) {
            let budget = Budget::new(100, 10);
            let mut held: Vec<Reservation> = Vec::new();
            for (bytes, op, index) in ops {
                match op {
                    0 => held.extend(budget.try_reserve(bytes).ok()),
                    1 if index < held.len() => drop(held.swap_remove(index)),
                    2 if index < held.len() => {
                        let taken = held.swap_remove(index).commit();
                        held.push(taken);
                    }
                    _ => {}
                }
                let view = budget.view();
                prop_assert_eq!(view.used_bytes + view.reserved_bytes, held.iter().map(Reservation::bytes).sum::<u64>());
                prop_assert!(view.used_bytes + view.reserved_bytes <= 90);
            }
            drop(held);
            prop_assert_eq!(budget.view().available_bytes(), 90);
            prop_assert_eq!(budget.view().underflows_total, 0);
        }
    }
}
