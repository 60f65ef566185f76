//! What a run is given and what it leaves: named bytes in one sealed memory file, which travels beside a message.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use residency::arena::{Arenas, ReadMap};
use serde::{Deserialize, Serialize};

/// Named bytes of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Unique in its payload.
    pub name: String,
    /// `image/png`, `application/vnd.safetensors`, …
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Where a blob's bytes lie in the payload's memory file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobFacts {
    /// Unique in its payload.
    pub name: String,
    /// `image/png`, `application/vnd.safetensors`, …
    pub media_type: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Blobs in their memory file, as often to be sent as anybody likes.
#[derive(Debug, Default)]
pub struct Packed {
    facts: Vec<BlobFacts>,
    memory: Option<OwnedFd>,
}

impl Packed {
    /// Puts blobs into a memory file; their own bytes are given back.
    ///
    /// # Errors
    /// What the system answers: no memory, no descriptor.
    pub fn of(blobs: Vec<Blob>) -> io::Result<Self> {
        let (facts, memory) = pack(&blobs)?;
        Ok(Self { facts, memory })
    }

    /// The same memory once more; nothing is copied.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let memory = self.memory.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Self { facts: self.facts.clone(), memory })
    }

    /// Where the blobs lie, and the memory file.
    pub(super) fn into_parts(self) -> (Vec<BlobFacts>, Option<OwnedFd>) {
        (self.facts, self.memory)
    }
}

/// Blobs that came from another process: read where they lie.
#[derive(Debug, Default)]
pub struct Payload {
    map: Option<ReadMap>,
    facts: Vec<BlobFacts>,
}

/// Puts blobs into a memory file; none when there are none.
///
/// # Errors
/// What the system answers: no memory, no descriptor.
pub(super) fn pack(blobs: &[Blob]) -> io::Result<(Vec<BlobFacts>, Option<OwnedFd>)> {
    if blobs.is_empty() {
        return Ok((Vec::new(), None));
    }
    let total: u64 = blobs.iter().map(|blob| blob.bytes.len() as u64).sum();
    let draft = Arenas::default().create(total)?;
    draft.allocate(0, total)?;
    let (mut facts, mut offset) = (Vec::new(), 0);
    for Blob { name, media_type, bytes } in blobs {
        draft.write_at(bytes, offset)?;
        let len = bytes.len() as u64;
        facts.push(BlobFacts { name: name.clone(), media_type: media_type.clone(), offset, len });
        offset += len;
    }
    Ok((facts, Some(draft.seal()?.fd_readonly()?)))
}

impl Payload {
    /// Opens what [`pack`] made.
    ///
    /// # Errors
    /// `InvalidInput` when the facts do not fit the file, or the file is not sealed.
    pub(super) fn open(facts: Vec<BlobFacts>, memory: Option<&OwnedFd>) -> io::Result<Self> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        let end = facts.iter().try_fold(0_u64, |end, blob| Some(end.max(blob.offset.checked_add(blob.len)?)));
        let end = end.and_then(|end| usize::try_from(end).ok()).ok_or_else(|| invalid("blobs beyond all memory"))?;
        let map = match memory {
            Some(memory) if end > 0 => Some(ReadMap::open(memory.as_fd(), 0, end)?),
            None if end > 0 => return Err(invalid("blobs without their memory")),
            _ => None,
        };
        Ok(Self { map, facts })
    }

    /// The bytes of a blob.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.facts.iter().find(|blob| blob.name == name).map(|blob| self.bytes(blob))
    }

    /// Every blob with its bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&BlobFacts, &[u8])> {
        self.facts.iter().map(|blob| (blob, self.bytes(blob)))
    }

    fn bytes(&self, blob: &BlobFacts) -> &[u8] {
        let range = usize::try_from(blob.offset).ok().zip(usize::try_from(blob.offset.saturating_add(blob.len)).ok());
        let mapped: &[u8] = self.map.as_ref().map_or(&[], |map| map);
        range.and_then(|(begin, end)| mapped.get(begin..end)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str, bytes: &[u8]) -> Blob {
        Blob { name: name.into(), media_type: "text/plain".into(), bytes: bytes.to_vec() }
    }

    #[test]
    fn blobs_come_out_as_they_went_in() {
        let (facts, memory) = pack(&[blob("a", b"first"), blob("empty", b""), blob("b", &[7; 100_000])]).unwrap();
        let payload = Payload::open(facts, memory.as_ref()).unwrap();
        assert_eq!(payload.get("a"), Some(&b"first"[..]));
        assert_eq!(payload.get("empty"), Some(&b""[..]));
        assert_eq!(payload.get("b"), Some(&[7; 100_000][..]));
        assert_eq!(payload.get("c"), None);
        assert_eq!(payload.iter().filter(|(facts, bytes)| facts.len == bytes.len() as u64).count(), 3);
    }

    #[test]
    fn blobs_are_packed_once_for_any_number_of_tries() {
        let packed = Packed::of(vec![blob("a", b"first")]).unwrap();
        for _ in 0..2 {
            let (facts, memory) = packed.try_clone().unwrap().into_parts();
            assert_eq!(Payload::open(facts, memory.as_ref()).unwrap().get("a"), Some(&b"first"[..]));
        }
        assert!(Packed::of(Vec::new()).unwrap().try_clone().unwrap().into_parts().1.is_none());
    }

    #[test]
    fn nothing_needs_no_memory_and_facts_that_lie_are_refused() {
        let (facts, memory) = pack(&[]).unwrap();
        assert!(memory.is_none());
        assert!(Payload::open(facts, None).unwrap().get("a").is_none());
        let (mut facts, memory) = pack(&[blob("a", b"first")]).unwrap();
        assert!(Payload::open(facts.clone(), None).is_err());
        for (offset, len) in [(0, u64::MAX), (u64::MAX, 2), (1 << 30, 1)] {
            facts[0].offset = offset;
            facts[0].len = len;
            assert!(Payload::open(facts.clone(), memory.as_ref()).is_err(), "{offset} {len}");
        }
    }
}
