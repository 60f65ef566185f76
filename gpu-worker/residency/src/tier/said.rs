//! What is said about keeping content, and when it was said: whoever says the same again has said it anew.

use std::sync::atomic::{AtomicU64, Ordering};

use super::KeepAlive;

/// Statements that were made in this process.
static STATEMENTS: AtomicU64 = AtomicU64::new(0);

/// Something that holds until somebody says otherwise. Two are equal when they are one statement, or nobody said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Said<T> {
    /// What holds.
    pub value: T,
    /// Which statement of the process it was; zero while nobody said anything.
    number: u64,
}

impl<T> Said<T> {
    /// Somebody says it.
    pub fn now(value: T) -> Self {
        Self { value, number: STATEMENTS.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

/// What is said about keeping a copy of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// The operator's keep.
    pub protected: Said<bool>,
    /// How long it stays after its last use, where that was said.
    pub keep_alive: Said<Option<KeepAlive>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_said_twice_is_two_statements() {
        let (first, second) = (Said::now(true), Said::now(true));
        let same = first;
        assert!(first == same && first != second);
        assert_eq!(Said::<bool>::default(), Said::default());
        assert_ne!(Said::now(false), Said::default());
    }
}
