//! Samplers: how many steps lead from noise to a sample, at which noise levels, and what each step does with a prediction.
//!
//! Pure: a step takes the sample, the model's output and, where it adds some, noise; it knows neither models nor shapes. Schedules and
//! steps equal those of diffusers' `EulerDiscreteScheduler`, `EulerAncestralDiscreteScheduler`, `DDIMScheduler` and
//! `DPMSolverMultistepScheduler` (`dpmsolver++`, second order, midpoint).

mod config;
mod error;
mod schedule;
mod step;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::{
    config::{BetaSchedule, Prediction, SchedulerConfig, Spacing},
    error::SamplerError,
    schedule::Schedule,
};

/// The samplers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum SamplerKind {
    /// Euler's method on the probability flow.
    #[default]
    #[serde(rename = "euler")]
    Euler,
    /// Euler with fresh noise at every step.
    #[serde(rename = "euler_ancestral")]
    EulerAncestral,
    /// DDIM, deterministic unless `eta` is above 0.
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++ of second order over two predictions.
    #[serde(rename = "dpmpp_2m")]
    DpmPlusPlus2M,
}

impl SamplerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Euler, Self::EulerAncestral, Self::Ddim, Self::DpmPlusPlus2M];

    /// Its name in requests and in the metadata of images.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::EulerAncestral => "euler_ancestral",
            Self::Ddim => "ddim",
            Self::DpmPlusPlus2M => "dpmpp_2m",
        }
    }

    /// Whether its noise levels are those of Karras et al.: as a request says, and without a word there as the config does.
    #[must_use]
    pub fn is_karras(self, config: &SchedulerConfig, asked: Option<bool>) -> bool {
        // a config's wish is of no concern to a sampler that cannot follow it; a request's is
        asked.unwrap_or(config.use_karras_sigmas.unwrap_or(false) && self != Self::Ddim)
    }

    /// How it spreads steps where the config does not say.
    fn default_spacing(self) -> Spacing {
        if self == Self::Ddim { Spacing::Leading } else { Spacing::Linspace }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = SamplerError;

    fn from_str(name: &str) -> Result<Self, SamplerError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| SamplerError::UnknownSampler { name: name.to_owned() })
    }
}

/// A run of one sampler: its noise levels, the step that is next, and what it remembers.
#[derive(Debug, Clone)]
pub struct Sampler {
    kind: SamplerKind,
    config: SchedulerConfig,
    schedule: Schedule,
    eta: f32,
    next: usize,
    /// The prediction of the step before, for the multistep solver.
    before: Option<Vec<f32>>,
}

impl Sampler {
    /// A run of `steps` steps. `karras` as the request has it; without a word there the config's.
    ///
    /// # Errors
    /// [`SamplerError`] when the schedule cannot have so many steps, or the sampler takes no Karras schedule.
    pub fn new(
        kind: SamplerKind,
        config: &SchedulerConfig,
        steps: usize,
        karras: Option<bool>,
    ) -> Result<Self, SamplerError> {
        let schedule = Schedule::new(kind, config, steps, kind.is_karras(config, karras))?;
        Ok(Self { kind, config: config.clone(), schedule, eta: 0.0, next: 0, before: None })
    }

    /// DDIM with noise at every step: 0 none, 1 as DDPM. No effect on others.
    #[must_use]
    pub fn with_eta(mut self, eta: f32) -> Self {
        self.eta = eta;
        self
    }

    /// How many steps the run has.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.schedule.timesteps.len()
    }

    /// Its noise levels.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Whether [`Self::step`] needs noise.
    #[must_use]
    pub fn needs_noise(&self) -> bool {
        self.kind == SamplerKind::EulerAncestral || (self.kind == SamplerKind::Ddim && self.eta > 0.0)
    }

    /// What standard normal noise is multiplied with to be the first sample.
    #[must_use]
    pub fn initial_scale(&self) -> f32 {
        let spacing = self.config.timestep_spacing.unwrap_or(self.kind.default_spacing());
        let max = self.schedule.sigmas.iter().copied().fold(0.0, f32::max);
        match self.kind {
            SamplerKind::Ddim | SamplerKind::DpmPlusPlus2M => 1.0,
            _ if spacing == Spacing::Leading => (max * max + 1.0).sqrt(),
            _ => max,
        }
    }

    /// What the sample is multiplied with before the model sees it at `step`.
    #[must_use]
    pub fn input_scale(&self, step: usize) -> f32 {
        match (self.kind, self.schedule.sigmas.get(step)) {
            (SamplerKind::Euler | SamplerKind::EulerAncestral, Some(sigma)) => 1.0 / (sigma * sigma + 1.0).sqrt(),
            _ => 1.0,
        }
    }
}
