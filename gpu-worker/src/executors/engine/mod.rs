//! Work of the engine: models loaded where they are not yet, a run on the device's runner, what it left as artifacts.

mod generate;
mod run;
mod subject;
mod text;
mod tokenize;
mod unet_step;
mod vae;

pub(super) use generate::Generation;
pub(super) use generate::run as generate;
pub(super) use run::Runs;
pub(super) use subject::Subject;
pub(super) use text::encode as encode_text;
pub(super) use tokenize::run as tokenize;
pub(super) use unet_step::run as unet_step;
pub(super) use vae::{decode as vae_decode, encode as vae_encode};
