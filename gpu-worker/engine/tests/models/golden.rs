//! Golden files: what diffusers and transformers answered, with the config and the case.

use std::{fs, path::Path};

use engine::Tensor;
use safetensors::SafeTensors;
use serde_json::Value;

/// One model with its cases.
pub(crate) struct Golden {
    bytes: Vec<u8>,
    /// As `config.json` has it.
    pub(crate) config: Value,
    /// Inputs: shapes and numbers.
    pub(crate) cases: Value,
}

impl Golden {
    /// Reads `tests/reference/golden/engine/{name}.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/engine");
        let bytes = fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().clone().unwrap();
        let json = |key: &str| serde_json::from_str(&metadata[key]).unwrap();
        Self { config: json("config"), cases: json("cases"), bytes }
    }

    /// An output.
    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        let values = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        Tensor::f32(view.shape(), values.collect()).unwrap()
    }

    /// A list of whole numbers in the case.
    pub(crate) fn numbers(&self, name: &str) -> Vec<usize> {
        serde_json::from_value(self.cases[name].clone()).unwrap()
    }
}
