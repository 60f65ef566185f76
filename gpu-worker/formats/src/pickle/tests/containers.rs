//! Archives and streams that lie about their members.

use std::fs;

use tempfile::TempDir;

use super::{
    golden,
    write::{Zip, pickle, tensor},
};
use crate::{ErrorKind, FormatError, pickle::read};

fn refused(content: &[u8]) -> FormatError {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.pt");
    fs::write(&path, content).unwrap();
    read(&path).unwrap_err()
}

fn says(content: &[u8], problem: &str) {
    let error = refused(content);
    assert!(error.to_string().contains(problem), "{problem}: {error}");
}

fn valid() -> Zip {
    Zip::of(&tensor(6, 0, &[2, 3], &[3, 1]))
}

#[test]
fn members_have_safe_and_single_names() {
    for name in ["/etc/passwd", "x/../y", "../y", "x\\y", "x/\0", "", "x//y"] {
        says(&valid().with(name, b"").bytes(), "unsafe name");
    }
    says(&valid().with("x/data.pkl", b"").bytes(), "there twice");
    says(&valid().with("y/data.pkl", b"").bytes(), "more than one data.pkl");
}

#[test]
fn programs_and_foreign_archives_are_refused_by_name() {
    let error = refused(&valid().with("x/code/__torch__.py", b"").bytes());
    assert_eq!(error.kind(), ErrorKind::UnsafeFormat);
    assert!(error.to_string().contains("TorchScript"));
    let foreign = Zip { members: vec![("readme.txt".to_owned(), b"x".to_vec())], ..valid() };
    assert_eq!(refused(&foreign.bytes()).kind(), ErrorKind::Unsupported);
    says(&valid().with("x/byteorder", b"big").bytes(), "big-endian");
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    says(&tar, "a tar archive");
}

#[test]
fn members_lie_where_the_directory_says() {
    says(&Zip { method: 8, ..valid() }.bytes(), "compressed");
    says(&Zip { extra_size: 1 << 30, ..valid() }.bytes(), "beyond the directory");
    says(&Zip { extra_size: 2, ..valid() }.bytes(), "overlap");
    says(&Zip { overlapping: true, ..valid() }.bytes(), "says something else");
    let missing = Zip { members: vec![("x/data.pkl".to_owned(), tensor(6, 0, &[6], &[1]))], ..valid() };
    says(&missing.bytes(), "not in the archive");
    says(&[b"PK prefix".as_slice(), &valid().bytes()].concat(), "does not end where its record begins");
    let whole = valid().bytes();
    says(&[whole.as_slice(), b"behind"].concat(), "no end record");
}

#[test]
fn every_truncation_of_a_checkpoint_is_an_error() {
    for name in ["module.zip.pt", "module.legacy.pt"] {
        let whole = fs::read(golden().join(name)).unwrap();
        for length in 0..whole.len() {
            let error = refused(&whole[..length]);
            assert!(!matches!(error.kind(), ErrorKind::Unreadable | ErrorKind::Missing), "{name} {length}: {error}");
        }
    }
}

#[test]
fn a_stream_has_nothing_behind_its_storages() {
    let whole = fs::read(golden().join("module.legacy.pt")).unwrap();
    says(&[whole.as_slice(), b"more"].concat(), "behind its last storage");
    says(&pickle(b"}"), "no PyTorch checkpoint");
}
