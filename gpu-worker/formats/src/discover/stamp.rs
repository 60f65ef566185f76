//! A candidate's stamp: equal as long as nothing that an inspection looks at beside the weights was added, removed or written.

use std::{fs::Metadata, os::unix::fs::MetadataExt, path::Path};

use super::{Candidate, CandidateKind};
use crate::metadata::RULES_VERSION;

/// Levels of a folder that an inspection looks into, itself included.
pub(super) const LEVELS: usize = 3;
/// Raised when an inspection tells more of folders, so that scans read known ones again.
const FOLDER_RULES: u32 = 1;

impl CandidateKind {
    /// Whether it is a folder.
    #[must_use]
    pub const fn is_folder(self) -> bool {
        !matches!(self, Self::SingleFile)
    }
}

/// Covers the rules of this build and: of a single file its side-cars and a `config.json` beside it, of a folder the names,
/// sizes, times and inodes of all that is in it. The files of a single-file model are not part of it. Opens no file.
#[must_use]
pub fn stamp(candidate: &Candidate) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(&RULES_VERSION.to_le_bytes());
    if candidate.kind.is_folder() {
        hash.update(&FOLDER_RULES.to_le_bytes());
        folder(&mut hash, &candidate.path, LEVELS);
    } else {
        for sidecar in &candidate.sidecars {
            entry(&mut hash, &sidecar.path, std::fs::metadata(&sidecar.path).ok().as_ref());
        }
        let config = candidate.path.with_file_name("config.json");
        if let Ok(meta) = std::fs::metadata(&config) {
            entry(&mut hash, &config, Some(&meta));
        }
    }
    hash.finalize().to_hex().chars().take(32).collect()
}

fn folder(hash: &mut blake3::Hasher, path: &Path, levels: usize) {
    let Ok(entries) = std::fs::read_dir(path) else { return entry(hash, path, None) };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    hash.update(&(paths.len() as u64).to_le_bytes());
    for path in paths {
        // links are followed: what counts is what a reader finds
        let meta = std::fs::metadata(&path).ok();
        match &meta {
            Some(meta) if meta.is_dir() => {
                named(hash, &path);
                if levels > 1 {
                    folder(hash, &path, levels - 1);
                }
            }
            meta => entry(hash, &path, meta.as_ref()),
        }
    }
}

fn named(hash: &mut blake3::Hasher, path: &Path) {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    hash.update(&(name.len() as u64).to_le_bytes()).update(name);
}

fn entry(hash: &mut blake3::Hasher, path: &Path, meta: Option<&Metadata>) {
    named(hash, path);
    let facts = meta.map_or([0; 4], |meta| {
        [meta.len(), meta.mtime().cast_unsigned(), meta.mtime_nsec().cast_unsigned(), meta.ino()]
    });
    for fact in facts {
        hash.update(&fact.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::discover;

    #[test]
    fn a_stamp_follows_side_cars_and_folders_but_not_the_weights() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let stamps = || {
            let found = discover(root.path()).unwrap().candidates;
            found.iter().map(|candidate| (candidate.rel_path.clone(), stamp(candidate))).collect::<Vec<_>>()
        };
        file("one.safetensors", "");
        file("pipe/model_index.json", "{}");
        file("pipe/unet/config.json", "{}");
        let first = stamps();
        assert_eq!(first, stamps());
        file("one.safetensors", "longer");
        assert_eq!(first, stamps(), "a scan compares the files themselves");
        file("one.json", "{}");
        let second = stamps();
        assert_ne!(first[0], second[0]);
        assert_eq!(first[1], second[1]);
        file("pipe/unet/diffusion_pytorch_model.fp16.safetensors", "");
        let third = stamps();
        assert_eq!(second[0], third[0]);
        assert_ne!(second[1], third[1], "what was added to a folder counts");
    }
}
