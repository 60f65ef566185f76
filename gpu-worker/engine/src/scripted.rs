//! Tests over the scripted stand-in for the CUDA driver. The bindings find the library once, through the search path that
//! a process was started with: a test starts itself again with the stand-in in that path.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Names the test that was started again.
const INSIDE: &str = "MODELYARD_SCRIPTED_DRIVER";

/// The script of the stand-in that this process has loaded.
#[derive(Debug)]
pub(crate) struct Script(PathBuf);

impl Script {
    /// Replaces all of it.
    pub(crate) fn say(&self, text: &str) {
        let fresh = self.0.with_extension("new");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, &self.0).unwrap();
    }
}

/// Runs `body` in a process of its own that has the stand-in for a driver; `test` is the calling test's full name.
pub(crate) fn within(test: &str, script: &str, body: impl FnOnce(&Script)) {
    if env::var_os(INSIDE).is_some_and(|name| name == test) {
        let folder = env::var_os("LD_LIBRARY_PATH").unwrap();
        return body(&Script(Path::new(&folder).join("libcuda.so.script")));
    }
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libcuda.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fakes/cuda.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-pthread", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-lm")
        .status();
    assert!(compiled.unwrap().success(), "the stand-in cannot be compiled");
    fs::write(folder.path().join("libcuda.so.script"), script).unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, test)
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{errors}");
}
