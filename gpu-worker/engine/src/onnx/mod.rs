//! Whether an ONNX Runtime library is there and usable, without ever letting a missing one panic.

mod search;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use search::{Search, find};

/// The oldest version that this build can use.
pub const OLDEST: &str = "1.24";
/// The version whose 16-bit matrix products on the CPU fall back to a scalar loop, some 80 times slower.
const SLOW_HALF: &str = "1.29.0";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnnxCapability {
    /// True when the library loads and is new enough.
    pub available: bool,
    /// The library that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The version, as the file's name says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The library's own words about its build (branch, commit), once it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Why it is not available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl OnnxCapability {
    /// Nothing was tried, for this reason.
    pub fn unknown(reason: &str) -> Self {
        Self { available: false, path: None, version: None, build: None, reason: Some(reason.to_owned()) }
    }

    /// Whether graphs that compute in 16-bit floats may run on the CPU with this version.
    pub fn half_on_cpu(&self) -> bool {
        half_on_cpu(self.version.as_deref())
    }
}

pub(crate) fn half_on_cpu(version: Option<&str>) -> bool {
    version != Some(SLOW_HALF)
}

/// The version in the name of the file itself, `libonnxruntime.so.1.32.0`, behind any links.
pub(crate) fn version_of(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let version = real.file_name()?.to_str()?.split_once(".so.")?.1.to_owned();
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

/// Tries the library at `path`. Without a path nothing is tried.
pub fn capability(path: Option<&Path>) -> OnnxCapability {
    let answer = |reason: Option<String>| OnnxCapability {
        available: reason.is_none(),
        path: path.map(Path::to_path_buf),
        version: path.and_then(version_of),
        // asking a library that is not loaded panics
        build: reason.is_none().then(|| ort::info().to_owned()),
        reason,
    };
    let Some(file) = path else {
        return answer(Some("no ONNX Runtime library is configured (--onnxruntime)".to_owned()));
    };
    // a bare name is the loader's to find
    let checked = if file.components().count() > 1 { check_file(file) } else { Ok(()) };
    if let Err(reason) = checked {
        return answer(Some(reason));
    }
    match ort::init_from(file) {
        Ok(_) => answer(None),
        Err(ort::LoadDynamicError::BadVersion { version_str, .. }) => {
            answer(Some(format!("version {version_str} is too old: {OLDEST} or later is needed")))
        }
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
