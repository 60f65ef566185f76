//! The header's JSON, read as a stream so that repeated names are seen instead of overwritten.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    path::Path,
};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};

use crate::{dtype::Dtype, error::FormatError, inspection::MAX_TENSORS, text::shown};

/// Most dimensions of a tensor: what PyTorch allows. Bounds memory for a hostile header.
const MAX_RANK: usize = 64;

/// The one entry that is no tensor.
const METADATA: &str = "__metadata__";

/// A string of the header, borrowed from it unless it has escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Word<'t>(#[serde(borrow)] Cow<'t, str>);

/// One entry as written, offsets relative to the data.
#[derive(Debug)]
pub(super) struct RawTensor<'t> {
    pub(super) name: Cow<'t, str>,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// The whole header as written.
#[derive(Debug, Default)]
pub(super) struct RawHeader<'t> {
    pub(super) tensors: Vec<RawTensor<'t>>,
    pub(super) metadata: BTreeMap<String, String>,
    duplicate_tensor: Option<String>,
    duplicate_key: Option<String>,
    is_too_many: bool,
}

/// Parses the header's bytes.
pub(super) fn parse<'t>(path: &Path, bytes: &'t [u8]) -> Result<RawHeader<'t>, FormatError> {
    let path = || path.to_owned();
    if bytes.first() != Some(&b'{') {
        return Err(FormatError::HeaderStart { path: path() });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| FormatError::HeaderNotUtf8 { path: path(), at: error.valid_up_to() })?;
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = json.deserialize_map(HeaderVisitor).and_then(|header| json.end().map(|()| header));
    let header = parsed.map_err(|source| FormatError::HeaderInvalid { path: path(), source })?;
    if header.is_too_many {
        return Err(FormatError::TooMany { path: path(), what: "tensors", limit: MAX_TENSORS as u64 });
    }
    if let Some(tensor) = header.duplicate_tensor {
        return Err(FormatError::DuplicateTensor { path: path(), tensor });
    }
    if let Some(key) = header.duplicate_key {
        return Err(FormatError::DuplicateMetadata { path: path(), key });
    }
    Ok(header)
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader<'de>, A::Error> {
        let mut header = RawHeader::default();
        let mut has_metadata = false;
        while let Some(Word(name)) = map.next_key::<Word<'de>>()? {
            if name != METADATA && header.tensors.len() >= MAX_TENSORS {
                // the rest has to be JSON all the same
                header.is_too_many = true;
                map.next_value::<serde::de::IgnoredAny>()?;
            } else if name != METADATA {
                header.tensors.push(map.next_value_seed(EntrySeed(name))?);
            } else if !std::mem::replace(&mut has_metadata, true) {
                let own: OwnMetadata = map.next_value()?;
                (header.metadata, header.duplicate_key) = (own.map, own.duplicate_key);
            } else {
                header.duplicate_tensor = Some(name.into_owned());
                map.next_value::<serde::de::IgnoredAny>()?;
            }
        }
        if header.duplicate_tensor.is_none() {
            header.duplicate_tensor = repeated(&header.tensors).map(str::to_owned);
        }
        Ok(header)
    }
}

/// A name that is there twice. Writers sort by name, which makes this cheaper than a set of all names.
fn repeated<'h>(tensors: &'h [RawTensor<'_>]) -> Option<&'h str> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_ref()).collect();
    names.sort_unstable();
    names.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    })
}

/// `__metadata__`, with the first key that it has twice.
#[derive(Debug, Default)]
pub(super) struct OwnMetadata {
    pub(super) map: BTreeMap<String, String>,
    pub(super) duplicate_key: Option<String>,
}

impl<'de> Deserialize<'de> for OwnMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = OwnMetadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`__metadata__` as an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OwnMetadata, A::Error> {
        let mut own = OwnMetadata::default();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            match own.map.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(taken) => {
                    own.duplicate_key.get_or_insert_with(|| taken.key().clone());
                }
            }
        }
        Ok(own)
    }
}

struct EntrySeed<'de>(Cow<'de, str>);

impl<'de> DeserializeSeed<'de> for EntrySeed<'de> {
    type Value = RawTensor<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawTensor<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'de> {
    type Value = RawTensor<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor `{}` as an object with dtype, shape and data_offsets", shown(&self.0))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor<'de>, A::Error> {
        let fail = |what: String| A::Error::custom(format!("tensor `{}`: {what}", shown(&self.0)));
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(Word(field)) = map.next_key::<Word<'de>>()? {
            let twice = match field.as_ref() {
                "dtype" => {
                    let Word(name) = map.next_value::<Word<'de>>()?;
                    let known = Dtype::parse(&name).ok_or_else(|| fail(format!("unknown dtype `{}`", shown(&name))))?;
                    dtype.replace(known).is_some()
                }
                "shape" => shape.replace(map.next_value_seed(Numbers { most: MAX_RANK })?).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<(u64, u64)>()?).is_some(),
                other => return Err(fail(format!("unknown field `{}`", shown(other)))),
            };
            if twice {
                return Err(fail(format!("field `{field}` is given twice")));
            }
        }
        let dtype = dtype.ok_or_else(|| fail("no dtype".to_owned()))?;
        let shape = shape.ok_or_else(|| fail("no shape".to_owned()))?;
        let (begin, end) = offsets.ok_or_else(|| fail("no data_offsets".to_owned()))?;
        Ok(RawTensor { name: self.0, dtype, shape, begin, end })
    }
}

/// A bounded array of unsigned integers.
struct Numbers {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Numbers {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} unsigned integers", self.most)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = seq.next_element::<u64>()? {
            if numbers.len() == self.most {
                return Err(A::Error::invalid_length(self.most + 1, &self));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}
