//! What a request makes: outputs with their files, nothing written.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{
    arch::Weights,
    checkpoint,
    options::{Arch, Dtype, Layout, Precision, Scale},
    parts,
    write::TensorFile,
};

/// How models are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) scale: Scale,
    pub(super) layout: Layout,
    pub(super) precision: Precision,
    pub(super) seed: u64,
    /// Number of the fine-tune: other values in a checkpoint's UNet, everything else as in 0.
    pub(super) fine_tune: u32,
}

impl Request {
    /// `sdxl-tiny`, `sdxl-tiny-ft3`: the name without its ending.
    pub(super) fn stem(&self, arch: Arch) -> String {
        let plain = format!("{}-{}", arch.name(), self.scale.name());
        if self.fine_tune == 0 { plain } else { format!("{plain}-ft{}", self.fine_tune) }
    }

    /// Names the values of a checkpoint's UNet.
    pub(super) fn unet_key(&self, arch: Arch) -> String {
        let plain = format!("{}/unet", arch.name());
        if self.fine_tune == 0 { plain } else { format!("{plain}-ft{}", self.fine_tune) }
    }

    /// Element type of the weights.
    pub(super) const fn dtype(&self) -> Dtype {
        self.precision.dtype()
    }

    pub(super) const fn wants_single(&self) -> bool {
        matches!(self.layout, Layout::Single | Layout::Both)
    }

    pub(super) const fn wants_diffusers(&self) -> bool {
        matches!(self.layout, Layout::Diffusers | Layout::Both)
    }
}

/// What is in a file.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Tensors(TensorFile),
    Text(String),
}

/// A file below an output.
#[derive(Debug, Clone)]
pub(super) struct PlannedFile {
    /// Below the output folder; of a single file, its name.
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

/// One model: a file or a folder.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) arch: Arch,
    /// The file's or the folder's name.
    pub(super) name: PathBuf,
    pub(super) is_folder: bool,
    pub(super) files: Vec<PlannedFile>,
}

impl Output {
    /// All tensor files.
    pub(super) fn tensor_files(&self) -> impl Iterator<Item = &TensorFile> {
        self.files.iter().filter_map(|file| match &file.content {
            Content::Tensors(file) => Some(file),
            Content::Text(_) => None,
        })
    }

    /// Bytes of the tensor files with their headers.
    pub(super) fn bytes(&self) -> anyhow::Result<u64> {
        self.tensor_files().map(TensorFile::bytes).sum()
    }

    /// Tensors of all files.
    pub(super) fn tensors(&self) -> usize {
        self.tensor_files().map(|file| file.tensors.len()).sum()
    }
}

/// A folder that is being put together.
#[derive(Debug, Default)]
pub(super) struct FolderPlan {
    files: Vec<PlannedFile>,
}

impl FolderPlan {
    /// Adds a JSON file.
    pub(super) fn json(&mut self, path: impl Into<PathBuf>, value: &Value) -> anyhow::Result<()> {
        self.text(path, serde_json::to_string_pretty(value)? + "\n");
        Ok(())
    }

    /// Adds a text file.
    pub(super) fn text(&mut self, path: impl Into<PathBuf>, text: String) {
        self.files.push(PlannedFile { path: path.into(), content: Content::Text(text) });
    }

    /// Adds weights with their diffusers names.
    pub(super) fn weights(&mut self, path: impl Into<PathBuf>, weights: &Weights, dtype: Dtype) {
        let format = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = TensorFile::new(weights.in_diffusers("", dtype), format);
        self.files.push(PlannedFile { path: path.into(), content: Content::Tensors(file) });
    }

    /// The whole folder.
    pub(super) fn output(self, arch: Arch, request: &Request) -> Output {
        let name = format!("{}-diffusers", request.stem(arch)).into();
        Output { arch, name, is_folder: true, files: self.files }
    }
}

/// A single file as an output.
pub(super) fn single(arch: Arch, request: &Request, file: TensorFile) -> Output {
    let name = PathBuf::from(format!("{}.safetensors", request.stem(arch)));
    let files = vec![PlannedFile { path: name.clone(), content: Content::Tensors(file) }];
    Output { arch, name, is_folder: false, files }
}

/// Everything that `arch` makes.
pub(super) fn plan(arch: Arch, request: &Request) -> anyhow::Result<Vec<Output>> {
    if arch.is_checkpoint() { checkpoint::plan(arch, request) } else { parts::plan(arch, request) }
}
