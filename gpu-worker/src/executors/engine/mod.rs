//! Work of the engine: models loaded where they are not yet, a run on the device's runner, what it left as artifacts.

mod draft;
mod ensemble;
mod generate;
mod preview;
mod run;
mod site;
mod stack;
mod subject;
mod text;
mod tokenize;
mod unet_step;
mod vae;
mod widths;

pub(super) use draft::{Draft, Extras};
pub(super) use ensemble::Ensemble;
pub(super) use generate::run as generate;
pub(super) use generate::{Generation, vae_of};
pub(super) use run::Runs;
pub(super) use site::Site;
pub(super) use subject::Subject;
pub(super) use text::encode as encode_text;
pub(super) use tokenize::run as tokenize;
pub(super) use unet_step::run as unet_step;
pub(super) use vae::{decode as vae_decode, encode as vae_encode};
