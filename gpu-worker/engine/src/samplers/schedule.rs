//! Timesteps and sigmas of a run, from the noise schedule of training. All as diffusers computes them, in its precision.

use super::{
    SamplerError, SamplerKind,
    config::{BetaSchedule, SchedulerConfig, Spacing},
};

/// The noise levels of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// What the model is told at each step; from noisy to clean.
    pub timesteps: Vec<f32>,
    /// Noise over signal at each step, and 0 after the last one.
    pub sigmas: Vec<f32>,
    /// Signal left at each training timestep, squared (ᾱ).
    pub(super) alphas_cumprod: Vec<f32>,
}

impl Schedule {
    pub(super) fn new(
        kind: SamplerKind,
        config: &SchedulerConfig,
        steps: usize,
        karras: bool,
    ) -> Result<Self, SamplerError> {
        let limit = config.num_train_timesteps;
        let bad = SamplerError::BadSteps { sampler: kind, steps, limit };
        if steps == 0 || steps > limit {
            return Err(bad);
        }
        let alphas_cumprod = alphas_cumprod(config, kind);
        let train: Vec<f32> = alphas_cumprod.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect();
        let mut timesteps = spread(kind, config, steps);
        if timesteps.len() != steps || (kind == SamplerKind::Ddim && timesteps.iter().any(|t| *t >= limit as f64)) {
            return Err(bad);
        }
        let mut sigmas: Vec<f64> = timesteps.iter().map(|timestep| interpolate(&train, *timestep)).collect();
        if karras {
            if kind == SamplerKind::Ddim {
                return Err(SamplerError::NoKarras { sampler: kind });
            }
            // DPM++ spans all of training, Euler what its timesteps span
            let ends = if kind == SamplerKind::DpmPlusPlus2M { whole(&train) } else { (sigmas[0], sigmas[steps - 1]) };
            sigmas = karras_sigmas(ends, steps);
            timesteps = sigmas.iter().map(|sigma| timestep_of(*sigma, &train)).collect();
            if kind == SamplerKind::DpmPlusPlus2M {
                timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
            }
        }
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(0.0);
        if kind != SamplerKind::Ddim && sigmas.windows(2).any(|pair| pair[0] <= pair[1]) {
            return Err(bad);
        }
        Ok(Self { timesteps: timesteps.into_iter().map(|timestep| timestep as f32).collect(), sigmas, alphas_cumprod })
    }
}

fn whole(train: &[f32]) -> (f64, f64) {
    (f64::from(train[train.len() - 1]), f64::from(train[0]))
}

/// Betas as torch computes them in fp32: its `linspace` goes from both ends to the middle.
fn betas(config: &SchedulerConfig) -> Vec<f32> {
    if let Some(betas) = &config.trained_betas {
        return betas.clone();
    }
    let (start, end) = (config.beta_start, config.beta_end);
    match config.beta_schedule {
        BetaSchedule::Linear => linspace(start as f32, end as f32, config.num_train_timesteps),
        BetaSchedule::ScaledLinear => {
            let roots = linspace(start.sqrt() as f32, end.sqrt() as f32, config.num_train_timesteps);
            roots.into_iter().map(|root| root * root).collect()
        }
    }
}

fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count - 1) as f32;
    let at = |index: usize| {
        if index < count / 2 { start + step * index as f32 } else { end - step * (count - index - 1) as f32 }
    };
    (0..count).map(at).collect()
}

/// Half the logarithm of signal over noise where there is most noise: DPM-Solver's λ of the last training timestep.
pub(super) fn lowest_lambda(config: &SchedulerConfig) -> f64 {
    let alphas = alphas_cumprod(config, SamplerKind::DpmPlusPlus2M);
    let alpha = f64::from(alphas.last().copied().unwrap_or(1.0));
    0.5 * (alpha / (1.0 - alpha)).ln()
}

fn alphas_cumprod(config: &SchedulerConfig, kind: SamplerKind) -> Vec<f32> {
    let mut alphas = running_product(betas(config));
    if config.rescale_betas_zero_snr {
        alphas = zero_terminal_snr(&alphas);
        if let (true, Some(last)) = (kind != SamplerKind::Ddim, alphas.last_mut()) {
            // no signal at all would be an infinite sigma; diffusers takes the smallest number of half precision
            *last = 2f32.powi(-24);
        }
    }
    alphas
}

/// Algorithm 1 of arXiv 2305.08891: shifts and scales the roots so that the first stays and the last is 0. By way of
/// betas and their product once more, as diffusers does it.
fn zero_terminal_snr(alphas_cumprod: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = alphas_cumprod.iter().map(|alpha| alpha.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let squares: Vec<f32> = roots.iter().map(|root| ((root - last) * (first / (first - last))).powi(2)).collect();
    let mut before = 1.0f32;
    let betas = squares.into_iter().map(|square| 1.0 - square / std::mem::replace(&mut before, square)).collect();
    running_product(betas)
}

/// The running product of `1 - beta`, kept in double precision between the roundings, as torch's `cumprod` does.
fn running_product(betas: Vec<f32>) -> Vec<f32> {
    let mut product = 1.0f64;
    let mut next = |beta: f32| {
        product *= f64::from(1.0 - beta);
        product as f32
    };
    betas.into_iter().map(&mut next).collect()
}

/// Timesteps from noisy to clean.
fn spread(kind: SamplerKind, config: &SchedulerConfig, steps: usize) -> Vec<f64> {
    let train = config.num_train_timesteps;
    let multistep = kind == SamplerKind::DpmPlusPlus2M;
    // the multistep solver leaves out the last of one step more
    let points = if multistep { steps + 1 } else { steps };
    let skip = points - steps;
    match config.timestep_spacing.unwrap_or(kind.default_spacing()) {
        Spacing::Linspace => {
            let step = (train - 1) as f64 / (points - 1).max(1) as f64;
            let at =
                |index: usize| if points > 1 && index == points - 1 { (train - 1) as f64 } else { index as f64 * step };
            let all = (skip..points).rev().map(at);
            match kind {
                SamplerKind::Euler | SamplerKind::EulerAncestral => all.map(|t| f64::from(t as f32)).collect(),
                SamplerKind::Ddim | SamplerKind::DpmPlusPlus2M => all.map(f64::round_ties_even).collect(),
            }
        }
        Spacing::Leading => {
            let ratio = train / points;
            (skip..points).rev().map(|index| (index * ratio + config.steps_offset) as f64).collect()
        }
        Spacing::Trailing => {
            let ratio = train as f64 / steps as f64;
            let count = (-(train as f64) / -ratio).ceil() as usize;
            let delta = (train as f64 - ratio) - train as f64;
            (0..count).map(|index| (train as f64 + index as f64 * delta).round_ties_even() - 1.0).collect()
        }
    }
}

/// The value at a broken index, between its neighbours; the ends beyond them.
fn interpolate(values: &[f32], at: f64) -> f64 {
    let last = values.len() - 1;
    let low = at.floor().clamp(0.0, last as f64) as usize;
    let Some(high) = values.get(low + 1) else { return f64::from(values[last]) };
    let (low_value, high_value) = (f64::from(values[low]), f64::from(*high));
    low_value + (high_value - low_value) * (at - low as f64).max(0.0)
}

/// Equation 5 of arXiv 2206.00364 with ρ = 7.
fn karras_sigmas((max, min): (f64, f64), steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (low, high) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    let ramp = |index: usize| index as f64 / (steps - 1).max(1) as f64;
    (0..steps).map(|index| (high + ramp(index) * (low - high)).powf(RHO)).collect()
}

/// The broken timestep that has `sigma`, between training timesteps by the logarithm.
fn timestep_of(sigma: f64, train: &[f32]) -> f64 {
    let log = sigma.max(1e-10).ln();
    let below = train.partition_point(|value| f64::from(value.ln()) <= log);
    let low = below.saturating_sub(1).min(train.len() - 2);
    let (low_log, high_log) = (f64::from(train[low].ln()), f64::from(train[low + 1].ln()));
    let weight = ((low_log - log) / (low_log - high_log)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * (low + 1) as f64
}
