//! What is measured: the components of SD 1.5 and SDXL at the sizes that people run.

use engine::measure::{Amount, Operation};

/// A case.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Folder of the model.
    pub model: String,
    /// How it is stored.
    pub dtype: &'static str,
    /// Component.
    pub kind: &'static str,
    /// What it does.
    pub operation: Operation,
    /// How much.
    pub amount: Amount,
}

/// Model, storage, component, operation, batch, pixels of a side.
type Line = (&'static str, &'static str, &'static str, Operation, usize, usize);

const CASES: [Line; 17] = [
    ("sd15", "fp32", "text_encoder", Operation::EncodeText, 2, 512),
    ("sd15", "fp16", "text_encoder", Operation::EncodeText, 2, 512),
    ("sdxl", "fp16", "text_encoder", Operation::EncodeText, 2, 512),
    ("sdxl", "fp16", "text_encoder_2", Operation::EncodeText, 2, 512),
    ("sdxl", "fp32", "text_encoder", Operation::EncodeText, 2, 512),
    ("sdxl", "fp32", "text_encoder_2", Operation::EncodeText, 2, 512),
    ("sd15", "fp32", "vae", Operation::VaeDecode, 1, 512),
    ("sdxl", "fp16", "vae", Operation::VaeDecode, 1, 512),
    ("sdxl", "fp32", "vae", Operation::VaeDecode, 1, 512),
    ("sdxl", "fp16", "vae", Operation::VaeDecode, 1, 1024),
    ("sdxl", "fp32", "vae", Operation::VaeDecode, 1, 1024),
    ("sd15", "fp32", "unet", Operation::UnetStep, 1, 512),
    ("sd15", "fp32", "unet", Operation::UnetStep, 2, 512),
    ("sd15", "fp16", "unet", Operation::UnetStep, 1, 512),
    ("sd15", "fp16", "unet", Operation::UnetStep, 2, 512),
    ("sdxl", "fp16", "unet", Operation::UnetStep, 1, 512),
    ("sdxl", "fp32", "unet", Operation::UnetStep, 1, 512),
];
/// Pixels of a side where only whether it runs is looked at.
const SMALL: usize = 64;

/// How models are named that are real or small.
pub(crate) fn scale(small: bool) -> &'static str {
    if small { "tiny" } else { "real" }
}

/// All cases; on small models with small pictures.
pub(crate) fn all(small: bool) -> Vec<Wanted> {
    let case = |(model, dtype, kind, operation, batch, side): Line| {
        let side = if small { SMALL } else { side };
        let model = format!("{dtype}/{model}-{}-diffusers", scale(small));
        Wanted { model, dtype, kind, operation, amount: Amount { batch, width: side, height: side } }
    };
    CASES.into_iter().map(case).collect()
}

impl Wanted {
    /// `sdxl-real vae_decode 512 ×1, fp16 file`.
    pub(crate) fn name(&self) -> String {
        let model = self.model.rsplit('/').next().unwrap_or_default().trim_end_matches("-diffusers");
        let (what, batch) = (self.operation.as_str(), self.amount.batch);
        let size = if self.operation.has_size() { format!(" {}", self.amount.width) } else { String::new() };
        format!("{model} {} {what}{size} ×{batch}, {} file", self.kind, self.dtype)
    }
}
