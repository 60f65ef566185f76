//! Scripted stand-ins for the libraries of a GPU's vendor, so that stories about GPUs run without one. Tests only.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A compiled stand-in with its script; the files say what a script may hold.
#[derive(Debug)]
pub struct FakeLibrary {
    file: PathBuf,
    script: String,
}

impl FakeLibrary {
    /// The management library, in this folder.
    pub fn nvml(folder: &Path, script: &str) -> Self {
        Self::compile(folder, "nvml.c", "libnvidia-ml.so.1", script)
    }

    /// The CUDA driver, in this folder; `LD_LIBRARY_PATH` makes a process use it.
    pub fn cuda(folder: &Path, script: &str) -> Self {
        Self::compile(folder, "cuda.c", "libcuda.so", script)
    }

    fn compile(folder: &Path, source: &str, name: &str, script: &str) -> Self {
        fs::create_dir_all(folder).expect("a folder can be made");
        let file = folder.join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fakes").join(source);
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&file).arg(&source).arg("-lm");
        assert!(compiler.status().expect("a C compiler").success(), "{} cannot be compiled", source.display());
        let library = Self { file, script: script.to_owned() };
        library.write();
        library
    }

    /// The library's file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Puts lines in front of the script: the first line with a key counts.
    pub fn say(&mut self, lines: &str) {
        self.script = format!("{lines}\n{}", self.script);
        self.write();
    }

    /// Takes the lines with this key out of the script.
    pub fn unsay(&mut self, key: &str) {
        let begins = format!("{key} ");
        let kept: Vec<&str> = self.script.lines().filter(|line| !line.starts_with(&begins)).collect();
        self.script = kept.join("\n") + "\n";
        self.write();
    }

    /// At once: it is read at every call.
    fn write(&self) {
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, &self.script).expect("a script can be written");
        fs::rename(fresh, format!("{}.script", self.file.display())).expect("a script can be put in its place");
    }
}
