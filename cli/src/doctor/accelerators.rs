//! ONNX Runtime and the NVIDIA driver: both optional, both worth saying.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::Finding;

const LIBRARY_FOLDERS: [&str; 6] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/lib64"];

/// Where `deploy/onnxruntime` puts the library: beside the programs.
pub(crate) fn bundled_onnxruntime() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.join("onnxruntime/libonnxruntime.so")).filter(|path| path.is_file())
}

/// The ONNX Runtime library: as named, beside the programs, or of the system.
pub(super) fn onnxruntime(named: Option<&Path>) -> Finding {
    let check = "onnxruntime";
    let fix = "deploy/onnxruntime fetches it; without it everything but running ONNX models works";
    let found = named.map(Path::to_path_buf).or_else(bundled_onnxruntime).or_else(|| in_system("libonnxruntime.so"));
    match found {
        None => Finding::warn(check, "no libonnxruntime.so", fix),
        Some(path) if is_library(&path) => Finding::ok(check, path.display().to_string()),
        Some(path) => Finding::warn(check, format!("{} is not a shared library", path.display()), fix),
    }
}

/// The NVIDIA driver and its library.
pub(super) fn cuda() -> Finding {
    let check = "cuda";
    let device = Path::new("/dev/nvidiactl").exists();
    let library = in_system("libcuda.so.1");
    let version = fs::read_to_string("/proc/driver/nvidia/version").ok();
    match (device, library) {
        (true, Some(library)) => {
            let line = version.as_deref().and_then(|text| text.lines().next()).unwrap_or("driver found").to_owned();
            Finding::ok(check, format!("{}; {}", line.trim(), library.display()))
        }
        (true, None) => Finding::warn(
            check,
            "an NVIDIA device, but no libcuda.so.1",
            "install the driver's user library (libcuda1), or add the `compute` capability to the container",
        ),
        (false, Some(library)) => Finding::warn(
            check,
            format!("{}, but no /dev/nvidiactl", library.display()),
            "load the kernel module (nvidia-modprobe), or hand the device to the container",
        ),
        (false, None) => Finding::ok(check, "no NVIDIA device; the device cpu:0 does the work"),
    }
}

/// A library whose name begins like this, in the folders of the system.
fn in_system(name: &str) -> Option<PathBuf> {
    let begins = |path: &PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name));
    LIBRARY_FOLDERS
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(begins)
}

fn is_library(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_text_file_is_no_library() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        fs::write(&path, "text").unwrap();
        let finding = onnxruntime(Some(&path));
        assert_eq!(finding.level, Level::Warn);
        assert!(finding.detail.contains("is not a shared library"), "{}", finding.detail);
    }
}
