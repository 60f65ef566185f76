//! LoRA files that stories make: a good one taken apart, changed, and put together again.

#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

/// A tensor of a file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Entry {
    /// Single-precision values.
    pub(crate) fn new(name: &str, shape: &[usize], values: impl Iterator<Item = f32>) -> Self {
        let bytes = values.take(shape.iter().product()).flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: "F32".to_owned(), shape: shape.to_vec(), bytes }
    }
}

/// The tensors of a safetensors file, by name.
pub(crate) fn read(path: &Path) -> Vec<Entry> {
    let bytes = fs::read(path).unwrap();
    let (header, data) = split(&bytes);
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let entry = |(name, told): (&String, &Value)| {
        let [begin, end] = [0, 1].map(|at| usize::try_from(told["data_offsets"][at].as_u64().unwrap()).unwrap());
        Entry {
            name: name.clone(),
            dtype: told["dtype"].as_str().unwrap().to_owned(),
            shape: serde_json::from_value(told["shape"].clone()).unwrap(),
            bytes: data[begin..end].to_vec(),
        }
    };
    tensors.map(entry).collect()
}

/// Makes the numbers of the first tensor whose name ends so none; the file says the same of itself as before.
pub(crate) fn spoil(path: &Path, ending: &str) {
    let mut bytes = fs::read(path).unwrap();
    let (header, data) = split(&bytes);
    let begin = bytes.len() - data.len();
    let tensors = header.as_object().unwrap().iter();
    let told = tensors.filter(|(name, _)| name.ends_with(ending)).map(|(_, told)| told.clone()).next().unwrap();
    let [from, to] = [0, 1].map(|at| begin + usize::try_from(told["data_offsets"][at].as_u64().unwrap()).unwrap());
    bytes[from..to].fill(0xff);
    fs::write(path, bytes).unwrap();
}

/// The metadata of a safetensors file.
pub(crate) fn metadata(path: &Path) -> Value {
    split(&fs::read(path).unwrap()).0["__metadata__"].clone()
}

fn split(bytes: &[u8]) -> (Value, &[u8]) {
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), &bytes[8 + length..])
}

/// Writes a file.
pub(crate) fn write(path: &Path, tensors: &[Entry]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for Entry { name, dtype, shape, bytes } in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let told = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()] });
        header.insert(name.clone(), told);
    }
    let text = Value::Object(header).to_string();
    let length = (text.len() as u64).to_le_bytes();
    fs::write(path, [&length, text.as_bytes(), &data].concat()).unwrap();
}
