//! Models ready to run: a config, the session of its graph, and the weights that a run binds.
//!
//! A model holds its weights' memory for as long as it lives; its session is shared with every model of the same graph.

mod rows;
mod run;
mod text_encoder;
mod unet;
mod users;
pub mod vae;

pub use text_encoder::{EncodeOptions, TextEncoder, TextStates};
pub use unet::{Added, Conditions, Pair, Unet};
