//! The noise schedule that checkpoints of the SD 1.x and 2.x trainer keep beside their weights.

/// Steps of the training.
pub(super) const STEPS: u64 = 1000;
/// Below it, logarithms are cut.
const SMALLEST: f64 = 1e-20;

/// One of the stored series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Series {
    Betas,
    AlphasCumprod,
    AlphasCumprodPrev,
    SqrtAlphasCumprod,
    SqrtOneMinusAlphasCumprod,
    LogOneMinusAlphasCumprod,
    SqrtRecipAlphasCumprod,
    SqrtRecipm1AlphasCumprod,
    PosteriorVariance,
    PosteriorLogVarianceClipped,
    PosteriorMeanCoef1,
    PosteriorMeanCoef2,
}

impl Series {
    /// All series with their tensors' names.
    pub(super) const ALL: [(Self, &'static str); 12] = [
        (Self::Betas, "betas"),
        (Self::AlphasCumprod, "alphas_cumprod"),
        (Self::AlphasCumprodPrev, "alphas_cumprod_prev"),
        (Self::SqrtAlphasCumprod, "sqrt_alphas_cumprod"),
        (Self::SqrtOneMinusAlphasCumprod, "sqrt_one_minus_alphas_cumprod"),
        (Self::LogOneMinusAlphasCumprod, "log_one_minus_alphas_cumprod"),
        (Self::SqrtRecipAlphasCumprod, "sqrt_recip_alphas_cumprod"),
        (Self::SqrtRecipm1AlphasCumprod, "sqrt_recipm1_alphas_cumprod"),
        (Self::PosteriorVariance, "posterior_variance"),
        (Self::PosteriorLogVarianceClipped, "posterior_log_variance_clipped"),
        (Self::PosteriorMeanCoef1, "posterior_mean_coef1"),
        (Self::PosteriorMeanCoef2, "posterior_mean_coef2"),
    ];

    /// All steps, in single precision.
    pub(super) fn values(self) -> Vec<f32> {
        let (first, last) = (0.000_85f64.sqrt(), 0.012f64.sqrt());
        let mut before = 1.0;
        let step = |number: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a thousand steps")]
            let beta = (first + (last - first) * number as f64 / (STEPS - 1) as f64).powi(2);
            let value = self.at(beta, before);
            before *= 1.0 - beta;
            #[expect(clippy::cast_possible_truncation, reason = "stored in single precision")]
            let value = value as f32;
            value
        };
        (0..STEPS).map(step).collect()
    }

    /// One step, given its beta and the product of all alphas before it.
    fn at(self, beta: f64, before: f64) -> f64 {
        let alpha = 1.0 - beta;
        let product = before * alpha;
        let variance = beta * (1.0 - before) / (1.0 - product);
        match self {
            Self::Betas => beta,
            Self::AlphasCumprod => product,
            Self::AlphasCumprodPrev => before,
            Self::SqrtAlphasCumprod => product.sqrt(),
            Self::SqrtOneMinusAlphasCumprod => (1.0 - product).sqrt(),
            Self::LogOneMinusAlphasCumprod => (1.0 - product).ln(),
            Self::SqrtRecipAlphasCumprod => (1.0 / product).sqrt(),
            Self::SqrtRecipm1AlphasCumprod => (1.0 / product - 1.0).sqrt(),
            Self::PosteriorVariance => variance,
            Self::PosteriorLogVarianceClipped => variance.max(SMALLEST).ln(),
            Self::PosteriorMeanCoef1 => beta * before.sqrt() / (1.0 - product),
            Self::PosteriorMeanCoef2 => (1.0 - before) * alpha.sqrt() / (1.0 - product),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_begins_and_ends_where_the_release_does() {
        let (products, sigmas) = (Series::AlphasCumprod.values(), Series::SqrtRecipm1AlphasCumprod.values());
        assert_eq!(products.len(), 1000);
        assert!((products[0] - 0.999_15).abs() < 1e-6 && (products[999] - 0.004_660).abs() < 1e-5);
        // the largest and smallest sigma that every sampler of these models knows
        assert!((sigmas[999] - 14.6146).abs() < 1e-3 && (sigmas[0] - 0.029_17).abs() < 1e-4);
        assert!(Series::ALL.iter().all(|(series, _)| series.values().iter().all(|value| value.is_finite())));
    }
}
