//! The result of an inspection: facts about files, tensors, components and how they were told.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    correction::Correction,
    dtype::Dtype,
    error::FormatError,
    text::{storable, storable_json},
    vocab::{Base, ComponentKind, Format, ModelType},
};

/// Most tensors of a file: twenty times what the largest model that is split over no files has. Bounds time and memory for a hostile header.
pub(crate) const MAX_TENSORS: usize = 200_000;

/// A file as it was when its header was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Absolute path.
    pub path: PathBuf,
    /// Path below the model's own path; empty for a single file.
    pub rel_path: String,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Inode.
    pub inode: u64,
    /// Device number of the file system.
    pub dev: u64,
}

/// A tensor and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorFacts {
    /// Name as in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Index into [`Inspection::files`].
    pub file: usize,
    /// First byte, as an absolute offset in the file.
    pub begin: u64,
    /// One past the last byte that belongs to it, as an absolute offset in the file.
    pub end: u64,
    /// Elements from one index to the next in each dimension; none when row-major without gaps.
    pub strides: Option<Vec<u64>>,
}

impl TensorFacts {
    /// Bytes of data, of a tensor with strides those of its elements without gaps.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.strides {
            Some(_) => self.elements().saturating_mul(self.dtype.bits()) / 8,
            None => self.end.saturating_sub(self.begin),
        }
    }

    /// Number of elements. Saturates, though the reader has already refused shapes that overflow.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, dim| product.saturating_mul(*dim))
    }
}

/// A part of a model that can be loaded on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Which part; each kind occurs at most once in a model.
    pub kind: ComponentKind,
    /// Its tensors.
    pub tensors: Vec<TensorFacts>,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Elements of its tensors.
    pub param_count: u64,
    /// Dtype of its weights, or `mixed`.
    pub dtype: String,
}

impl Component {
    /// Everything but its tensors.
    #[must_use]
    pub fn summary(&self) -> ComponentSummary {
        ComponentSummary {
            kind: self.kind,
            tensors: self.tensors.len(),
            bytes: self.bytes,
            param_count: self.param_count,
            dtype: self.dtype.clone(),
        }
    }
}

/// A component without its tensors, as a list of models shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentSummary {
    /// Which part.
    pub kind: ComponentKind,
    /// How many tensors it has.
    pub tensors: usize,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Elements of its tensors.
    pub param_count: u64,
    /// Dtype of its weights, or `mixed`.
    pub dtype: String,
}

/// One observation that led to the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    /// The rule's name.
    pub rule: &'static str,
    /// The key, file or setting it matched.
    pub matched: String,
    /// What was there: a shape, a number, a text.
    pub value: Value,
}

impl Evidence {
    /// An observation; text from files is made safe to store.
    pub(crate) fn new(rule: &'static str, matched: impl AsRef<str>, value: impl Into<Value>) -> Self {
        Self { rule, matched: storable(matched.as_ref()), value: storable_json(value.into()) }
    }
}

/// Everything known about a model without reading its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection<C = Component> {
    /// Display name from the path.
    pub name: String,
    /// What it is; as the correction says, where there is one.
    pub model_type: ModelType,
    /// Its family; as the correction says, where there is one.
    pub base: Base,
    /// What its content shows it to be, where a correction says otherwise.
    pub corrected: Option<(ModelType, Base)>,
    /// How it is stored.
    pub format: Format,
    /// `fp16`, `bf16`, `fp32`, … or `mixed`.
    pub variant: Option<String>,
    /// `epsilon`, `v_prediction`, `flow`, … where knowable.
    pub prediction: Option<String>,
    /// Why something is unknown, missing or not loadable.
    pub reason: Option<String>,
    /// How the answer was reached.
    pub evidence: Vec<Evidence>,
    /// The file's own metadata (or the configs of a folder) and, under `facts`, what was observed.
    pub metadata: Map<String, Value>,
    /// The files.
    pub files: Vec<FileFacts>,
    /// The loadable components.
    pub components: Vec<C>,
    /// Bytes on disk.
    pub size_bytes: u64,
}

/// An inspection that keeps no tensors: enough to list a model, not to load it.
pub type Listing = Inspection<ComponentSummary>;

impl Inspection {
    /// A component's `config.json`, of folders. One of a lone component is kept under the type that its files show, whatever the component is called.
    #[must_use]
    pub fn config(&self, kind: &str) -> Option<&Value> {
        let configs = self.metadata.get("configs")?.as_object()?;
        let is_lone = self.format == Format::Component && configs.len() == 1;
        let is_alone = is_lone && matches!(self.components.as_slice(), [only] if only.kind.as_str() == kind);
        configs.get(kind).or_else(|| configs.values().next().filter(|_| is_alone))
    }

    /// The same without the tensors.
    #[must_use]
    pub fn listing(self) -> Listing {
        let components = self.components.iter().map(Component::summary).collect();
        Inspection {
            name: self.name,
            model_type: self.model_type,
            base: self.base,
            corrected: self.corrected,
            format: self.format,
            variant: self.variant,
            prediction: self.prediction,
            reason: self.reason,
            evidence: self.evidence,
            metadata: self.metadata,
            files: self.files,
            components,
            size_bytes: self.size_bytes,
        }
    }
}

impl<C> Inspection<C> {
    /// Whether it says of something that it could not be read now, while all else could: it says otherwise once that passes, though no file changed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        crate::diffusers::variants::is_passing(self)
    }

    /// What its content shows it to be, whatever a correction says.
    #[must_use]
    pub fn detected(&self) -> (ModelType, Base) {
        self.corrected.unwrap_or((self.model_type, self.base))
    }

    /// Its content was refused: why, for people and for who judges it.
    pub(crate) fn refuse(&mut self, error: &FormatError) {
        self.evidence.push(Evidence::new("file.refused", error.code(), self.format.as_str()));
        self.reason = Some(error.full_text());
    }

    /// Puts the corrected answer in place of the detected one.
    pub(crate) fn correct(&mut self, correction: &Correction) {
        let detected = (self.model_type, self.base);
        let said = correction.of(detected.0, detected.1);
        self.corrected = (said != detected).then_some(detected);
        (self.model_type, self.base) = said;
    }
}
