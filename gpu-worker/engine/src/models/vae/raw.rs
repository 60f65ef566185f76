//! One half of a VAE as it is: no scaling, no cutting, values unchecked. For checks that want to see what comes.

use super::Vae;
use crate::models::users::adapted;
use crate::{error::EngineError, runtime::Control, tensor::Tensor};

impl Vae {
    /// Runs the decoder over raw latents, or the encoder over an image; none without weights for that half.
    ///
    /// # Errors
    /// Those of a session and of its run.
    pub(crate) fn raw(&self, decodes: bool, sample: &Tensor, control: &Control) -> Result<Option<Tensor>, EngineError> {
        let half = if decodes { &self.decoder } else { &self.encoder };
        let Some(emitted) = half else { return Ok(None) };
        let input = emitted.inputs.first().map(|port| port.name.as_str()).unwrap_or_default();
        let session = self.runtime.session(emitted)?;
        let run = |inputs: &[(&str, &Tensor)]| session.run_measured(&self.weights, inputs, control);
        let outcome = adapted(emitted, &[(input, sample)], run)?;
        Ok(outcome.outputs.into_iter().nth(self.output()))
    }
}
