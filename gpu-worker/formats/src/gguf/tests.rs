//! GGUF files written by hand: sound ones, and every lie that a header can tell.

use std::path::PathBuf;

use tempfile::TempDir;

use super::{inspect, read};
use crate::{Base, ErrorKind, ModelType};

/// A header under construction.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn start(version: u32, tensors: u64, values: u64) -> Self {
        let mut writer = Self(b"GGUF".to_vec());
        writer.0.extend(version.to_le_bytes());
        writer.u64(tensors).u64(values);
        writer
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
        self
    }

    fn tensor(&mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> &mut Self {
        self.text(name).u32(u32::try_from(shape.len()).unwrap());
        for dim in shape.iter().rev() {
            self.u64(*dim);
        }
        self.u32(kind).u64(offset)
    }

    fn save(&self, dir: &TempDir, data: usize) -> PathBuf {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
        let path = dir.path().join("x.gguf");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn a_quantised_flux_is_recognised_and_not_offered_for_loading() {
    let dir = TempDir::new().unwrap();
    let mut file = Writer::start(3, 3, 3);
    file.text("general.architecture").u32(8).text("flux");
    file.text("general.quantization_version").u32(4).u32(2);
    file.text("tokenizer.tokens").u32(9).u32(8).u64(2).text("a").text("bc");
    file.tensor("double_blocks.0.img_attn.qkv.weight", &[3, 32], 8, 0);
    file.tensor("img_in.weight", &[8, 64], 1, 128);
    file.tensor("vector_in.in_layer.weight", &[8, 8], 0, 1152);
    let path = file.save(&dir, 1408);
    let gguf = read(&path, "").unwrap();
    assert_eq!((gguf.version, gguf.tensors[0].shape.as_slice(), gguf.tensors[0].kind.name), (3, &[3, 32][..], "Q8_0"));
    assert_eq!(gguf.tensors[0].end - gguf.tensors[0].begin, 3 * 34);
    assert_eq!(gguf.values["tokenizer.tokens"]["length"], 2);
    let found = inspect(&path).unwrap();
    assert_eq!((found.model_type, found.base), (ModelType::Transformer, Base::Flux));
    assert!(found.components.is_empty() && found.reason.unwrap().contains("not loaded"));
    assert_eq!(found.metadata["gguf"]["general.architecture"], "flux");
}

fn refused(file: &Writer, data: usize) -> String {
    let dir = TempDir::new().unwrap();
    let error = read(&file.save(&dir, data), "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    error.to_string()
}

#[test]
fn lies_are_named() {
    let one = |shape: &[u64], kind, offset| {
        let mut file = Writer::start(3, 1, 0);
        file.tensor("t", shape, kind, offset);
        file
    };
    assert!(refused(&Writer::start(1, 0, 0), 0).contains("neither 2 nor 3"));
    assert!(refused(&Writer::start(3, u64::MAX, 0), 0).contains("tensors"));
    assert!(refused(&Writer::start(3, 0, 1 << 40), 0).contains("key-values"));
    assert!(refused(&one(&[8], 0, 0), 31).contains("ends at 32"));
    assert!(refused(&one(&[u64::MAX, 2], 0, 0), 64).contains("overflow"));
    assert!(refused(&one(&[8], 0, 7), 64).contains("not aligned"));
    assert!(refused(&one(&[8], 0, u64::MAX - 31), 64).contains("overflow"));
    assert!(refused(&one(&[33], 8, 0), 64).contains("not whole bytes"));
    assert!(refused(&one(&[8], 4, 0), 64).contains("unknown element type"));
    let mut twice = Writer::start(2, 2, 0);
    twice.tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32);
    assert!(refused(&twice, 64).contains("named twice"));
    let mut over = Writer::start(2, 2, 0);
    over.tensor("a", &[16], 0, 0).tensor("b", &[8], 0, 32);
    assert!(refused(&over, 64).contains("overlap"));
    let mut long = Writer::start(3, 0, 1);
    long.u64(u64::MAX);
    assert!(refused(&long, 0).contains("longer than any"));
    let mut deep = Writer::start(3, 0, 1);
    deep.text("k").u32(9);
    for _ in 0..8 {
        deep.u32(9).u64(1);
    }
    assert!(refused(&deep, 64).contains("nested too deeply"));
    let mut bomb = Writer::start(3, 0, 1);
    bomb.text("k").u32(9).u32(0).u64(u64::MAX);
    assert!(refused(&bomb, 0).contains("array elements"));
}

#[test]
fn every_truncation_is_an_error_and_no_panic() {
    let dir = TempDir::new().unwrap();
    let mut file = Writer::start(3, 1, 1);
    file.text("general.name").u32(8).text("x");
    file.tensor("t", &[8], 0, 0);
    let whole = std::fs::read(file.save(&dir, 32)).unwrap();
    for length in 0..whole.len() {
        let path = dir.path().join("cut.gguf");
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(read(&path, "").is_err(), "{length}");
    }
}
