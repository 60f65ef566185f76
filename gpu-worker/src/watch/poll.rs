//! Walking a root from time to time: what differs from the walk before has changed.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use model_formats::FormatError;

/// Size, time of writing, inode.
type Facts = (u64, i64, i64, u64);

/// What a walk saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    files: HashMap<PathBuf, Facts>,
    folders: usize,
}

impl Look {
    /// Walks the root, opening nothing.
    ///
    /// # Errors
    /// When the root itself cannot be listed.
    pub(super) fn at(root: &Path, others: &[PathBuf], stop: &dyn Fn() -> bool) -> Result<Self, FormatError> {
        let folders = model_formats::discover_within(root, others, stop)?.folders;
        let mut look = Self { files: HashMap::new(), folders: folders.len() };
        for folder in folders {
            // one that went away since is a change of its own
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if model_formats::is_passed_over(&name) {
                    continue;
                }
                if let Ok(meta) = std::fs::metadata(&path)
                    && meta.is_file()
                {
                    look.files.insert(path, (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino()));
                }
            }
        }
        Ok(look)
    }

    /// How many folders were walked.
    pub(super) fn folders(&self) -> usize {
        self.folders
    }

    /// Files that are new or not as they were: perhaps somebody writes them.
    pub(super) fn unsettled(&self, before: &Self) -> HashSet<PathBuf> {
        let differs = |(path, facts): &(&PathBuf, &Facts)| before.files.get(*path) != Some(*facts);
        self.files.iter().filter(differs).map(|(path, _)| path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_look_sees_what_came_grew_and_went() {
        let root = tempfile::tempdir().unwrap();
        let look = || Look::at(root.path(), &[], &|| false).unwrap();
        let one = root.path().join("sub/one.safetensors");
        fs::create_dir(root.path().join("sub")).unwrap();
        let empty = look();
        fs::write(&one, "x").unwrap();
        fs::write(root.path().join("sub/two.safetensors.part"), "x").unwrap();
        let first = look();
        assert_eq!(first.unsettled(&empty).len(), 1);
        assert_eq!(first, look());
        fs::write(&one, "longer").unwrap();
        let second = look();
        assert_eq!(second.unsettled(&first).into_iter().collect::<Vec<_>>(), [one.canonicalize().unwrap()]);
        fs::remove_file(&one).unwrap();
        assert_ne!(second, look());
        assert!(look().unsettled(&second).is_empty());
        assert!(Look::at(&root.path().join("not-there"), &[], &|| false).is_err());
    }
}
