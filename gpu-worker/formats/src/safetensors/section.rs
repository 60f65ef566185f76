//! A header in two parts: the file's own metadata, and all the rest, which files of one architecture and one writer have in
//! common to the byte.

use std::collections::BTreeMap;

use super::parse::OwnMetadata;

/// How writers begin a header that has metadata.
const BEGIN: &[u8] = br#"{"__metadata__":"#;

/// Names what a header says beside its metadata. Equal keys: the two headers are equal but for the values of `__metadata__`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SectionKey {
    /// Whether there was metadata before the rest: the rest alone does not tell.
    after_metadata: bool,
    /// BLAKE3 of the rest.
    rest: [u8; 32],
}

/// A header, taken apart but not checked.
#[derive(Debug)]
pub(crate) struct Section {
    /// The metadata, if it is the first entry; else nothing, and the key covers it.
    pub(crate) metadata: BTreeMap<String, String>,
    /// What the rest is.
    pub(crate) key: SectionKey,
}

impl Section {
    /// Takes the bytes of a header apart. What is no valid metadata counts as rest, where a parser will find it.
    pub(crate) fn of(header: &[u8]) -> Self {
        let leading = leading(header);
        let after_metadata = leading.is_some();
        let (metadata, rest) = leading.unwrap_or((BTreeMap::new(), header));
        Self { metadata, key: SectionKey { after_metadata, rest: blake3::hash(rest).into() } }
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

    fn key(header: &str) -> SectionKey {
        Section::of(header.as_bytes()).key
    }

    #[test]
    fn only_what_metadata_says_is_left_out_of_the_key() {
        let rest = r#","a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#;
        let with = |metadata: &str| key(&format!(r#"{{"__metadata__":{metadata}{rest}"#));
        assert_eq!(with("{}"), with(r#"{"format":"pt","nested":"{\"}\":1}"}"#));
        assert_ne!(with("{}"), key(&format!(r#"{{"__metadata__":{{}}{rest} "#)));
        // the rest of one is the whole of the other
        assert_ne!(key(r#"{"__metadata__":{}{}"#), key("{}"));
    }

    #[test]
    fn metadata_that_a_parser_would_refuse_stays_in_the_key() {
        for odd in [r#"{"a":1}"#, "null", r#"{"a":"1","a":"2"}"#, r#"{"a":"1"#] {
            let section = Section::of(format!(r#"{{"__metadata__":{odd}}}"#).as_bytes());
            assert!(section.metadata.is_empty() && !section.key.after_metadata, "{odd}");
        }
    }
}
