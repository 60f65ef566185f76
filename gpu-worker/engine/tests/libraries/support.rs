//! Compiles a stand-in, writes its script, waits for conditions.

use std::{
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A compiled stand-in in a folder of its own: its state is not shared with other tests.
#[derive(Debug)]
pub(crate) struct Library {
    folder: TempDir,
    file: PathBuf,
    script: String,
}

impl Library {
    /// Compiles `tests/fakes/<source>` as `file`.
    pub(crate) fn compile(source: &str, file: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fakes").join(source);
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&path).arg(&source).status();
        assert!(compiled.unwrap().success(), "{} cannot be compiled", source.display());
        let library = Self { folder, file: path, script: script.to_owned() };
        library.write();
        library
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Adds lines to the script.
    pub(crate) fn say(&mut self, lines: &str) {
        self.script = format!("{lines}\n{}", self.script);
        self.write();
    }

    /// Takes the lines with this key out of the script.
    pub(crate) fn unsay(&mut self, key: &str) {
        let begins = format!("{key} ");
        self.script = self
            .script
            .lines()
            .filter(|line| !line.starts_with(&begins))
            .fold(String::new(), |all, line| all + line + "\n");
        self.write();
    }

    /// At once, because it is read all the time.
    fn write(&self) {
        let fresh = self.folder.path().join("script.new");
        fs::write(&fresh, &self.script).unwrap();
        fs::rename(fresh, format!("{}.script", self.file.display())).unwrap();
    }
}

/// Looks until `found` finds something.
pub(crate) fn until<S: Debug, T>(what: &str, look: impl Fn() -> S, found: impl Fn(&S) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if let Some(found) = found(&seen) {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come to pass; last seen: {seen:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
