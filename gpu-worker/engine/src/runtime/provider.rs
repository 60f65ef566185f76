//! The CUDA execution provider, and the libraries that it needs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProviderDispatch, cuda::ConvAlgorithmSearch};

/// Libraries of CUDA as the packages of a Python environment hold them, each before those that need it.
const LIBRARIES: [&str; 8] = [
    "libcudart.so.",
    "libnvJitLink.so.",
    "libcublasLt.so.",
    "libcublas.so.",
    "libcurand.so.",
    "libnvrtc.so.",
    "libcufft.so.",
    "libcudnn.so.",
];

/// The CUDA provider of one device. A session that cannot have it fails: by default it would run on the CPU, silently.
///
/// It runs on a stream of its own: slabs are written and waited for before anybody is given their addresses.
pub(super) fn cuda(device: i32) -> ExecutionProviderDispatch {
    let provider = CUDA::default()
        .with_device_id(device)
        // activations must not take twice what they need beside resident weights
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // an exhaustive search runs every algorithm for each new size
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
    provider.build().error_on_failure()
}

/// Loads the libraries of CUDA that lie beside a Python package's library, where the loader would not look. What is not
/// there may be the system's; what is missing in the end is told when a session asks for the provider.
pub(super) fn preload(library: &Path) {
    for path in beside(library) {
        if let Err(error) = ort::util::preload_dylib(&path) {
            tracing::debug!(path = %path.display(), %error, "a library of CUDA could not be loaded");
        }
    }
}

/// `site-packages/nvidia/*/lib` of the `site-packages/onnxruntime/capi` in which the library is.
fn beside(library: &Path) -> Vec<PathBuf> {
    let Some(packages) = library.canonicalize().ok().and_then(|path| path.ancestors().nth(3).map(Path::to_path_buf))
    else {
        return Vec::new();
    };
    let list = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let files: Vec<PathBuf> =
        list(packages.join("nvidia")).into_iter().flat_map(|package| list(package.join("lib"))).collect();
    let named = |name: &'static str| {
        files.iter().filter(move |file| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)))
    };
    LIBRARIES.iter().flat_map(|name| named(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_cuda_beside_the_package_come_in_the_order_of_their_needs() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().canonicalize().unwrap();
        let file = |path: &str| {
            let path = packages.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let library = file("onnxruntime/capi/libonnxruntime.so.1.31.1");
        let blas = file("nvidia/cublas/lib/libcublas.so.13");
        let light = file("nvidia/cublas/lib/libcublasLt.so.13");
        let runtime = file("nvidia/cu13/lib/libcudart.so.13");
        file("nvidia/cu13/lib/libother.so.1");
        assert_eq!(beside(&library), [runtime, light, blas]);
        assert!(beside(Path::new("/nowhere/libonnxruntime.so")).is_empty());
    }
}
