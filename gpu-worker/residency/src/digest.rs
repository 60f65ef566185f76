//! The content digest: BLAKE3 of a tensor from independently hashed slices, and of a component from its tensors.

use std::{fmt, str::FromStr};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

/// Version of the component encoding below; part of what is hashed.
pub const COMPONENT_TAG: &str = "modelyard-component-v1";
const PREFIX: &str = "blake3:";

/// A BLAKE3 hash, written `blake3:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

/// Text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: expected `blake3:` and 64 hex digits")]
pub struct BadDigest(String);

impl Digest {
    /// From raw hash bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The raw hash bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        text.strip_prefix(PREFIX)
            .and_then(|hex| blake3::Hash::from_hex(hex).ok())
            .map(|hash| Self(*hash.as_bytes()))
            .ok_or_else(|| BadDigest(text.to_owned()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

/// One tensor as the component digest sees it.
#[derive(Debug, Clone, Copy)]
pub struct TensorFacts<'a> {
    /// Name, unique in the component.
    pub name: &'a str,
    /// Element type.
    pub dtype: &'a str,
    /// Dimensions.
    pub shape: &'a [u64],
    /// Bytes.
    pub len: u64,
    /// BLAKE3 of the bytes.
    pub digest: Digest,
}

/// Digest of a component: independent of file order, file boundaries, padding and metadata.
///
/// Encoding (all integers little-endian u64, strings prefixed by their length): tag, number of
/// tensors, then by ascending name: name, dtype, rank, dimensions, length, 32 hash bytes.
pub fn component_digest(tensors: &[TensorFacts<'_>]) -> Digest {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.name);
    let mut hasher = blake3::Hasher::new();
    put_text(&mut hasher, COMPONENT_TAG);
    put_number(&mut hasher, sorted.len() as u64);
    for tensor in sorted {
        put_text(&mut hasher, tensor.name);
        put_text(&mut hasher, tensor.dtype);
        put_number(&mut hasher, tensor.shape.len() as u64);
        for dimension in tensor.shape {
            put_number(&mut hasher, *dimension);
        }
        put_number(&mut hasher, tensor.len);
        hasher.update(tensor.digest.as_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

fn put_number(hasher: &mut blake3::Hasher, number: u64) {
    hasher.update(&number.to_le_bytes());
}

fn put_text(hasher: &mut blake3::Hasher, text: &str) {
    put_number(hasher, text.len() as u64);
    hasher.update(text.as_bytes());
}

/// Hash of one slice of a tensor. Slices of one power-of-two length are subtrees of BLAKE3's tree, so
/// they can be hashed in any order on any thread and merged to the ordinary BLAKE3 of the whole.
pub(crate) struct SliceHasher {
    hasher: blake3::Hasher,
    whole: bool,
}

impl SliceHasher {
    /// `offset` within the tensor; `whole` when this slice is all of it.
    pub(crate) fn new(offset: u64, whole: bool) -> Self {
        let mut hasher = blake3::Hasher::new();
        if !whole {
            hasher.set_input_offset(offset);
        }
        Self { hasher, whole }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The slice's chaining value, or the tensor's hash if it is the whole.
    pub(crate) fn finish(self) -> ChainingValue {
        if self.whole { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() }
    }
}

/// The tensor's hash from the values of its slices, in order. A single slice is the hash already.
pub(crate) fn merge_slices(slices: &[ChainingValue]) -> Option<Digest> {
    match slices {
        [] => None,
        [whole] => Some(Digest(*whole)),
        _ => {
            let (left, right) = slices.split_at(left_len(slices.len()));
            let hash = merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash);
            Some(Digest(*hash.as_bytes()))
        }
    }
}

fn subtree(slices: &[ChainingValue]) -> ChainingValue {
    match slices {
        [one] => *one,
        _ => {
            let (left, right) = slices.split_at(left_len(slices.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// The largest power of two below `count`: BLAKE3's left subtree is always complete. `count` ≥ 2.
fn left_len(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_slices(bytes: &[u8], slice: usize) -> Digest {
        let whole = bytes.len() <= slice;
        let values: Vec<_> = if bytes.is_empty() { vec![bytes] } else { bytes.chunks(slice).collect() }
            .into_iter()
            .enumerate()
            .map(|(index, part)| {
                let mut hasher = SliceHasher::new((index * slice) as u64, whole);
                hasher.update(part);
                hasher.finish()
            })
            .collect();
        merge_slices(&values).unwrap()
    }

    proptest! {
        #[test]
        fn sliced_hash_is_plain_blake3(len in 0usize..300_000, power in 10u32..17) {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let plain = Digest(*blake3::hash(&bytes).as_bytes());
            prop_assert_eq!(by_slices(&bytes, 1 << power), plain);
        }
    }

    fn facts<'a>(name: &'a str, dtype: &'a str, shape: &'a [u64]) -> TensorFacts<'a> {
        TensorFacts { name, dtype, shape, len: 4, digest: Digest([7; 32]) }
    }

    #[test]
    fn component_digest_ignores_order_but_not_boundaries() {
        let (a, b) = (facts("a", "F16", &[2]), facts("b", "F16", &[2]));
        assert_eq!(component_digest(&[a, b]), component_digest(&[b, a]));
        assert_ne!(component_digest(&[facts("ab", "c", &[])]), component_digest(&[facts("a", "bc", &[])]));
        assert_ne!(component_digest(&[facts("a", "F16", &[2])]), component_digest(&[facts("a", "F16", &[1, 2])]));
    }

    #[test]
    fn text_form_round_trips_and_refuses_others() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!("ab".repeat(32).parse::<Digest>().is_err());
        assert!("blake3:xyz".parse::<Digest>().is_err());
    }
}
