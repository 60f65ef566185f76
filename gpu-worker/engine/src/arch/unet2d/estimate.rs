//! How much memory a run takes beside the weights, before it runs.

use super::config::{Config, Level, Middle};

/// Bytes of an element: everything is computed in 32-bit floats.
const ELEMENT: u64 = 4;
/// Values as large as a level's pixels that a resnet holds at once, beside its input: normed, activated, convolved.
const RESNET: u64 = 4;
/// The same for a transformer: residual, normed, query, key, value, attended, and the gated layer's eightfold width with
/// its halves and their product.
const TRANSFORMER: u64 = 20;

impl Config {
    /// An upper estimate of the bytes that a run takes for its values: the skip connections that wait, and the largest
    /// module with what it holds at once. Weights that are stored in 16 bits are converted one by one, which is in it.
    #[must_use]
    pub fn run_bytes(&self, batch: usize, height: usize, width: usize, tokens: usize) -> u64 {
        let mut pixels = product(&[batch, height, width]);
        let first = size(self.first_channels());
        let (mut waiting, mut peak, mut sides) = (pixels.saturating_mul(first), 0_u64, Vec::new());
        for (number, level) in self.levels.iter().enumerate() {
            sides.push(pixels);
            let here = pixels.saturating_mul(size(level.channels));
            waiting = waiting.saturating_add(here.saturating_mul(size(level.layers)));
            peak = peak.max(waiting.saturating_add(self.working(level, &level.down, pixels, level.channels)));
            if number.saturating_add(1) < self.levels.len() {
                pixels = pixels.div_ceil(4);
                waiting = waiting.saturating_add(pixels.saturating_mul(size(level.channels)));
            }
        }
        for (level, pixels) in self.levels.iter().zip(sides).rev() {
            // on the way up a resnet takes its input and a skip connection together
            let inputs = self.levels.iter().map(|level| level.channels).max().unwrap_or_default();
            let inputs = inputs.min(level.channels.saturating_mul(2)).saturating_add(level.channels);
            peak = peak.max(waiting.saturating_add(self.working(level, &level.up, pixels, inputs)));
            let done = pixels.saturating_mul(size(level.channels)).saturating_mul(size(level.layers));
            waiting = waiting.saturating_sub(done);
        }
        let text = product(&[batch, tokens]).saturating_mul(size(self.context));
        peak.saturating_add(text).saturating_mul(ELEMENT).saturating_add(self.largest_matrix())
    }

    fn working(&self, level: &Level, depths: &[usize], pixels: u64, inputs: usize) -> u64 {
        let attends = depths.iter().any(|depth| *depth > 0) || matches!(self.middle, Middle::Attention { .. });
        let transformer = if attends { TRANSFORMER } else { 0 };
        let resnet = size(inputs).saturating_add(size(level.channels)).saturating_mul(RESNET);
        pixels.saturating_mul(resnet.max(size(level.channels).saturating_mul(transformer)))
    }

    /// Two of the largest weights as 32-bit floats: one converted, one in use.
    fn largest_matrix(&self) -> u64 {
        let widest = self.levels.iter().map(|level| size(level.channels)).max().unwrap_or_default();
        // a resnet's convolution over twice the width has 18 times its square, the gated layer 8 times
        widest.saturating_mul(widest).saturating_mul(18).saturating_mul(ELEMENT).saturating_mul(2)
    }
}

fn size(side: usize) -> u64 {
    u64::try_from(side).unwrap_or(u64::MAX)
}

fn product(sides: &[usize]) -> u64 {
    sides.iter().fold(1, |product, side| product.saturating_mul(size(*side)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_grows_with_batch_and_sides_and_never_overflows() {
        let config = Config::from_json(&json!({})).unwrap();
        let small = config.run_bytes(1, 64, 64, 77);
        assert!(config.run_bytes(2, 64, 64, 77) > small && config.run_bytes(1, 64, 128, 77) > small);
        assert_eq!(config.run_bytes(usize::MAX, usize::MAX, 2, 77), u64::MAX);
    }
}
