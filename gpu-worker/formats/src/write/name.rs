//! Giving what was written its goal's name, without taking it from what somebody else has put there.

use std::path::Path;

use rustix::{
    fs::{AtFlags, RenameFlags},
    io::Errno,
};

use super::{Place, WriteError};

/// What is at a goal before anything is written for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Free,
    /// What an earlier job wrote, which may be replaced.
    Replaceable,
    /// This job's own work, of an attempt that was interrupted after it.
    Done,
}

/// The job that wrote what is at a path; none where it was no such job.
pub(crate) type WriterOf<'r> = &'r dyn Fn(&Path) -> Option<String>;

impl Place {
    /// What is there, and whether it may be written over.
    ///
    /// # Errors
    /// [`WriteError::Exists`], [`WriteError::NotOurs`].
    pub(crate) fn standing(
        &self,
        job: Option<&str>,
        overwrite: bool,
        writer_of: WriterOf<'_>,
    ) -> Result<Standing, WriteError> {
        if self.status()?.is_none() {
            return Ok(Standing::Free);
        }
        match writer(&self.path(), writer_of) {
            writer @ Some(_) if writer.as_deref() == job => Ok(Standing::Done),
            _ if !overwrite => Err(WriteError::Exists { path: self.path() }),
            Some(_) => Ok(Standing::Replaceable),
            None => Err(WriteError::NotOurs { path: self.path() }),
        }
    }

    /// Gives what has the name `made` in the folder that of the goal. What it replaces, or another link to it, has the name `made` from then
    /// on, and the caller removes it.
    ///
    /// # Errors
    /// [`WriteError::Exists`] and [`WriteError::NotOurs`] where somebody else has taken the name since the goal was looked at.
    pub(super) fn take(&self, made: &str, standing: Standing, writer_of: WriterOf<'_>) -> Result<(), WriteError> {
        // it was long ago: what has come meanwhile to a name that was free is not what the job was allowed to replace
        if standing == Standing::Free || self.standing(None, true, writer_of)? == Standing::Free {
            return self.take_free(made);
        }
        match self.rename(made, RenameFlags::EXCHANGE) {
            Ok(()) if writer(&self.folder_path.join(made), writer_of).is_some() => Ok(()),
            // between the look and the renaming
            Ok(()) => Err(self.put_back(made)),
            Err(Errno::NOENT) => self.take_free(made),
            // file systems that exchange nothing: a moment ago it was ours
            Err(Errno::INVAL | Errno::NOSYS) => self.replace(made),
            Err(errno) => Err(self.failed("naming it", errno.into())),
        }
    }

    /// The same where nothing has the goal's name.
    fn take_free(&self, made: &str) -> Result<(), WriteError> {
        let exists = || WriteError::Exists { path: self.path() };
        match self.rename(made, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(exists()),
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(errno) => return Err(self.failed("naming it", errno.into())),
        }
        // file systems without this kind of renaming have links, of files, which do not replace either
        match rustix::fs::linkat(&self.folder, made, &self.folder, &self.name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(exists()),
            Err(_) if self.status()?.is_some() => Err(exists()),
            Err(_) => self.replace(made),
        }
    }

    /// Gives back the name to what was there; why nothing was replaced.
    fn put_back(&self, made: &str) -> WriteError {
        let back = self.rename(made, RenameFlags::EXCHANGE).or_else(|_| self.rename(made, RenameFlags::NOREPLACE));
        match back {
            Ok(()) => WriteError::NotOurs { path: self.path() },
            Err(errno) => {
                let now = self.folder_path.join(made);
                WriteError::Displaced { path: self.path(), now, source: errno.into() }
            }
        }
    }

    fn replace(&self, made: &str) -> Result<(), WriteError> {
        let renamed = rustix::fs::renameat(&self.folder, made, &self.folder, &self.name);
        renamed.map_err(|errno| self.failed("naming it", errno.into()))
    }

    fn rename(&self, made: &str, flags: RenameFlags) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.folder, made, &self.folder, &self.name, flags)
    }
}

/// The job that wrote what is at this path; none of what is no file or folder.
fn writer(path: &Path, writer_of: WriterOf<'_>) -> Option<String> {
    let there = std::fs::symlink_metadata(path).ok()?;
    (there.is_file() || there.is_dir()).then(|| writer_of(path)).flatten()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs};

    use tempfile::TempDir;

    use super::*;

    /// What is ours begins so.
    fn writer_of(path: &Path) -> Option<String> {
        fs::read_to_string(path).ok()?.strip_prefix("job ").map(str::to_owned)
    }

    fn place() -> (TempDir, Place) {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("made"), "job new").unwrap();
        let place = Place::open(dir.path(), "goal").unwrap();
        (dir, place)
    }

    #[test]
    fn what_was_free_is_taken_only_while_it_is_and_what_is_ours_is_replaced() {
        let (dir, place) = place();
        fs::write(place.path(), "job old").unwrap();
        let free = place.take("made", Standing::Free, &writer_of);
        assert!(matches!(free, Err(WriteError::Exists { .. })), "{free:?}");
        assert_eq!(fs::read_to_string(place.path()).unwrap(), "job old");
        place.take("made", Standing::Replaceable, &writer_of).unwrap();
        assert_eq!(fs::read_to_string(place.path()).unwrap(), "job new");
        assert_eq!(fs::read_to_string(dir.path().join("made")).unwrap(), "job old", "for the caller to remove");
        // gone since it was looked at
        fs::remove_file(place.path()).unwrap();
        place.take("made", Standing::Replaceable, &writer_of).unwrap();
        assert_eq!(fs::read_to_string(place.path()).unwrap(), "job old");
    }

    #[test]
    fn what_somebody_put_there_meanwhile_stays() {
        let (dir, place) = place();
        fs::write(place.path(), "theirs").unwrap();
        let refused = place.take("made", Standing::Replaceable, &writer_of);
        assert!(matches!(refused, Err(WriteError::NotOurs { .. })), "{refused:?}");

        // in the moment between the look and the renaming
        fs::write(place.path(), "job old").unwrap();
        let looks = Cell::new(0);
        let late = |path: &Path| {
            let found = writer_of(path);
            if looks.replace(looks.get() + 1) == 0 {
                fs::write(place.path(), "theirs").unwrap();
            }
            found
        };
        let refused = place.take("made", Standing::Replaceable, &late);
        assert!(matches!(refused, Err(WriteError::NotOurs { .. })), "{refused:?}");
        assert_eq!(looks.get(), 2);
        assert_eq!(fs::read_to_string(place.path()).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(dir.path().join("made")).unwrap(), "job new");
    }
}
