//! Where an ONNX Runtime library may be, in the order in which the places are tried.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{OnnxCapability, capability};

/// The name under which the loader knows it.
const LOADER_NAME: &str = "libonnxruntime.so.1";

/// Where to look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// The library that somebody named. Then no other one is tried: a wrong name must not end in another version.
    pub named: Option<PathBuf>,
    /// A Python environment (its folder) with the package `onnxruntime` or `onnxruntime-gpu`.
    pub python: Option<PathBuf>,
}

impl Search {
    /// The candidates, first choice first, for a program in `program_folder`.
    #[must_use]
    pub fn candidates(&self, program_folder: Option<&Path>) -> Vec<PathBuf> {
        if let Some(named) = &self.named {
            return vec![named.clone()];
        }
        let beside = program_folder.into_iter().flat_map(|folder| {
            let folders = [folder.join("onnxruntime"), folder.join("../lib"), folder.join("../lib/onnxruntime")];
            folders.into_iter().flat_map(|folder| libraries(&folder))
        });
        let python = self.python.iter().flat_map(|environment| site_packages(environment));
        let python = python.flat_map(|packages| libraries(&packages.join("onnxruntime/capi")));
        beside.chain(python).chain([PathBuf::from(LOADER_NAME)]).collect()
    }
}

/// The first usable library; when there is none, why each candidate is none.
pub fn find(search: &Search) -> OnnxCapability {
    let program = std::env::current_exe().ok();
    let candidates = search.candidates(program.as_deref().and_then(Path::parent));
    let mut reasons = Vec::new();
    for candidate in &candidates {
        let found = capability(Some(candidate));
        match found.reason {
            None => return found,
            Some(reason) => reasons.push(format!("{}: {reason}", candidate.display())),
        }
    }
    let (path, version) = (search.named.clone(), None);
    OnnxCapability { available: false, path, version, build: None, reason: Some(reasons.join("; ")) }
}

/// Library files in a folder, the plain name before those with a version.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_library = |path: &PathBuf| {
        let name = name(path);
        name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_library).collect();
    found.sort_by_key(|path| (name(path).len(), name(path)));
    found.truncate(1);
    found
}

/// `lib/python3.12/site-packages` of a Python environment, whatever its version.
fn site_packages(environment: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(environment.join("lib")).into_iter().flatten().filter_map(Result::ok);
    let is_python = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_python).collect();
    found.sort();
    found.into_iter().map(|python| python.join("site-packages")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn a_named_library_is_the_only_candidate() {
        let search = Search { named: Some("/x/lib.so".into()), python: Some("/venv".into()) };
        assert_eq!(search.candidates(Some(Path::new("/bin"))), [PathBuf::from("/x/lib.so")]);
    }

    #[test]
    fn the_programs_own_folder_comes_before_python_and_the_loader() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        touch(&at("bin/onnxruntime/libonnxruntime.so.1.32.0"));
        touch(&at("bin/onnxruntime/libonnxruntime.so"));
        touch(&at("bin/onnxruntime/libonnxruntime_providers_shared.so"));
        touch(&at("venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1"));
        let search = Search { named: None, python: Some(at("venv")) };
        let expected = [
            at("bin/onnxruntime/libonnxruntime.so"),
            at("venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1"),
            PathBuf::from(LOADER_NAME),
        ];
        assert_eq!(search.candidates(Some(&at("bin"))), expected);
    }

    #[test]
    fn what_was_tried_is_told_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libonnxruntime.so.1.29.0");
        fs::write(&file, "a text that is longer than the header of a library").unwrap();
        let found = find(&Search { named: Some(file.clone()), python: None });
        assert!(!found.available);
        assert!(found.reason.unwrap().contains("no shared library"));
        let named = capability(Some(&file));
        assert_eq!(named.version.as_deref(), Some("1.29.0"));
        assert!(!named.half_on_cpu());
    }
}
