//! The largest value of a run, which its memory is estimated from before it runs.

use super::config::{Config, Level};

/// Bytes of an element: everything is computed in 32-bit floats.
const ELEMENT: u64 = 4;
/// The gated layer of a transformer block is so many times as wide as its level.
const GATED: u64 = 8;

impl Config {
    /// Bytes of the largest value of a run over `batch` samples of `height` × `width` latents with `tokens` of text. With
    /// `is_converted`, matrices are converted in memory and the largest of them counts as well.
    #[must_use]
    pub fn largest_bytes(&self, batch: usize, height: usize, width: usize, tokens: usize, is_converted: bool) -> u64 {
        let (mut pixels, mut largest) = (product(&[batch, height, width]), 0_u64);
        for level in &self.levels {
            largest = largest.max(pixels.saturating_mul(self.widest(level)));
            pixels = pixels.div_ceil(4);
        }
        let text = product(&[batch, tokens]).saturating_mul(size(self.context));
        let weight = if is_converted { self.largest_weight() } else { 0 };
        largest.max(text).max(weight).saturating_mul(ELEMENT)
    }

    /// Bytes of the largest matrix of attention, where it is spread out: every pixel of a level by every other, for each head.
    #[must_use]
    pub fn spread_bytes(&self, batch: usize, height: usize, width: usize) -> u64 {
        let (mut pixels, mut largest) = (product(&[height, width]), 0_u64);
        for level in &self.levels {
            if level.down.iter().chain(&level.up).any(|depth| *depth > 0) {
                let heads = product(&[batch, level.heads]);
                largest = largest.max(pixels.saturating_mul(pixels).saturating_mul(heads));
            }
            pixels = pixels.div_ceil(4);
        }
        largest.saturating_mul(ELEMENT)
    }

    /// Channels of a level's widest value: a resnet's input on the way up, or the gated layer.
    fn widest(&self, level: &Level) -> u64 {
        let attends = level.down.iter().chain(&level.up).any(|depth| *depth > 0);
        let gated = if attends { GATED } else { 0 };
        let widest = self.levels.iter().map(|level| level.channels).max().unwrap_or_default();
        let joined = size(level.channels).saturating_add(size(widest.min(level.channels.saturating_mul(2))));
        joined.max(size(level.channels).saturating_mul(gated))
    }

    /// Elements of the largest weight: the first convolution of a resnet over two joined values.
    fn largest_weight(&self) -> u64 {
        let widest = self.levels.iter().map(|level| size(level.channels)).max().unwrap_or_default();
        widest.saturating_mul(widest).saturating_mul(2 * 9)
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
        let bytes = |batch, height, width| config.largest_bytes(batch, height, width, 77, false);
        // the gated layer of the first level
        assert_eq!(bytes(2, 64, 64), 2 * 64 * 64 * 320 * 8 * 4);
        assert!(bytes(1, 64, 128) > bytes(1, 64, 64));
        assert_eq!(bytes(usize::MAX, usize::MAX, 2), u64::MAX);
        assert_eq!(config.largest_bytes(1, 8, 8, 77, true), 1280 * 2560 * 9 * 4);
        assert_eq!(config.spread_bytes(2, 64, 64), 2 * 8 * 4096 * 4096 * 4);
        assert_eq!(config.spread_bytes(usize::MAX, usize::MAX, 2), u64::MAX);
    }
}
