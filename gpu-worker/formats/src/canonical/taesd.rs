//! The tiny preview autoencoder: layers numbered from the clamp in its decoder's own files, from the first
//! convolution in diffusers.

use super::{Naming, place::Place};
use crate::inspection::TensorFacts;

/// Where the names are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Both halves in one file.
    Bundle,
    /// The encoder's own file.
    Encoder,
    /// The decoder's own file.
    Decoder,
}

/// The naming, if the names are those of a tiny autoencoder in an original layout.
pub(super) fn naming(names: &[&str]) -> Option<Box<dyn Naming>> {
    let is_bundle = names.iter().any(|name| name.starts_with("taesd_encoder.") || name.starts_with("taesd_decoder."));
    let has = |wanted: &str| names.contains(&wanted);
    let layout = match () {
        () if is_bundle => Layout::Bundle,
        // the encoder begins with its convolution, the decoder with a clamp that has no weights
        () if has("0.weight") && has("1.conv.0.weight") => Layout::Encoder,
        () if has("1.weight") && has("3.conv.0.weight") => Layout::Decoder,
        () => return None,
    };
    Some(Box::new(layout))
}

impl Naming for Layout {
    fn place(&self, name: &str, _: &TensorFacts) -> Option<Place> {
        if matches!(name, "vae_scale" | "vae_shift") {
            return Some(Place::Ignored);
        }
        let (layout, rest) = match (self, name.split_once('.')?) {
            (Self::Bundle, ("taesd_encoder", rest)) => (Self::Encoder, rest),
            (Self::Bundle, ("taesd_decoder", rest)) => (Self::Decoder, rest),
            (Self::Bundle, _) => return None,
            (alone, _) => (*alone, name),
        };
        let (number, rest) = rest.split_once('.')?;
        let number: u64 = number.parse().ok()?;
        Some(Place::Same(match layout {
            Self::Decoder => format!("decoder.layers.{}.{rest}", number.checked_sub(1)?),
            Self::Encoder | Self::Bundle => format!("encoder.layers.{number}.{rest}"),
        }))
    }
}
