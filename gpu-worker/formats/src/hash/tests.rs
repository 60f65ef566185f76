//! Known hashes, chunk borders, and files that change.

use std::{ops::ControlFlow, path::Path};

use super::*;
use crate::probe::stat;

const GO: fn(u64) -> ControlFlow<()> = |_| ControlFlow::Continue(());

fn hashes(path: &Path) -> FileHashes {
    hash_file(&stat(path, "").unwrap(), &[], &mut { GO }).unwrap().unwrap().file
}

#[test]
fn known_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abc.bin");
    std::fs::write(&path, "abc").unwrap();
    let found = hashes(&path);
    assert_eq!(found.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(found.autov2(), "ba7816bf8f");
    assert_eq!(found.blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
    assert_eq!((found.autov1.as_str(), found.payload_sha256), ("e3b0c442", None));
}

/// A file over several chunks, against hashing its bytes in memory.
#[test]
fn parts_of_a_file_are_cut_at_the_right_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let header = br#"{"t":{"dtype":"U8","shape":[9437184],"data_offsets":[0,9437184]}}"#;
    let data: Vec<u8> = (0..9_437_184_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let bytes = [&u64::try_from(header.len()).unwrap().to_le_bytes()[..], header, &data].concat();
    std::fs::write(&path, &bytes).unwrap();
    let sha = |bytes: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let found = hashes(&path);
    assert_eq!(found.blake3, blake3::hash(&bytes).to_hex().to_string());
    assert_eq!(found.sha256, sha(&bytes));
    assert_eq!(found.payload_sha256.as_deref(), Some(sha(&data).as_str()));
    assert_eq!(found.autov1, sha(&bytes[0x10_0000..0x11_0000])[..8]);
}

#[test]
fn it_stops_when_asked_and_refuses_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    std::fs::write(&path, "one").unwrap();
    let seen = stat(&path, "").unwrap();
    assert_eq!(hash_file(&seen, &[], &mut |_| ControlFlow::Break(())).unwrap(), None);
    let mut during = |_| {
        std::fs::write(&path, "longer").unwrap();
        ControlFlow::Continue(())
    };
    assert!(matches!(hash_file(&seen, &[], &mut during), Err(FormatError::Changed { .. })));
    assert!(matches!(hash_file(&seen, &[], &mut { GO }), Err(FormatError::Changed { .. })));
}

#[test]
fn the_digest_of_several_files_depends_on_names_and_contents_not_on_order() {
    let digest = |files: &[(&str, &str)]| content_digest(files).unwrap();
    assert_eq!(digest(&[("", "aa")]), "aa");
    assert_eq!(digest(&[("a", "1"), ("b", "2")]), digest(&[("b", "2"), ("a", "1")]));
    assert_ne!(digest(&[("a", "1"), ("b", "2")]), digest(&[("a", "2"), ("b", "1")]));
    assert_ne!(digest(&[("a", "1"), ("b", "2")]), digest(&[("a1", ""), ("b", "2")]));
    assert_eq!(content_digest(&[]), None);
}

/// Ranges that overlap, are empty, lie across chunks or beyond the file.
#[test]
fn ranges_are_hashed_in_the_same_pass() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let bytes: Vec<u8> = (0..9_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let size = 9_000_001;
    let ranges = [5..10, 0..size, 4_000_000..8_500_000, 0..4 << 20, 4 << 20..8 << 20, 7..7, size..size, 1..size + 1];
    let found = hash_file(&stat(&path, "").unwrap(), &ranges, &mut { GO }).unwrap().unwrap();
    for (range, hash) in ranges.iter().zip(found.ranges) {
        let part = bytes.get(range.start as usize..range.end as usize);
        assert_eq!(hash, part.map(|part| *blake3::hash(part).as_bytes()), "{range:?}");
    }
}
