//! Which layout is meant, and whether such a model goes into it.

use super::{ConvertError, Layout, Model, Request, parts::Part};
use crate::vocab::{Base, ComponentKind, Format, ModelType};

/// What is to come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// One file, names as they are.
    SameFile,
    /// A pipeline's folder, names as they are.
    SameFolder,
    /// One file under original names; of a part `alone`.
    Original {
        /// A part without a model around it.
        alone: bool,
    },
    /// A pipeline's folder.
    Folder,
    /// The folder of one part.
    PartFolder,
}

impl Goal {
    pub(super) const fn layout(self) -> Layout {
        match self {
            Self::SameFile | Self::SameFolder => Layout::Same,
            Self::Original { .. } => Layout::SingleFile,
            Self::Folder | Self::PartFolder => Layout::Diffusers,
        }
    }
}

/// Chooses it. Parts that change, or come from elsewhere, need canonical form: `same` then means the layout of the source.
pub(super) fn goal(model: &Model, parts: &[Part], other_vae: bool, request: &Request) -> Result<Goal, ConvertError> {
    let is_folder = model.inspection.format == Format::Diffusers;
    let is_known = matches!(model.inspection.base, Base::Sd15 | Base::Sd21 | Base::Sdxl | Base::SdxlRefiner);
    let layout = match request.layout {
        // such a folder has canonical names already, and its index must not name what does not come along
        Layout::Same if is_folder && is_known => Layout::Diffusers,
        Layout::Same if !(other_vae || request.changes) => {
            return Ok(if is_folder { Goal::SameFolder } else { Goal::SameFile });
        }
        Layout::Same if is_folder => Layout::Diffusers,
        Layout::Same => Layout::SingleFile,
        other => other,
    };
    let name = if layout == Layout::Diffusers { "diffusers" } else { "single_file" };
    let refuse = |why: String| Err(ConvertError::Layout { layout: name, why });
    if layout == Layout::Diffusers && !request.prune {
        return refuse("a folder has no place for what is no weight".to_owned());
    }
    let alone = match model.inspection.model_type {
        ModelType::Checkpoint => false,
        ModelType::Unet | ModelType::Vae | ModelType::TextEncoder => true,
        other => return refuse(format!("only checkpoints, UNets, VAEs and text encoders are, and this is `{other}`")),
    };
    let base = model.inspection.base;
    let only = parts.first().map(|part| part.kind);
    if !(is_known || alone && is_shared(only)) {
        return refuse(format!("only SD 1.5, SD 2.1, SDXL and its refiner are, and this is `{base}`"));
    }
    for part in parts {
        known_part(part.kind).map_or_else(|| refuse(format!("it has a `{}`", part.kind)), |()| Ok(Goal::Folder))?;
    }
    must_have(parts, base, alone, layout, name)?;
    Ok(match (layout, alone) {
        (Layout::Diffusers, false) => Goal::Folder,
        (Layout::Diffusers, true) => Goal::PartFolder,
        (_, alone) => Goal::Original { alone },
    })
}

/// Parts that are the same in several families, so that a lone one does not tell its own.
const fn is_shared(kind: Option<ComponentKind>) -> bool {
    matches!(kind, Some(ComponentKind::Vae | ComponentKind::TextEncoder | ComponentKind::TextEncoder2))
}

const fn known_part(kind: ComponentKind) -> Option<()> {
    use ComponentKind as K;
    if matches!(kind, K::Unet | K::Vae | K::TextEncoder | K::TextEncoder2) { Some(()) } else { None }
}

/// A pipeline's folder is loaded as a whole; a single file may lack a part, and is then loaded beside another.
fn must_have(parts: &[Part], base: Base, alone: bool, layout: Layout, name: &'static str) -> Result<(), ConvertError> {
    use ComponentKind as K;
    let wanted: &[K] = match (alone, layout, base) {
        (true, ..) => return if parts.is_empty() { Err(nothing(name)) } else { Ok(()) },
        (_, Layout::SingleFile | Layout::Same, _) => &[K::Unet],
        (_, _, Base::Sdxl) => &[K::Unet, K::Vae, K::TextEncoder, K::TextEncoder2],
        (_, _, Base::SdxlRefiner) => &[K::Unet, K::Vae, K::TextEncoder2],
        _ => &[K::Unet, K::Vae, K::TextEncoder],
    };
    let missing = wanted.iter().find(|kind| !parts.iter().any(|part| part.kind == **kind));
    missing.map_or(Ok(()), |kind| Err(ConvertError::NoPart { component: *kind, layout: name }))
}

fn nothing(layout: &'static str) -> ConvertError {
    ConvertError::Layout { layout, why: "it has no loadable component".to_owned() }
}
