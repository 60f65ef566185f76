//! What was worked out about headers, kept for files that have the same one. Bounded in bytes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::{
    detect::Verdict,
    inspection::ComponentSummary,
    recognise::Cut,
    safetensors::SectionKey,
    vocab::{Base, ModelType},
};

/// Memory of everything that is kept, about.
const LIMIT_BYTES: usize = 64 << 20;
/// Memory of an entry whose texts are all empty, about.
const ENTRY_BYTES: usize = 1 << 10;

/// What the type and family of a model are taken to be.
type Kind = (ModelType, Base);

/// What a valid header says beside its metadata.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// Bytes of data that its tensors tile exactly.
    pub(crate) data_bytes: u64,
    /// What the rules say of its tensors, before any metadata is looked at.
    pub(crate) verdict: Verdict,
    /// The components, for each kind that a file with it was taken to be.
    cuts: Vec<(Kind, Cut<ComponentSummary>)>,
}

impl Known {
    /// What is known of a header whose tensors were judged and cut.
    pub(crate) fn new(data_bytes: u64, verdict: Verdict, kind: Kind, cut: Cut<ComponentSummary>) -> Self {
        Self { data_bytes, verdict, cuts: vec![(kind, cut)] }
    }

    /// The components of a file that is taken to be of this kind.
    pub(crate) fn cut(&self, kind: Kind) -> Option<&Cut<ComponentSummary>> {
        self.cuts.iter().find(|(known, _)| *known == kind).map(|(_, cut)| cut)
    }

    /// With the cuts of another one about the same header.
    fn and(mut self, other: &Self) -> Self {
        let more = other.cuts.iter().filter(|(kind, _)| self.cut(*kind).is_none()).cloned().collect::<Vec<_>>();
        self.cuts.extend(more);
        self
    }

    fn bytes(&self) -> usize {
        let evidence = self.verdict.evidence.iter().map(|one| one.matched.len().saturating_add(weight(&one.value)));
        let facts = self.verdict.facts.iter().map(|(name, value)| name.len().saturating_add(weight(value)));
        let components = self.cuts.iter().map(|(_, cut)| cut.components.len().saturating_add(1).saturating_mul(128));
        evidence.chain(facts).chain(components).fold(ENTRY_BYTES, usize::saturating_add)
    }
}

fn weight(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).fold(0, usize::saturating_add),
        Value::Object(map) => {
            map.iter().map(|(key, value)| key.len().saturating_add(weight(value))).fold(0, usize::saturating_add)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    inner.saturating_add(size_of::<Value>())
}

/// Headers that were seen, shared by everybody who lists files. What it answers is what reading the header anew would.
#[derive(Debug)]
pub struct Memo {
    limit_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By the mark of their key. Of different headers with one mark the last one is kept.
    known: HashMap<u64, Entry>,
    bytes: usize,
}

impl Kept {
    fn forget_unmet(&mut self) {
        self.known.retain(|_, entry| std::mem::take(&mut entry.met));
        self.bytes = self.known.values().map(Entry::bytes).sum();
    }
}

/// A header with what is known of it.
#[derive(Debug, Clone)]
struct Entry {
    after_metadata: bool,
    rest: Arc<[u8]>,
    known: Arc<Known>,
    /// Somebody had the same header since room was made last.
    met: bool,
}

impl Entry {
    fn is_of(&self, key: SectionKey<'_>) -> bool {
        SectionKey { after_metadata: self.after_metadata, rest: &self.rest } == key
    }

    fn bytes(&self) -> usize {
        self.known.bytes().saturating_add(self.rest.len())
    }
}

impl Default for Memo {
    fn default() -> Self {
        Self::within(LIMIT_BYTES)
    }
}

impl Memo {
    /// One that keeps about so many bytes.
    #[must_use]
    pub fn within(limit_bytes: usize) -> Self {
        Self { limit_bytes, kept: Mutex::default() }
    }

    /// What is known of a header with so many bytes of data behind it. Compared to the byte, beside everybody who looks for another.
    pub(crate) fn find(&self, key: SectionKey<'_>, data_bytes: u64) -> Option<Arc<Known>> {
        let mark = key.mark();
        let entry = self.kept().known.get(&mark).cloned()?;
        let found = (entry.known.data_bytes == data_bytes && entry.is_of(key)).then_some(entry.known)?;
        if let Some(entry) = self.kept().known.get_mut(&mark).filter(|entry| Arc::ptr_eq(&entry.known, &found)) {
            entry.met = true;
        }
        Some(found)
    }

    /// Keeps what was found out. What does not fit any more makes room by ending what no second file had since room was made
    /// last, and everything where that does not do: the files of a folder, which are alike, are listed one after the other.
    pub(crate) fn keep(&self, key: SectionKey<'_>, known: Known) {
        // one that has no room alone is not even copied
        if key.rest.len() > self.limit_bytes {
            return;
        }
        let (mark, rest) = (key.mark(), Arc::from(key.rest));
        let mut kept = self.kept();
        let before = kept.known.remove(&mark);
        kept.bytes = kept.bytes.saturating_sub(before.as_ref().map_or(0, Entry::bytes));
        let known = match before.filter(|before| before.is_of(key)) {
            Some(before) => known.and(&before.known),
            None => known,
        };
        let entry = Entry { after_metadata: key.after_metadata, rest, known: Arc::new(known), met: false };
        let bytes = entry.bytes();
        if kept.bytes.saturating_add(bytes) > self.limit_bytes {
            kept.forget_unmet();
        }
        if kept.bytes.saturating_add(bytes) > self.limit_bytes {
            *kept = Kept::default();
        }
        if bytes <= self.limit_bytes {
            kept.bytes += bytes;
            kept.known.insert(mark, entry);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // every change is whole before anything could panic
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{detect::judge, keys::Keys, safetensors::Section};

    const UNKNOWN: Kind = (ModelType::Unknown, Base::Unknown);

    fn key(header: &[u8; 8]) -> SectionKey<'_> {
        Section::of(header).key
    }

    fn known(kind: Kind) -> Known {
        Known::new(1, judge(&Keys::new(&[]), None), kind, Cut::of(kind, Vec::new()).summary())
    }

    #[test]
    fn what_is_kept_stays_within_the_limit_and_the_last_one_is_there() {
        let memo = Memo::within(10 * ENTRY_BYTES);
        for number in 0..100 {
            let header = u64::to_le_bytes(number);
            memo.keep(key(&header), known(UNKNOWN));
            assert!(memo.find(key(&header), 1).is_some());
            let kept = memo.kept();
            assert_eq!(kept.bytes, kept.known.values().map(Entry::bytes).sum::<usize>());
            assert!(kept.bytes <= memo.limit_bytes);
        }
        assert!(memo.kept().known.len() > 1);
        let small = Memo::within(1);
        small.keep(key(&[0; 8]), known(UNKNOWN));
        assert!(small.find(key(&[0; 8]), 1).is_none(), "what is larger than all there is room for is not kept");
    }

    #[test]
    fn what_other_files_had_too_outlives_what_only_one_had() {
        let memo = Memo::within(10 * ENTRY_BYTES);
        let common = [255; 8];
        memo.keep(key(&common), known(UNKNOWN));
        for number in 0..100 {
            assert!(memo.find(key(&common), 1).is_some(), "lost before {number}");
            memo.keep(key(&u64::to_le_bytes(number)), known(UNKNOWN));
        }
    }

    #[test]
    fn a_header_is_known_for_each_kind_and_only_before_as_much_data() {
        let memo = Memo::default();
        let other = (ModelType::Vae, Base::Sdxl);
        for kind in [UNKNOWN, other, UNKNOWN] {
            memo.keep(key(&[0; 8]), known(kind));
        }
        let found = memo.find(key(&[0; 8]), 1).unwrap();
        assert!(found.cut(UNKNOWN).is_some() && found.cut(other).is_some());
        assert_eq!(found.cuts.len(), 2);
        assert!(found.cut((ModelType::Lora, Base::Sdxl)).is_none());
        assert!(memo.find(key(&[0; 8]), 2).is_none() && memo.find(key(&[1; 8]), 1).is_none());
    }

    #[test]
    fn of_two_headers_that_share_a_mark_neither_is_taken_for_the_other() {
        // they differ where no mark looks
        let (mut one, mut other) = (vec![b' '; 10_000], vec![b' '; 10_000]);
        (one[300], other[300]) = (b'a', b'b');
        let (one, other) = (Section::of(&one).key, Section::of(&other).key);
        assert_eq!(one.mark(), other.mark());
        let memo = Memo::default();
        memo.keep(one, known(UNKNOWN));
        assert!(memo.find(one, 1).is_some() && memo.find(other, 1).is_none());
        memo.keep(other, known(UNKNOWN));
        assert!(memo.find(one, 1).is_none() && memo.find(other, 1).is_some());
        assert_eq!(memo.kept().bytes, 10_000 + known(UNKNOWN).bytes());
    }
}
