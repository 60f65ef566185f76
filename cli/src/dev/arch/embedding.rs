//! Textual inversions.

use super::{Place, Stored, Weights};
use crate::dev::{
    options::Scale,
    sizes::{EMBEDDING_VECTORS, clip_g, clip_l},
    values::Fill,
};

/// The word under which diffusers stores the vectors.
pub(in crate::dev) const TOKEN: &str = "<modelyard>";

/// For one encoder.
pub(in crate::dev) fn embedding_sd15(key: &str, scale: Scale) -> Weights {
    let mut weights = Weights::new(key);
    let shape = [EMBEDDING_VECTORS, clip_l(scale).width];
    weights.push(Place::root().at(TOKEN, "emb_params"), &shape, Stored::Same, Fill::EMBEDDING);
    weights
}

/// For both encoders of SDXL.
pub(in crate::dev) fn embedding_sdxl(key: &str, scale: Scale) -> Weights {
    let mut weights = Weights::new(key);
    for (name, width) in [("clip_l", clip_l(scale).width), ("clip_g", clip_g(scale).width)] {
        weights.push(Place::root().both(name), &[EMBEDDING_VECTORS, width], Stored::Same, Fill::EMBEDDING);
    }
    weights
}
