//! States of text that was encoded before: by encoder and its config, tokens, weights and layer; bounded by bytes, least recently used first out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::models::EncodeOptions;

/// What names a chunk's states.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbeddingKey {
    /// Digest of the encoder's weights.
    pub digest: String,
    /// What the config makes of them: [`crate::models::TextEncoder::identity`].
    pub encoder: String,
    /// Which layer's states, normed or not.
    pub options: EncodeOptions,
    /// Ids of the chunk.
    pub ids: Vec<i64>,
    /// Weights of its tokens, by their bits.
    pub weights: Vec<u32>,
}

impl EmbeddingKey {
    fn bytes(&self) -> usize {
        self.digest.len()
            + self.encoder.len()
            + self.ids.len() * size_of::<i64>()
            + self.weights.len() * size_of::<u32>()
    }
}

/// States of one chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkStates {
    /// \[positions, width\], weighed.
    pub hidden: Vec<f32>,
    /// Width of a state.
    pub width: usize,
    /// The last state at the end of the text.
    pub pooled: Vec<f32>,
    /// The pooled state projected, where the encoder has a projection.
    pub projected: Option<Vec<f32>>,
}

impl ChunkStates {
    fn bytes(&self) -> usize {
        let projected = self.projected.as_ref().map_or(0, Vec::len);
        (self.hidden.len() + self.pooled.len() + projected) * size_of::<f32>()
    }

    /// What a UNet is given as the pooled state: the projected one, where there is a projection.
    pub(super) fn conditioning(&self) -> &[f32] {
        self.projected.as_deref().unwrap_or(&self.pooled)
    }
}

/// How a cache did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// States of a chunk that were there.
    pub hits: u64,
    /// States of a chunk that were not.
    pub misses: u64,
    /// Chunks that had to go.
    pub evictions: u64,
    /// Chunks that are there.
    pub entries: usize,
    /// What they take.
    pub bytes: usize,
}

/// The cache. Shared between threads; none of its locks is held while something is encoded.
#[derive(Debug)]
pub struct EmbeddingCache {
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<EmbeddingKey, Entry>,
    /// When each entry was used, oldest first.
    order: BTreeMap<u64, EmbeddingKey>,
    clock: u64,
    figures: CacheFigures,
}

#[derive(Debug)]
struct Entry {
    states: Arc<ChunkStates>,
    used: u64,
    bytes: usize,
}

impl EmbeddingCache {
    /// A cache of at most `limit_bytes`; 0 keeps nothing.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, state: Mutex::default() }
    }

    /// The states of `key`, if they are there.
    #[must_use]
    pub fn find(&self, key: &EmbeddingKey) -> Option<Arc<ChunkStates>> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.clock += 1;
        let Some(entry) = state.entries.get_mut(key) else {
            state.figures.misses += 1;
            return None;
        };
        state.figures.hits += 1;
        if let Some(key) = state.order.remove(&std::mem::replace(&mut entry.used, state.clock)) {
            state.order.insert(state.clock, key);
        }
        Some(Arc::clone(&entry.states))
    }

    /// Keeps states, and lets go of what was not used for longest until all fits.
    pub fn insert(&self, key: EmbeddingKey, states: Arc<ChunkStates>) {
        // the key is there twice
        let bytes = states.bytes() + 2 * key.bytes();
        if bytes > self.limit_bytes {
            return;
        }
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.clock += 1;
        let used = state.clock;
        if let Some(before) = state.entries.insert(key.clone(), Entry { states, used, bytes }) {
            state.order.remove(&before.used);
            state.figures.bytes -= before.bytes;
        }
        state.order.insert(used, key);
        state.figures.bytes += bytes;
        while state.figures.bytes > self.limit_bytes
            && let Some((_, oldest)) = state.order.pop_first()
        {
            if let Some(gone) = state.entries.remove(&oldest) {
                state.figures.bytes -= gone.bytes;
                state.figures.evictions += 1;
            }
        }
    }

    /// How it did.
    #[must_use]
    pub fn figures(&self) -> CacheFigures {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        CacheFigures { entries: state.entries.len(), ..state.figures }
    }

    /// Lets go of everything; returns the bytes that it took.
    pub fn clear(&self) -> usize {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.entries.clear();
        state.order.clear();
        std::mem::take(&mut state.figures.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: i64) -> EmbeddingKey {
        let options = EncodeOptions { skip: 0, is_normed: true };
        EmbeddingKey { digest: "d".to_owned(), encoder: "e".to_owned(), options, ids: vec![number], weights: vec![0] }
    }

    fn states(values: usize) -> Arc<ChunkStates> {
        Arc::new(ChunkStates { hidden: vec![0.5; values], width: 1, pooled: vec![], projected: None })
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let each = states(10).bytes() + 2 * key(0).bytes();
        let cache = EmbeddingCache::new(2 * each);
        cache.insert(key(1), states(10));
        cache.insert(key(2), states(10));
        assert!(cache.find(&key(1)).is_some());
        cache.insert(key(3), states(10));
        assert!(cache.find(&key(2)).is_none() && cache.find(&key(1)).is_some() && cache.find(&key(3)).is_some());
        let figures = cache.figures();
        assert_eq!((figures.hits, figures.misses, figures.evictions, figures.entries), (3, 1, 1, 2));
        assert_eq!(cache.clear(), 2 * each);
        assert!(cache.find(&key(1)).is_none());
    }

    #[test]
    fn another_layer_weight_encoder_or_config_is_another_entry() {
        let cache = EmbeddingCache::new(1 << 20);
        cache.insert(key(1), states(1));
        let mut other = [key(1), key(1), key(1), key(1)];
        other[0].options.skip = 1;
        other[1].weights = vec![1];
        other[2].digest = "e".to_owned();
        other[3].encoder = "f".to_owned();
        assert!(other.iter().all(|key| cache.find(key).is_none()));
    }

    proptest! {
        #[test]
        fn bytes_never_pass_the_limit(limit in 0usize..2000, sizes in proptest::collection::vec((0i64..10, 0usize..100), 0..60)) {
            let cache = EmbeddingCache::new(limit);
            for (number, values) in sizes {
                cache.insert(key(number), states(values));
                let state = cache.state.lock().unwrap();
                let sum: usize = state.entries.values().map(|entry| entry.bytes).sum();
                prop_assert!(sum <= limit && sum == state.figures.bytes && state.order.len() == state.entries.len());
            }
        }
    }
}
