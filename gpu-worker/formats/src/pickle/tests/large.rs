//! Checkpoints larger than a 32-bit zip, and checkpoints in several files.

use std::{fs, os::unix::fs::FileExt, path::Path};

use serde_json::json;
use tempfile::TempDir;

use super::{
    golden,
    write::{Zip, tensor},
};
use crate::{ErrorKind, Format, inspect, pickle::read};

/// Elements of the one tensor: six gibibytes.
const ELEMENTS: i64 = (6 << 30) / 4;

/// An archive with a hole of six gibibytes where its storage is, and its directory behind that.
fn wide(path: &Path) {
    let pickle = tensor(ELEMENTS, 0, &[ELEMENTS], &[1]);
    let data = u64::try_from(ELEMENTS).unwrap() * 4;
    let (mut offset, mut directory) = (0_u64, Vec::new());
    let file = fs::File::create(path).unwrap();
    for (name, content, size) in [("x/data/0", None, data), ("x/data.pkl", Some(&pickle), pickle.len() as u64)] {
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        let local = [b"PK\x03\x04\0\0\x08\x08".as_slice(), &[0; 18], &length, &[0; 2], name.as_bytes()].concat();
        file.write_all_at(&local, offset).unwrap();
        if let Some(content) = content {
            file.write_all_at(content, offset + local.len() as u64).unwrap();
        }
        directory.extend(b"PK\x01\x02\0\0\0\0\x08\x08");
        directory.extend([0; 10]);
        directory.extend([0xff; 8]);
        directory.extend(length);
        directory.extend(28_u16.to_le_bytes());
        directory.extend([0; 10]);
        directory.extend([0xff; 4]);
        directory.extend(name.as_bytes());
        directory.extend([1, 0, 24, 0]);
        [size, size, offset].iter().for_each(|number| directory.extend(number.to_le_bytes()));
        offset += local.len() as u64 + size;
    }
    let size = directory.len() as u64;
    let mut end = directory;
    end.extend(b"PK\x06\x06");
    end.extend(44_u64.to_le_bytes());
    end.extend([0; 12]);
    [2, 2, size, offset].iter().for_each(|number: &u64| end.extend(number.to_le_bytes()));
    end.extend(b"PK\x06\x07\0\0\0\0");
    end.extend((offset + size).to_le_bytes());
    end.extend([1, 0, 0, 0]);
    end.extend(b"PK\x05\x06\0\0\0\0");
    end.extend([0xff; 12]);
    end.extend([0; 2]);
    file.write_all_at(&end, offset).unwrap();
}

/// Only the directory and the pickle are read: six gibibytes of zeros would take seconds.
#[test]
fn a_checkpoint_beyond_four_gibibytes_is_read_by_its_directory() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.ckpt");
    wide(&path);
    assert!(fs::metadata(&path).unwrap().len() > 6 << 30);
    let found = read(&path).unwrap();
    assert_eq!(found.tensors.len(), 1);
    assert_eq!((found.tensors[0].begin, found.tensors[0].bytes()), (38, 6 << 30));
    // its last bytes gone, it is no longer a checkpoint, and one with a hole too few is none either
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((6 << 30) + 64).unwrap();
    assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// `torch` wrote both shards; their index is the usual one.
#[test]
fn sharded_pickles_are_one_model() {
    let dir = TempDir::new().unwrap();
    let names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    let mut map = serde_json::Map::new();
    for (name, from) in names.iter().zip(["plain.zip.pt", "views.legacy.pt"]) {
        fs::copy(golden().join(from), dir.path().join(name)).unwrap();
        for tensor in read(&dir.path().join(name)).unwrap().tensors {
            map.insert(tensor.name, json!(name));
        }
    }
    let index = dir.path().join("pytorch_model.bin.index.json");
    let put = |map: &serde_json::Map<String, serde_json::Value>| {
        fs::write(&index, serde_json::to_vec(&json!({ "weight_map": map })).unwrap()).unwrap();
    };
    put(&map);
    let found = inspect(&index).unwrap();
    assert_eq!((found.format, found.files.len()), (Format::TorchZip, 3), "{:?}", found.reason);
    assert_eq!(found.metadata["facts"]["tensors"], map.len());
    // a shard that would run code makes the whole unsafe, one that is missing makes it corrupt
    fs::write(dir.path().join(names[1]), Zip::of(&super::write::pickle(b"cos\nsystem\n(S'id'\ntR")).bytes()).unwrap();
    let unsafe_one = inspect(&index).unwrap();
    assert!(unsafe_one.reason.unwrap().contains("os.system"));
    assert!(unsafe_one.evidence.iter().any(|seen| seen.matched == "unsafe_format"));
    map.insert("else".to_owned(), json!("../pytorch_model-00002-of-00002.bin"));
    put(&map);
    assert!(inspect(&index).unwrap().evidence.iter().any(|seen| seen.matched == "unsafe"));
}
