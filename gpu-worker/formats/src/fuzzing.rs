//! What the fuzzers call: every parser over arbitrary bytes, with the promises that must hold whatever they are.
//! Used by the targets of `tests/fuzz` and by the short seeded run in this crate's tests; not part of the interface.

mod rules;

use std::{fs, path::Path};

pub use rules::{architecture_config, tensor_names};
use serde_json::{Map, Value};

use crate::{
    Correction, Lister, Memo, gguf, inspect,
    inspection::{Inspection, TensorFacts},
    metadata, onnx, pickle, safetensors,
    sidecar::{Sidecar, SidecarKind},
    tokenizer,
    vocab::Format,
    write::NOTE_FILE,
};

/// A parser: the bytes are written below the folder and read from there.
pub type Target = fn(&Path, &[u8]);

/// All of them by name.
pub const TARGETS: [(&str, Target); 13] = [
    ("safetensors", safetensors_header),
    ("index", sharded_index),
    ("diffusers", diffusers_config),
    ("pickle_zip", pickle_file),
    ("pickle_legacy", pickle_file),
    ("onnx", onnx_graph),
    ("gguf", gguf_header),
    ("tokenizer", tokenizer_folder),
    ("inspect", inspect_any),
    ("sidecar", sidecars),
    ("header_metadata", header_metadata),
    ("config", architecture_config),
    ("names", tensor_names),
];

/// Writes the input; a full scratch disk is no finding.
fn put(path: &Path, bytes: &[u8]) -> bool {
    path.parent().is_none_or(|folder| fs::create_dir_all(folder).is_ok()) && fs::write(path, bytes).is_ok()
}

/// No tensor may lie outside of its file.
fn inside(tensors: &[TensorFacts], bytes: &[u8]) {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    for tensor in tensors {
        assert!(tensor.begin <= tensor.end && tensor.end <= size, "{} lies outside of the file", tensor.name);
    }
}

/// The header of a safetensors file.
pub fn safetensors_header(folder: &Path, bytes: &[u8]) {
    let path = folder.join("x.safetensors");
    if put(&path, bytes)
        && let Ok(header) = safetensors::read(&path, "")
    {
        inside(&header.tensors, bytes);
    }
}

/// The index of a sharded file.
pub fn sharded_index(folder: &Path, bytes: &[u8]) {
    let path = folder.join("model.safetensors.index.json");
    if put(&path, bytes) {
        let _ = inspect(&path);
    }
}

/// The index of a diffusers folder, the config of a component, and the note of what the folder was made from.
pub fn diffusers_config(folder: &Path, bytes: &[u8]) {
    let folder = folder.join("pipeline");
    let names = ["model_index.json", "unet/config.json", NOTE_FILE, "unet/modelyard.json"];
    if names.iter().all(|name| put(&folder.join(name), bytes)) {
        let _ = inspect(&folder);
        let _ = inspect(&folder.join("unet"));
    }
}

/// A checkpoint in either container.
pub fn pickle_file(folder: &Path, bytes: &[u8]) {
    let path = folder.join("x.pt");
    if !put(&path, bytes) {
        return;
    }
    let Ok(found) = pickle::read(&path) else { return };
    inside(&found.tensors, bytes);
    let Ok(file) = fs::File::open(&path) else { return };
    let mut out = Vec::new();
    for tensor in found.tensors.iter().take(64).filter(|tensor| tensor.bytes() <= 1 << 16) {
        let read = crate::read_tensor(&file, tensor, &mut out);
        assert!(read.is_ok(), "{} cannot be read: {read:?}", tensor.name);
        assert_eq!(u64::try_from(out.len()).ok(), Some(tensor.bytes()), "{} has another length", tensor.name);
    }
}

/// An ONNX graph.
pub fn onnx_graph(folder: &Path, bytes: &[u8]) {
    let path = folder.join("model.onnx");
    if put(&path, bytes)
        && let Ok(read) = onnx::read(&path, "", "")
        && let Some((seen, beside)) = read.files.split_first()
    {
        let _ = onnx::detach(seen, beside);
    }
}

/// A GGUF header.
pub fn gguf_header(folder: &Path, bytes: &[u8]) {
    let path = folder.join("x.gguf");
    if put(&path, bytes) {
        let _ = gguf::inspect(&path);
    }
}

/// The files of a tokenizer.
pub fn tokenizer_folder(folder: &Path, bytes: &[u8]) {
    let folder = folder.join("tokenizer");
    let names = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"];
    if names.iter().all(|name| put(&folder.join(name), bytes)) {
        let _ = tokenizer::read(&folder, "");
    }
}

/// Every kind of document beside a model.
pub fn sidecars(folder: &Path, bytes: &[u8]) {
    let kinds = [
        ("x.civitai.info", SidecarKind::CivitaiInfo),
        ("x.metadata.json", SidecarKind::ManagerMetadata),
        ("x.cm-info.json", SidecarKind::ManagerInfo),
        ("x.json", SidecarKind::Notes),
        ("x.yaml", SidecarKind::Config),
    ];
    let beside: Vec<Sidecar> =
        kinds.into_iter().map(|(name, kind)| Sidecar { kind, path: folder.join(name) }).collect();
    if beside.iter().all(|sidecar| put(&sidecar.path, bytes)) {
        let mut inspection: Inspection = inspect::unknown(folder, Format::Safetensors, Vec::new());
        metadata::attach(&mut inspection, &beside);
        assert!(inspection.metadata.contains_key(metadata::EXTRACTED_KEY), "nothing was attached");
    }
}

/// The metadata of a header: a map of texts, or one text as the value of every key that holds JSON or a list.
pub fn header_metadata(folder: &Path, bytes: &[u8]) {
    let nested = ["ss_tag_frequency", "ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_bucket_info", "ss_datasets"];
    let plain = ["ss_network_args", "ss_resolution", "ss_steps", "modelspec.tags", "modelspec.architecture"];
    let text = String::from_utf8_lossy(bytes);
    let map = serde_json::from_slice::<Map<String, Value>>(bytes).unwrap_or_else(|_| {
        nested.iter().chain(&plain).map(|key| ((*key).to_owned(), Value::from(text.as_ref()))).collect()
    });
    let mut inspection: Inspection = inspect::unknown(folder, Format::Safetensors, Vec::new());
    inspection.metadata = map;
    metadata::attach(&mut inspection, &[]);
}

/// Whatever the first bytes say it is; a listing says the same the first time and the second.
pub fn inspect_any(folder: &Path, bytes: &[u8]) {
    let path = folder.join("any.ckpt");
    if !put(&path, bytes) {
        return;
    }
    let alone = inspect(&path).map(Inspection::listing).ok();
    let memo = Memo::default();
    let mut lister = Lister::new(&memo);
    for time in ["first", "second"] {
        let listed = lister.list(&path, Correction::default()).ok();
        assert_eq!(listed, alone, "a listing says something else the {time} time");
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::testing::model_in;

    /// Damaged copies of every seed for every parser.
    const ROUNDS: u64 = 6;

    /// A small generator with a fixed seed: a failure is found again by running the test again.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, limit: usize) -> usize {
            usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
        }
    }

    fn seeds(dir: &Path) -> Vec<Vec<u8>> {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/pickles");
        let mut files: Vec<PathBuf> = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "pt"));
        files.sort();
        let mut seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        let tensors: [(&str, &[u64]); 2] = [("a.weight", &[2, 3]), ("b", &[4])];
        let path = model_in(&dir.join("seed.safetensors"), "F16", &tensors, &[("k", "v")]);
        seeds.push(fs::read(path).unwrap());
        seeds.push(br#"{"metadata":{},"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#.to_vec());
        seeds
            .push(br#"{"_class_name":"StableDiffusionPipeline","unet":["diffusers","UNet2DConditionModel"]}"#.to_vec());
        seeds.push(b"\x08\x07\x12\x01x\x3a\x10\x0a\x04\x22\x02Id\x2a\x06\x08\x01\x10\x01\x42\x00".to_vec());
        let mut gguf = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0w\x01\0\0\0".to_vec();
        gguf.extend([8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].repeat(4));
        seeds.push(gguf);
        seeds.push(
            br#"{"schema":"modelyard/made/1","job":"j","made_from":{"models":[{"as":"base","name":"\u0000m"}]}}"#
                .to_vec(),
        );
        seeds.push(br#"{"modelId":1,"baseModel":"SD 1.5","trainedWords":["a, b"],"files":[{"hashes":{}}]}"#.to_vec());
        seeds.push(br#"{"ss_tag_frequency":"{\"d\":{\"t\":2}}","ss_network_args":"{\"algo\":\"loha\"}"}"#.to_vec());
        seeds.push(
            br#"{"_class_name":"UNet2DConditionModel","block_out_channels":[32,64],"layers_per_block":1}"#.to_vec(),
        );
        seeds.push(
            b"input_blocks.1.1.proj_in.weight 8x8x1x1\ninput_blocks.1.1.proj_in.scale_weight 1\nout.2.bias 4".to_vec(),
        );
        seeds
    }

    /// A few bytes changed, removed, repeated or taken from elsewhere.
    fn damage(seed: &[u8], random: &mut Random) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=random.below(4) {
            let (at, length) = (random.below(bytes.len()), random.below(9));
            let end = (at + length).min(bytes.len());
            match random.below(5) {
                0 => bytes[at..end].fill(0xff),
                1 => drop(bytes.drain(at..end)),
                2 => bytes.extend_from_within(at..end),
                3 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                _ => bytes.truncate(bytes.len().saturating_sub(length / 4)),
            }
        }
        bytes
    }

    #[test]
    fn no_parser_panics_over_damaged_files() {
        let dir = TempDir::new().unwrap();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for seed in seeds(dir.path()) {
            for (_, target) in TARGETS {
                target(dir.path(), &seed);
            }
            for _ in 0..ROUNDS {
                let bytes = damage(&seed, &mut random);
                for (_, target) in TARGETS {
                    target(dir.path(), &bytes);
                }
            }
        }
    }
}
