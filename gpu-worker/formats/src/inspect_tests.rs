//! Files that are not safetensors, damaged ones, and names.

use std::fs;

use tempfile::TempDir;

use crate::{
    ErrorKind, Format, ModelType, inspect,
    testing::{family_unet, model, raw, specs},
};

#[test]
fn other_formats_are_listed_with_a_reason_and_never_guessed() {
    let dir = TempDir::new().unwrap();
    let cases: [(&str, &[u8], Format, &str); 7] = [
        ("a.ckpt", b"PK\x03\x04\x14\0\0\0", Format::TorchZip, "no end record"),
        ("b.pt", b"\x80\x02}q\0.", Format::Pickle, "no PyTorch checkpoint"),
        ("c.gguf", b"GGUF\x03\0\0\0", Format::Gguf, "ends in the middle"),
        ("d.onnx", b"\x08\x07\x12\x00", Format::Onnx, "no single graph"),
        ("e.bin", b"what is this", Format::Unknown, "unknown format"),
        ("f.ckpt", b"version https://git-lfs.github.com/spec/v1\n", Format::LfsPointer, "never downloaded"),
        ("g.bin", b"", Format::Unknown, "unknown format"),
    ];
    for (name, content, format, reason) in cases {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let found = inspect(&path).unwrap();
        assert_eq!((found.model_type, found.format), (ModelType::Unknown, format), "{name}");
        let why = found.reason.unwrap();
        assert!(why.contains(reason), "{name}: {why}");
        assert!(found.components.is_empty() && found.files.len() == 1);
    }
}

#[test]
fn a_checkpoint_extension_over_safetensors_content_is_read() {
    let dir = TempDir::new().unwrap();
    let found = inspect(&model(&dir.path().join("x.ckpt"), &specs(&family_unet("", "sd15")))).unwrap();
    assert_eq!((found.model_type, found.format), (ModelType::Unet, Format::Safetensors));
}

#[test]
fn a_damaged_file_is_listed_with_its_error() {
    let dir = TempDir::new().unwrap();
    let path = raw(&dir.path().join("x.safetensors"), br#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 3);
    let found = inspect(&path).unwrap();
    assert_eq!((found.model_type, found.format, found.components.len()), (ModelType::Unknown, Format::Safetensors, 0));
    assert!(found.reason.unwrap().contains("ends at 4 but the file holds 3"));
    let zip = dir.path().join("y.safetensors");
    fs::write(&zip, b"PK\x03\x04\x14\0\0\0\0\0").unwrap();
    let found = inspect(&zip).unwrap();
    assert_eq!(found.format, Format::TorchZip);
    assert!(found.reason.unwrap().contains("no end record"));
}

#[test]
fn what_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    assert_eq!(inspect(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::Missing);
}
