//! Previews: what the latents will show, cheaply and before the end.

use serde::Serialize;

use crate::{
    error::EngineError,
    images::{ImageError, Picture},
    tensor::Tensor,
};

/// How a preview was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviewKind {
    /// A tiny autoencoder decoded the latents, at full size.
    TinyAutoencoder,
    /// Each pixel is a weighted sum of a latent's channels, at the latents' size. Colours are near, details are missing.
    Linear,
}

/// A preview of all images of a request.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Steps that are done.
    pub step: usize,
    /// How it was made.
    pub kind: PreviewKind,
    /// One picture an image.
    pub pictures: Vec<Picture>,
}

/// What red, green and blue in [-1, 1] take of each latent channel, and what is added.
struct Linear {
    weights: [[f32; 4]; 3],
    bias: [f32; 3],
}

/// Sums that fit a base's latents as a UNet sees them; none for bases without.
///
/// SD 1 and 2 share a VAE family; their numbers were fitted by users of diffusers and are in wide use. SDXL's are those of diffusers' own
/// documentation (callbacks: "latents to RGB"), which gives them for bytes.
fn linear(base: &str) -> Option<Linear> {
    match base {
        "sd15" | "sd21" => Some(Linear {
            weights: [[0.298, 0.187, -0.158, -0.184], [0.207, 0.286, 0.189, -0.271], [0.208, 0.173, 0.264, -0.473]],
            bias: [0.0; 3],
        }),
        "sdxl" | "sdxl-refiner" => Some(Linear {
            weights: [[60.0, -60.0, 25.0, -70.0], [60.0, -5.0, 15.0, -50.0], [60.0, 10.0, -5.0, -35.0]]
                .map(|row| row.map(|weight| weight / 127.5)),
            bias: [150.0, 140.0, 130.0].map(|bias| bias / 127.5 - 1.0),
        }),
        _ => None,
    }
}

/// Whether latents of `base` can be shown without a tiny autoencoder.
#[must_use]
pub fn has_linear(base: &str) -> bool {
    linear(base).is_some()
}

/// Pictures of latents `[batch, 4, h, w]` as a UNet sees them, each pixel from its latent alone.
///
/// # Errors
/// [`EngineError::Input`] for a base without such sums or latents of another shape.
pub fn linear_pictures(base: &str, latents: &Tensor) -> Result<Vec<Picture>, super::GenerateError> {
    let wrong = |found: String, expected: &str| EngineError::Input {
        name: "latents".to_owned(),
        found,
        expected: expected.to_owned(),
    };
    let sums = linear(base).ok_or_else(|| wrong(format!("latents of `{base}`"), "a base with a linear preview"))?;
    let shape = || wrong(format!("{:?}", latents.shape), "F32 [batch, 4, height, width]");
    let (&[batch, 4, height, width], Some(values)) = (latents.shape.as_slice(), latents.as_f32()) else {
        return Err(shape().into());
    };
    let area = height * width;
    if area == 0 {
        return Err(shape().into());
    }
    let mut sample = Vec::with_capacity(batch * 3 * area);
    for planes in values.chunks_exact(4 * area) {
        for (weights, bias) in sums.weights.iter().zip(sums.bias) {
            let sum = |at: usize| {
                weights.iter().enumerate().map(|(channel, weight)| weight * planes[channel * area + at]).sum::<f32>()
            };
            sample.extend((0..area).map(|at| sum(at) + bias));
        }
    }
    Picture::from_sample(&[batch, 3, height, width], &sample).map_err(|error: ImageError| error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pixel_is_a_sum_of_its_latent() {
        let latents = Tensor::f32(&[1, 4, 1, 2], vec![1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).unwrap();
        let pictures = linear_pictures("sd15", &latents).unwrap();
        let level = |value: f32| ((value / 2.0 + 0.5) * 255.0).round() as u8;
        let wanted = [0.298, 0.207, 0.208, 0.187, 0.286, 0.173].map(level);
        assert_eq!((pictures.len(), pictures[0].pixels()), (1, &wanted[..]));
        // nothing is the mean colour that the documentation gives
        let grey = linear_pictures("sdxl", &Tensor::zeros(&[2, 4, 1, 1])).unwrap();
        assert_eq!((grey.len(), grey[1].pixels()), (2, &[150, 140, 130][..]));
        assert!(
            linear_pictures("flux", &latents).is_err()
                && linear_pictures("sd15", &Tensor::zeros(&[1, 16, 2, 2])).is_err()
        );
        assert!(has_linear("sdxl") && !has_linear("sd3"));
    }
}
