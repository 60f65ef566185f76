//! Whether an ONNX Runtime library is there and usable, without ever letting a missing one panic.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnnxCapability {
    /// True when the library loads and is new enough.
    pub available: bool,
    /// The library that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The library's own words about its build (branch, commit), once it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Why it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Tries the library at `path`. Without a path nothing is tried.
pub fn capability(path: Option<&Path>) -> OnnxCapability {
    let answer = |reason: Option<String>| OnnxCapability {
        available: reason.is_none(),
        path: path.map(Path::to_path_buf),
        // asking a library that is not loaded panics
        build: reason.is_none().then(|| ort::info().to_owned()),
        reason,
    };
    let Some(file) = path else {
        return answer(Some("no ONNX Runtime library is configured (--onnxruntime)".to_owned()));
    };
    if let Err(reason) = check_file(file) {
        return answer(Some(reason));
    }
    match ort::init_from(file) {
        Ok(_) => answer(None),
        Err(error) => answer(Some(error.to_string())),
    }
}

/// The loader's own words for a wrong file are few, so the usual mistakes are named here.
fn check_file(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let mut header = [0u8; 20];
    let mut file = File::open(path).map_err(|error| format!("`{shown}` cannot be opened: {error}"))?;
    file.read_exact(&mut header).map_err(|_| format!("`{shown}` is no shared library"))?;
    if !header.starts_with(b"\x7fELF") {
        return Err(format!("`{shown}` is no shared library"));
    }
    let machine = u16::from_le_bytes([header[18], header[19]]);
    let wanted = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    if machine != wanted {
        return Err(format!("`{shown}` is built for another processor (ELF machine {machine}, this one is {wanted})"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_file_is_named() {
        assert!(!capability(None).available);
        let missing = capability(Some(Path::new("/nowhere/libonnxruntime.so")));
        assert!(missing.reason.unwrap().contains("cannot be opened"));
        let text = capability(Some(Path::new("/proc/self/status")));
        assert!(text.reason.unwrap().contains("no shared library"));
    }
}
