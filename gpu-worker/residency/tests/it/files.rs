//! The loader and its files: right bytes at right places, and every way in which a file can be wrong.

use std::{fs, os::unix::fs::symlink, path::Path};

use residency::{
    Direct, FileIdentity, GatheredTensor, LoadRequest, Part, PartOrder, ResidencyError, TensorRange, entry::State,
    identity::ChangedFact, loader::ReadMode,
};

use crate::support::{Gate, MIB, acquire, assert_empty, bytes, request, slow_io, source, tensor, tier, write};

/// Tensors of awkward sizes at awkward offsets, some far apart, one empty.
fn scattered(path: &Path, shift: u64) -> LoadRequest {
    let ranges = [(0, 2), (2, 102), (102, 102), (4_095, 70_000), (200_001, 1_500_002), (1_500_002, 2_900_000)];
    let mut request = request("scattered", path);
    request.tensors = ranges
        .iter()
        .enumerate()
        .map(|(i, (begin, end))| tensor(&format!("t{i}"), 0, begin + shift, end + shift))
        .collect();
    request
}

#[tokio::test]
async fn every_tensor_is_where_the_layout_says_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(3 * MIB, 1);
    let path = write(&dir, "m", &content);
    let mut digests = Vec::new();
    for direct in [Direct::Auto, Direct::Off] {
        for (threads, chunk_bytes) in [(1, 64 << 10), (3, 256 << 10), (8, 8 << 20)] {
            let tier = tier(8 * MIB);
            let mut request = scattered(&path, 0);
            request.io.direct = direct;
            request.io.threads = threads;
            request.io.chunk_bytes = chunk_bytes;
            let ranges = request.tensors.clone();
            let lease = acquire(&tier, request).await.unwrap();
            let map = lease.map().unwrap();
            for (placed, range) in lease.tensors().iter().zip(&ranges) {
                assert_eq!(placed.name, range.name);
                assert_eq!(placed.offset % 256, 0);
                let at = placed.offset as usize;
                let expected = &content[range.begin as usize..range.end as usize];
                assert_eq!(&map[at..at + placed.len as usize], expected);
            }
            if direct == Direct::Off {
                assert_eq!(lease.read_modes(), [ReadMode::Buffered]);
            }
            let audit = tier.accounted_vs_system().unwrap();
            assert_eq!(audit.system_bytes, audit.used_bytes);
            assert_eq!(lease.bytes(), audit.used_bytes);
            digests.push(lease.digest());
        }
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[tokio::test]
async fn the_digest_is_of_the_tensors_not_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(3 * MIB, 2);
    let whole = scattered(&write(&dir, "whole", &content), 0);
    let shifted = [vec![9; 777], content.clone()].concat();
    let moved = scattered(&write(&dir, "moved", &shifted), 777);
    // The same tensors over two files, listed backwards.
    let mut split = whole.clone();
    let tail = write(&dir, "tail", &content[4_095..]);
    split.sources.push(source(&tail));
    for tensor in split.tensors.iter_mut().filter(|tensor| tensor.begin >= 4_095) {
        tensor.file_index = 1;
        tensor.begin -= 4_095;
        tensor.end -= 4_095;
    }
    split.tensors.reverse();
    split.sources.reverse();
    for tensor in &mut split.tensors {
        tensor.file_index = 1 - tensor.file_index;
    }
    let mut digests = Vec::new();
    for request in [whole.clone(), moved, split] {
        digests.push(acquire(&tier(8 * MIB), request).await.unwrap().digest());
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    let mut renamed = whole;
    renamed.tensors[0].dtype = "BF16".into();
    let other = acquire(&tier(8 * MIB), renamed).await.unwrap().digest();
    assert_ne!(other, digests[0]);
}

#[tokio::test]
async fn wrong_digest_fails_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut content = bytes(MIB, 3);
    let path = write(&dir, "m", &content);
    let tier = tier(8 * MIB);
    let right = acquire(&tier, request("a", &path)).await.unwrap().digest();
    content[500_000] ^= 1;
    fs::write(&path, &content).unwrap();
    let mut request = request("b", &path);
    request.expected_digest = Some(right);
    let error = acquire(&tier, request.clone()).await.unwrap_err();
    let ResidencyError::DigestMismatch { expected, actual, .. } = error else { panic!("{error}") };
    assert_eq!(expected, right);
    assert_ne!(actual, right);
    tier.evict("a").await.unwrap();
    assert_empty(&tier);
    let entries = tier.snapshot().entries;
    assert!(matches!(entries[0].state, State::Failed(_)), "{entries:?}");
    request.expected_digest = Some(actual);
    assert_eq!(acquire(&tier, request).await.unwrap().digest(), actual);
}

/// Loads a file, does something to it after the first chunk, and returns the error.
async fn while_loading(act: impl FnOnce(&Path)) -> ResidencyError {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "m", &bytes(2 * MIB, 4));
    let (tier, gate) = (tier(8 * MIB), Gate::default());
    let mut request = request("m", &path);
    request.io = slow_io();
    gate.hold(&mut request.io);
    let (result, ()) = tokio::join!(acquire(&tier, request), async {
        gate.reached().await;
        act(&path);
        gate.open();
    });
    assert_empty(&tier);
    result.unwrap_err()
}

fn changed(error: &ResidencyError) -> ChangedFact {
    let ResidencyError::Changed(facts) = error else { panic!("{error}") };
    facts.what
}

#[tokio::test]
async fn f23_a_file_that_shrinks_mid_load_is_an_error() {
    let error = while_loading(|path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(MIB).unwrap();
    })
    .await;
    assert_eq!(changed(&error), ChangedFact::Size);
    assert!(error.to_string().ends_with("changed size from 2097152 to 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn f23_a_file_that_grows_mid_load_is_an_error() {
    let error = while_loading(|path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(3 * MIB).unwrap();
    })
    .await;
    assert_eq!(changed(&error), ChangedFact::Size);
}

#[tokio::test]
async fn f23_a_file_replaced_by_rename_mid_load_is_an_error() {
    let error = while_loading(|path| {
        let other = path.with_extension("new");
        fs::write(&other, bytes(2 * MIB, 5)).unwrap();
        fs::rename(other, path).unwrap();
    })
    .await;
    assert_eq!(changed(&error), ChangedFact::Replaced);
}

#[tokio::test]
async fn f23_a_file_written_to_mid_load_is_an_error() {
    let error = while_loading(|path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    })
    .await;
    assert_eq!(changed(&error), ChangedFact::Mtime);
}

#[tokio::test]
async fn f23_a_file_removed_mid_load_is_an_error() {
    let error = while_loading(|path| fs::remove_file(path).unwrap()).await;
    assert_eq!(changed(&error), ChangedFact::Removed);
}

#[tokio::test]
async fn a_file_that_changed_before_the_load_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "m", &bytes(MIB, 6));
    let request = request("m", &path);
    fs::write(&path, bytes(MIB / 2, 6)).unwrap();
    let tier = tier(8 * MIB);
    let error = acquire(&tier, request).await.unwrap_err();
    assert_eq!(changed(&error), ChangedFact::Size);
    assert_empty(&tier);
}

#[tokio::test]
async fn f24_a_header_that_promises_more_than_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "m", &bytes(1000, 7));
    let mut request = request("m", &path);
    request.tensors[0].end = 1001;
    let tier = tier(8 * MIB);
    let error = acquire(&tier, request).await.unwrap_err();
    assert!(matches!(error, ResidencyError::OutOfBounds { end: 1001, file_bytes: 1000, .. }), "{error}");
    assert_empty(&tier);
}

#[tokio::test]
async fn contradictions_are_refused_with_the_tensor_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "m", &bytes(1000, 7));
    let good = request("m", &path);
    let mut twice = good.clone();
    twice.tensors.push(tensor("weight", 0, 0, 2));
    let mut backwards = good.clone();
    (backwards.tensors[0].begin, backwards.tensors[0].end) = (10, 2);
    let mut nowhere = good.clone();
    nowhere.tensors[0].file_index = 1;
    let mut empty = good;
    empty.sources.clear();
    let tier = tier(8 * MIB);
    for request in [twice, backwards, nowhere, empty] {
        let error = acquire(&tier, request).await.unwrap_err();
        assert!(matches!(error, ResidencyError::BadRequest { .. }), "{error}");
    }
    assert_empty(&tier);
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_refused_without_hanging() {
    let dir = tempfile::tempdir().unwrap();
    let real = write(&dir, "real", &bytes(1000, 8));
    let link = dir.path().join("link");
    symlink(&real, &link).unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let tier = tier(8 * MIB);
    for path in [&link, &fifo, &dir.path().to_owned()] {
        let mut request = request("m", &real);
        request.sources[0].path = path.clone();
        let error = acquire(&tier, request).await.unwrap_err();
        assert!(matches!(error, ResidencyError::NotRegular { .. }), "{error}");
    }
    let mut followed = request("m", &link);
    followed.io.follow_symlinks = true;
    assert!(acquire(&tier, followed).await.is_ok());
    let mut gone = request("gone", &real);
    gone.sources[0].path = dir.path().join("gone");
    let error = acquire(&tier, gone).await.unwrap_err();
    assert!(matches!(error, ResidencyError::Missing { .. }), "{error}");
}

#[test]
fn identities_tell_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "m", b"abc");
    let identity = FileIdentity::of(&path).unwrap();
    assert_eq!(identity.difference(&identity), None);
    let grown = FileIdentity { size: 4, ..identity };
    assert_eq!(identity.difference(&grown), Some(ChangedFact::Size));
}

/// A fused and transposed file gives the same component as one that has the tensors as they are.
#[tokio::test]
async fn gathered_tensors_have_the_digest_of_plain_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, fused) = (folder.path().join("plain"), folder.path().join("fused"));
    // a: 2×3 of u16, b: 4 bytes
    let a: Vec<u8> = (0..12).collect();
    let transposed = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11];
    fs::write(&plain, [&a[..], &[20, 21, 22, 23]].concat()).unwrap();
    fs::write(&fused, [&[22, 23], &transposed[..], &[20, 21]].concat()).unwrap();

    let tier = tier(1 << 20);
    let mut straight = request("plain", &plain);
    straight.tensors = vec![
        TensorRange { shape: vec![2, 3], ..tensor("a", 0, 0, 12) },
        TensorRange { shape: vec![2], ..tensor("b", 0, 12, 16) },
    ];
    let part = |begin, end, order| Part { file_index: 0, begin, end, order };
    let gathered = |name: &str, shape: Vec<u64>, parts| GatheredTensor {
        name: name.into(),
        dtype: "F16".into(),
        shape,
        element_bytes: 2,
        parts,
    };
    let mut other = request("fused", &fused);
    other.tensors = Vec::new();
    other.gathered = vec![
        gathered("b", vec![2], vec![part(14, 16, PartOrder::RowMajor), part(0, 2, PartOrder::RowMajor)]),
        gathered("a", vec![2, 3], vec![part(2, 14, PartOrder::Strided { shape: vec![2, 3], strides: vec![1, 2] })]),
    ];
    let straight = acquire(&tier, straight).await.unwrap();
    let other = acquire(&tier, other).await.unwrap();
    assert_eq!(straight.digest(), other.digest());
    assert_eq!(other.tensor_bytes(), 16);
}

/// More than the pages that are made at a time, in pieces that lie the other way round in the file.
#[tokio::test]
async fn gathered_tensors_of_many_chunks_are_as_plain_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (bytes(19 * MIB, 1), bytes(3 * MIB, 2));
    let plain = write(&folder, "plain", &[&first[..], &second].concat());
    let turned = write(&folder, "turned", &[&second[..], &first].concat());
    let tier = tier(64 * MIB);
    let mut straight = request("plain", &plain);
    straight.tensors = vec![tensor("a", 0, 0, 22 * MIB)];
    let mut other = request("turned", &turned);
    other.tensors = Vec::new();
    let part = |begin, end| Part { file_index: 0, begin, end, order: PartOrder::RowMajor };
    other.gathered = vec![GatheredTensor {
        name: "a".into(),
        dtype: "F16".into(),
        shape: vec![11 * MIB],
        element_bytes: 2,
        parts: vec![part(3 * MIB, 22 * MIB), part(0, 3 * MIB)],
    }];
    let straight = acquire(&tier, straight).await.unwrap();
    let other = acquire(&tier, other).await.unwrap();
    assert_eq!(straight.digest(), other.digest());
    assert!(straight.map().unwrap()[..] == other.map().unwrap()[..]);
    let audit = tier.accounted_vs_system().unwrap();
    assert_eq!(audit.used_bytes, audit.system_bytes, "{audit:?}");
}
