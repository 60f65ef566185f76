//! What is known of models beyond their bytes, per kind of component: configs, tokenizers, the VAE for a family.

pub mod lora;
pub mod metrics;
pub mod parts;
pub mod tokenizer;
pub mod vae;
pub mod variants;
