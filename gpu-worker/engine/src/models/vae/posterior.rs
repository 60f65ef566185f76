//! What an encoder's moments become: their mean, or a sample of the distribution that they describe.

use super::images::Planes;
use crate::{error::EngineError, tensor::Tensor};

/// Logarithms of variances outside are drawn to these.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// Which latents are wanted.
#[derive(Debug, Clone, Copy)]
pub enum Posterior<'n> {
    /// The most likely ones.
    Mode,
    /// A sample, from noise of the latents' shape.
    Sample(&'n Tensor),
}

impl Posterior<'_> {
    /// Latents from moments: the first half of the channels is the mean, the second the logarithm of the variance.
    pub(super) fn latents(self, moments: &Planes) -> Result<Planes, EngineError> {
        let channels = moments.channels / 2;
        let (mean, logarithms) = (moments.channel_range(0, channels), moments.channel_range(channels, channels));
        let Self::Sample(noise) = self else { return Ok(mean) };
        let noise = Planes::of(noise, "noise")?;
        if noise.shape() != mean.shape() {
            return Err(EngineError::Input {
                name: "noise".to_owned(),
                found: format!("{:?}", noise.shape()),
                expected: format!("{:?}", mean.shape()),
            });
        }
        let mut latents = mean;
        for ((value, logarithm), noise) in latents.data.iter_mut().zip(&logarithms.data).zip(&noise.data) {
            *value += (0.5 * logarithm.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)).exp() * noise;
        }
        Ok(latents)
    }
}
