//! A header in two parts: the file's own metadata, and all the rest, which files of one architecture and one writer have in
//! common to the byte.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::parse::OwnMetadata;

/// How writers begin a header that has metadata.
const BEGIN: &[u8] = br#"{"__metadata__":"#;

/// What a header says beside its metadata. Equal keys: the two headers are equal but for the values of `__metadata__`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectionKey<'h> {
    /// Whether there was metadata before the rest: the rest alone does not tell.
    pub(crate) after_metadata: bool,
    /// The rest.
    pub(crate) rest: &'h [u8],
}

/// Bytes that a mark looks at: of the beginning and of the end, and of so many places between.
const MARK_ENDS: usize = 256;
const MARK_PLACES: usize = 32;
const MARK_PLACE_BYTES: usize = 8;

impl SectionKey<'_> {
    /// A number that equal keys have in common, and different ones hardly ever: made of a few of the bytes, because every file's
    /// header is compared to the byte anyway where the numbers are equal.
    pub(crate) fn mark(&self) -> u64 {
        let (rest, length) = (self.rest, self.rest.len());
        let mut hash = DefaultHasher::new();
        (self.after_metadata, length).hash(&mut hash);
        hash.write(rest.get(..MARK_ENDS).unwrap_or(rest));
        hash.write(rest.get(length.saturating_sub(MARK_ENDS)..).unwrap_or_default());
        for place in 1..MARK_PLACES {
            let at = length / MARK_PLACES * place;
            hash.write(rest.get(at..at.saturating_add(MARK_PLACE_BYTES)).unwrap_or_default());
        }
        hash.finish()
    }
}

/// A header, taken apart but not checked.
#[derive(Debug)]
pub(crate) struct Section<'h> {
    /// The metadata, if it is the first entry; else nothing, and the key covers it.
    pub(crate) metadata: BTreeMap<String, String>,
    /// What the rest is.
    pub(crate) key: SectionKey<'h>,
}

impl<'h> Section<'h> {
    /// Takes the bytes of a header apart. What is no valid metadata counts as rest, where a parser will find it.
    pub(crate) fn of(header: &'h [u8]) -> Self {
        let leading = leading(header);
        let after_metadata = leading.is_some();
        let (metadata, rest) = leading.unwrap_or((BTreeMap::new(), header));
        Self { metadata, key: SectionKey { after_metadata, rest } }
    }
}

/// The metadata at the beginning, and what follows its closing brace.
fn leading(header: &[u8]) -> Option<(BTreeMap<String, String>, &[u8])> {
    let value = header.strip_prefix(BEGIN)?;
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<OwnMetadata>();
    let own = values.next()?.ok()?;
    if own.duplicate_key.is_some() {
        return None;
    }
    Some((own.map, value.get(values.byte_offset()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_metadata_says_is_left_out_of_the_key() {
        let rest = r#","a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#;
        let with = |metadata: &str| format!(r#"{{"__metadata__":{metadata}{rest}"#);
        let (plain, said) = (with("{}"), with(r#"{"format":"pt","nested":"{\"}\":1}"}"#));
        let key = |header: &'static str| Section::of(header.as_bytes()).key;
        let (plain_key, said_key) = (Section::of(plain.as_bytes()).key, Section::of(said.as_bytes()).key);
        assert_eq!(plain_key, said_key);
        assert_eq!(plain_key.mark(), said_key.mark());
        assert_ne!(plain_key, Section::of(format!("{plain} ").as_bytes()).key);
        // the rest of one is the whole of the other
        assert_ne!(key(r#"{"__metadata__":{}{}"#), key("{}"));
        assert_ne!(key(r#"{"__metadata__":{}{}"#).mark(), key("{}").mark());
    }

    #[test]
    fn marks_tell_headers_of_other_ranks_and_other_lengths_apart() {
        let header = |rank: u64, modules: u64| -> String {
            (0..modules)
                .map(|module| format!(r#""m{module}":{{"shape":[{rank},640],"data_offsets":[0,{}]}},"#, rank * 640))
                .collect()
        };
        let mut marks: Vec<u64> = Vec::new();
        for (rank, modules) in [(4, 100), (8, 100), (16, 100), (4, 101), (4, 1), (4, 0)] {
            marks.push(Section::of(header(rank, modules).as_bytes()).key.mark());
        }
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), 6);
    }

    #[test]
    fn metadata_that_a_parser_would_refuse_stays_in_the_key() {
        for odd in [r#"{"a":1}"#, "null", r#"{"a":"1","a":"2"}"#, r#"{"a":"1"#] {
            let header = format!(r#"{{"__metadata__":{odd}}}"#);
            let section = Section::of(header.as_bytes());
            assert!(section.metadata.is_empty() && !section.key.after_metadata, "{odd}");
        }
    }
}
