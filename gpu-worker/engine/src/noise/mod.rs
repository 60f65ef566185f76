//! Noise as torch's CPU generator makes it, so that a seed gives the latents that users of diffusers know.
//!
//! `torch.randn(…, generator=torch.Generator().manual_seed(seed))` in fp32: a Mersenne Twister; from 16 values on uniforms of 24 bits,
//! turned in blocks of 16 by Box and Muller; below that pairs in double precision with the second of a pair kept for the next draw.
//! Uniforms are equal to the bit. Values differ from torch's by the rounding of its vectorised logarithm, sine and cosine: below
//! 1e-6, tested to 2e-6. A half precision pipeline draws other numbers in torch; these are those of fp32.

mod twister;

use std::f64::consts::TAU;

use self::twister::Twister;

/// Values below which torch takes the double precision path.
const BLOCK: usize = 16;

/// A seeded generator; every draw goes on where the last one ended.
#[derive(Debug, Clone)]
pub struct Noise {
    twister: Twister,
    kept: Option<f64>,
}

impl Noise {
    /// A generator with `seed`; as in torch, only its lower 32 bits count.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // the cast drops the upper half on purpose
        Self { twister: Twister::new(seed as u32), kept: None }
    }

    /// The next `count` values of the standard normal distribution.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.single() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !count.is_multiple_of(BLOCK) {
            // the last block is drawn again, over the end of the one before
            let tail: Vec<f32> = (0..BLOCK).map(|_| self.uniform()).collect();
            let last = &mut values[count - BLOCK..];
            last.copy_from_slice(&tail);
            box_muller(last);
        }
        values
    }

    /// Uniform in [0, 1) with 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.twister.next() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// Uniform in [0, 1) with 53 bits.
    fn uniform_double(&mut self) -> f64 {
        let (high, low) = (u64::from(self.twister.next()), u64::from(self.twister.next()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / 9_007_199_254_740_992.0
    }

    fn single(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let (turn, depth) = (self.uniform_double(), self.uniform_double());
        let (radius, angle) = ((-2.0 * (-depth).ln_1p()).sqrt(), TAU * turn);
        self.kept = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Turns 16 uniforms into 16 normal values: the first eight give radii, the others angles.
fn box_muller(block: &mut [f32]) {
    let (left, right) = block.split_at_mut(BLOCK / 2);
    for (first, second) in left.iter_mut().zip(right) {
        let radius = (-2.0 * (1.0 - *first).ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * *second).sin_cos();
        (*first, *second) = (radius * cos, radius * sin);
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
        large: Large,
    }

    #[derive(Deserialize)]
    struct Case {
        seed: u64,
        draws: Vec<Vec<f32>>,
    }

    #[derive(Deserialize)]
    struct Large {
        seed: u64,
        size: usize,
        first: Vec<f32>,
        last: Vec<f32>,
        every_1000th: Vec<f32>,
    }

    fn golden() -> Golden {
        let text = include_str!("../../../../tests/reference/golden/samplers/noise.json");
        serde_json::from_str(text).unwrap()
    }

    #[track_caller]
    fn assert_near(ours: &[f32], torch: &[f32]) {
        assert_eq!(ours.len(), torch.len());
        for (ours, torch) in ours.iter().zip(torch) {
            assert!((ours - torch).abs() <= 2e-6, "{ours} beside {torch}");
        }
    }

    #[test]
    fn draws_of_every_size_follow_torch() {
        for case in golden().cases {
            let mut noise = Noise::new(case.seed);
            for draw in &case.draws {
                assert_near(&noise.normal(draw.len()), draw);
            }
        }
    }

    #[test]
    fn latents_follow_torch() {
        let large = golden().large;
        let values = Noise::new(large.seed).normal(large.size);
        assert_near(&values[..8], &large.first);
        assert_near(&values[large.size - 8..], &large.last);
        let sparse: Vec<f32> = values.iter().step_by(1000).copied().collect();
        assert_near(&sparse, &large.every_1000th);
    }
}
