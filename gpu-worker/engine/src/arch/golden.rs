//! For tests: the tensors and configs of the releases, as diffusers and transformers list them.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    tensor::ElementType,
    weights::{TensorFact, TensorFacts},
};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden").join(file);
    fs::read_to_string(path).unwrap()
}

/// Names and shapes of a release's tensors, sorted by name.
pub(super) fn tensors(release: &str) -> Vec<(String, Vec<usize>)> {
    let line = |line: &str| {
        let (name, shape) = line.split_once('\t').unwrap();
        (name.to_owned(), shape.split('x').map(|side| side.parse().unwrap()).collect())
    };
    let list = read(&format!("{release}.txt"));
    let mut tensors: Vec<_> = list.lines().filter(|line| !line.starts_with('#')).map(line).collect();
    tensors.sort();
    tensors
}

/// Names and shapes of the tensors that diffusers makes of a reduced model in the original layout.
pub(super) fn reduced(map: &str) -> Vec<(String, Vec<usize>)> {
    let line = |line: &str| {
        let mut fields = line.strip_prefix(">\t")?.split('\t');
        let (name, shape) = (fields.next()?, fields.next()?);
        Some((name.to_owned(), shape.split('x').map(|side| side.parse().unwrap()).collect()))
    };
    read(&format!("maps/{map}.tsv")).lines().filter_map(line).collect()
}

/// Its `config.json`.
pub(super) fn config(release: &str) -> Value {
    let mut configs: Value = serde_json::from_str(&read("configs.json")).unwrap();
    configs[release].take()
}

/// Facts of 32-bit tensors.
pub(super) fn facts(tensors: &[(String, Vec<usize>)]) -> TensorFacts {
    let fact = |(name, shape): &(String, Vec<usize>)| {
        (name.clone(), TensorFact { dtype: ElementType::F32, shape: shape.clone() })
    };
    tensors.iter().map(fact).collect()
}
