//! What comes out of a conversion: files, their tensors, and where each tensor's bytes come from. Pure over headers.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ConvertError, Layout, Model, Precision, Tokenizer, config,
    dropped::Dropped,
    goal::{Goal, goal},
    header,
    lay_out::{Shift, dropped, folder_file, in_order, original_file, same_file},
    parts::parts,
    widened::{Widened, widened},
};
use crate::{canonical::CanonicalTensor, dtype::Dtype, inspection::FileFacts, vocab::ComponentKind};

/// Empty tensors whose names say how an SDXL model was trained.
pub(super) const MARKERS: [&str; 2] = ["v_pred", "ztsnr"];

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// How it is to be laid out.
    pub layout: Layout,
    /// The type that weights are to have.
    pub precision: Precision,
    /// That of the VAE's, where it is another one.
    pub vae_precision: Option<Precision>,
    /// Parts that keep their type all the same.
    pub kept: BTreeSet<ComponentKind>,
    /// Leave out what is no weight: averages, optimizers, schedules.
    pub prune: bool,
    /// Averaged weights of the UNet in place of its last ones.
    pub use_ema: bool,
    /// Weights are changed on the way, so that parts have to be in canonical form.
    pub changes: bool,
    /// Title of the new model.
    pub title: String,
    /// Fields for the headers beside those that the source has.
    pub metadata: BTreeMap<String, String>,
    /// CLIP's tokenizer, for encoders of its vocabulary.
    pub tokenizer: Option<Tokenizer>,
}

impl Request {
    /// The type that tensors of this part are to have; what is of no part keeps its own.
    pub(super) fn precision_of(&self, component: Option<ComponentKind>) -> Precision {
        match component {
            None => Precision::Keep,
            Some(kind) if self.kept.contains(&kind) => Precision::Keep,
            Some(ComponentKind::Vae) => self.vae_precision.unwrap_or(self.precision),
            Some(_) => self.precision,
        }
    }
}

/// A tensor that comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutTensor {
    /// Name.
    pub name: String,
    /// Type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<u64>,
    /// The part that it is of.
    pub component: Option<ComponentKind>,
    /// What it is made of, row after row, as stored; `file` of their pieces indexes [`Plan::sources`].
    pub from: Vec<CanonicalTensor>,
    /// The only one of them is a matrix, of which this is the transpose.
    pub is_transposed: bool,
}

impl OutTensor {
    /// Bytes of its elements.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let elements = self.shape.iter().fold(1_u64, |product, side| product.saturating_mul(*side));
        elements.saturating_mul(self.dtype.bits()) / 8
    }
}

/// A file of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutFile {
    /// Path below the folder; empty for a model of one file.
    pub path: String,
    /// Tensors in the order of their bytes.
    pub tensors: Vec<OutTensor>,
    /// Its header's fields.
    pub metadata: BTreeMap<String, String>,
}

/// A small file that goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Path below the folder.
    pub path: String,
    /// Its content; none for a copy.
    pub text: Vec<u8>,
    /// The file that it is a copy of.
    pub copy_of: Option<FileFacts>,
}

/// Everything that comes out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Files of tensors.
    pub files: Vec<OutFile>,
    /// Small files of a folder.
    pub documents: Vec<Document>,
    /// Files that bytes come from.
    pub sources: Vec<FileFacts>,
    /// What is left out.
    pub dropped: Vec<Dropped>,
    /// What has a wider type than what it is made of.
    pub widened: Vec<Widened>,
    /// Parts of a folder that could not be made: tokenizers of vocabularies that are not at hand.
    pub missing: Vec<String>,
    /// The layout that was chosen.
    pub layout: Layout,
}

impl Plan {
    /// Plans a conversion of `model`, its VAE replaced by that of `vae`.
    ///
    /// # Errors
    /// [`ConvertError`], before anything is read but headers.
    pub fn new(model: &Model, vae: Option<&Model>, request: &Request) -> Result<Self, ConvertError> {
        let parts = parts(model, vae, request.use_ema)?;
        let goal = goal(model, &parts, vae.is_some(), request)?;
        let offset = model.inspection.files.len();
        let shifted = Shift { offset };
        let mut files = match goal {
            Goal::SameFile => vec![same_file(model, &parts, request, &shifted)?],
            Goal::Original { alone } => vec![original_file(model, &parts, alone, request, &shifted)?],
            Goal::SameFolder | Goal::Folder | Goal::PartFolder => {
                let raw = goal == Goal::SameFolder;
                let file = |part| folder_file(part, goal == Goal::PartFolder, raw, request, &shifted);
                parts.iter().map(file).collect::<Result<_, _>>()?
            }
        };
        let (mut documents, missing) = match goal {
            Goal::SameFile | Goal::Original { .. } => (Vec::new(), Vec::new()),
            Goal::SameFolder => (config::copied(model), Vec::new()),
            Goal::Folder | Goal::PartFolder => config::documents(model, vae, &parts, request, goal)?,
        };
        if !matches!(goal, Goal::SameFile | Goal::Original { .. }) {
            documents.push(config::note(request));
        }
        for file in &mut files {
            in_order(&mut file.tensors);
        }
        header::describe(&mut files, model, goal, request);
        let sources =
            model.inspection.files.iter().chain(vae.into_iter().flat_map(|vae| &vae.inspection.files)).cloned();
        let dropped = dropped(model, &parts, goal, request);
        let widened = widened(&files, request);
        Ok(Self { files, documents, sources: sources.collect(), dropped, widened, missing, layout: goal.layout() })
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let tensors = self.files.iter().flat_map(|file| &file.tensors);
        tensors.map(OutTensor::bytes).fold(0, u64::saturating_add)
    }

    /// Bytes that are read for it.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        let pieces = self.files.iter().flat_map(|file| &file.tensors).flat_map(|tensor| &tensor.from);
        let pieces = pieces.flat_map(|from| &from.pieces);
        pieces.map(|piece| piece.end.saturating_sub(piece.begin)).fold(0, u64::saturating_add)
    }

    /// Whether it is one file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.files.as_slice(), [only] if only.path.is_empty())
    }

    /// Equal for plans that give the same bytes from the same files, for the same changes and by the same job.
    #[must_use]
    pub fn key(&self, changes: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("convert 1\n{changes}\n{:?}\n{:?}\n", self.sources, self.documents).as_bytes());
        self.files.iter().for_each(|file| {
            hasher.update(format!("{file:?}\n").as_bytes());
        });
        hasher.finalize().to_hex().to_string()
    }
}
