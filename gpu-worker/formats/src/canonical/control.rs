//! ControlNets in the original naming: a UNet's encoder, the network that reads the hint, and the convolutions that hand
//! the results on.

use super::{Naming, place::Place, unet::Ldm};
use crate::{inspection::TensorFacts, vocab::Base};

/// Layers of the hint's network have even numbers: the odd ones are activations.
const HINT: &str = "input_hint_block.";
/// Number of its last layer.
const HINT_OUT: u64 = 14;
const ZERO: &str = "zero_convs.";

/// The original naming.
#[derive(Debug)]
pub(super) struct Original(Ldm);

impl Original {
    pub(super) fn new(base: Base, names: &[&str]) -> Self {
        Self(Ldm::new(base, names))
    }
}

impl Naming for Original {
    fn place(&self, name: &str, tensor: &TensorFacts) -> Option<Place> {
        if let Some(rest) = name.strip_prefix(HINT) {
            let (number, leaf) = rest.split_once('.')?;
            return hint(number.parse().ok()?)
                .map(|part| Place::Same(format!("controlnet_cond_embedding.{part}.{leaf}")));
        }
        if let Some(rest) = name.strip_prefix(ZERO) {
            let (number, leaf) = rest.split_once(".0.")?;
            return Some(Place::Same(format!("controlnet_down_blocks.{number}.{leaf}")));
        }
        if let Some(leaf) = name.strip_prefix("middle_block_out.0.") {
            return Some(Place::Same(format!("controlnet_mid_block.{leaf}")));
        }
        // what newer kinds of ControlNets add keeps its name
        self.0.place(name, tensor).or_else(|| Some(Place::same(name)))
    }
}

fn hint(number: u64) -> Option<String> {
    match number {
        0 => Some("conv_in".to_owned()),
        HINT_OUT => Some("conv_out".to_owned()),
        number if number.is_multiple_of(2) => Some(format!("blocks.{}", (number / 2).checked_sub(1)?)),
        _ => None,
    }
}
