//! The projections around a UNet's transformers: SD 1 stores them as 1×1 convolutions, its successors as linear layers,
//! and some converters write either for any of them. The canonical form is the family's.

use super::place::Place;
use crate::vocab::{Base, ComponentKind};

const PROJECTIONS: [&str; 2] = [".proj_in.weight", ".proj_out.weight"];

/// The place in the family's form; where the family is not known it stays as it is in the file.
pub(super) fn formed(kind: ComponentKind, base: Base, place: Place) -> Place {
    let is_unet = matches!(kind, ComponentKind::Unet | ComponentKind::ControlNet);
    match place {
        Place::Same(name) if is_unet && is_projection(&name) => match base {
            Base::Sd15 => Place::Projection(name, Form::Convolution),
            Base::Sd21 | Base::Sdxl | Base::SdxlRefiner => Place::Projection(name, Form::Linear),
            Base::Sd3 | Base::Flux | Base::Unknown => Place::Same(name),
        },
        other => other,
    }
}

/// How a projection is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// [out, in, 1, 1].
    Convolution,
    /// [out, in].
    Linear,
}

fn is_projection(name: &str) -> bool {
    name.contains(".attentions.")
        && PROJECTIONS.iter().any(|end| name.ends_with(end))
        && !name.contains(".transformer_blocks.")
}
