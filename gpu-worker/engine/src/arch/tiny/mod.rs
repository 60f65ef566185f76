//! AutoencoderTiny (TAESD and its relatives): a small decoder for previews and an encoder to match.

mod config;
mod graphs;

pub use config::Config;
pub use graphs::{decoder, encoder};
