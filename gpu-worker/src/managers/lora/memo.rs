//! What was found out about LoRAs and models, so that a stack that comes again reads nothing. Bounded; the oldest go.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use super::Matched;

/// Pairs that are remembered: each has some hundred kilobytes for a LoRA over all modules of SDXL.
const PAIRS: usize = 64;

/// A LoRA's identity and the digests of the parts that it was compared with.
type Pair = (String, Vec<(String, String)>);

/// Matches by pair.
#[derive(Debug, Default)]
pub struct Memo(Mutex<Pairs>);

#[derive(Debug, Default)]
struct Pairs {
    matches: BTreeMap<Pair, Arc<Matched>>,
    order: VecDeque<Pair>,
}

impl Memo {
    /// What is known of this LoRA against parts with these digests by kind.
    pub fn get(&self, identity: &str, parts: &[(String, String)]) -> Option<Arc<Matched>> {
        let pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.matches.get(&(identity.to_owned(), parts.to_vec())).cloned()
    }

    /// Remembers it.
    pub fn put(&self, identity: String, parts: Vec<(String, String)>, matched: Arc<Matched>) {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (identity, parts);
        if pairs.matches.insert(pair.clone(), matched).is_none() {
            pairs.order.push_back(pair);
        }
        while pairs.order.len() > PAIRS {
            if let Some(oldest) = pairs.order.pop_front() {
                pairs.matches.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_pairs_are_forgotten() {
        let memo = Memo::default();
        let part = |digest: &str| vec![("unet".to_owned(), digest.to_owned())];
        for number in 0..=PAIRS {
            memo.put(format!("lora-{number}"), part("a"), Arc::default());
        }
        assert!(memo.get("lora-0", &part("a")).is_none());
        assert!(memo.get("lora-1", &part("a")).is_some());
        assert!(memo.get("lora-1", &part("b")).is_none(), "another base");
    }
}
