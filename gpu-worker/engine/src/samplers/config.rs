//! Scheduler settings: from diffusers' `scheduler_config.json`, or those of a base for checkpoints without one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{SamplerError, schedule::lowest_lambda};

/// What the model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    #[default]
    Epsilon,
    /// The velocity: noise and sample, turned.
    VPrediction,
    /// The sample without noise.
    #[serde(alias = "original_sample")]
    Sample,
}

/// How the steps are spread over the training timesteps (table 2 of arXiv 2305.08891).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Evenly from 0, shifted by `steps_offset`.
    Leading,
    /// Evenly from the last one down.
    Trailing,
    /// Evenly between both ends.
    Linspace,
}

/// How the noise grows over training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Linear in beta.
    Linear,
    /// Linear in the root of beta.
    ScaledLinear,
}

/// Settings of a noise schedule, with the names and defaults of diffusers; keys that are for other schedulers are left aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// Timesteps of training.
    pub num_train_timesteps: usize,
    /// Beta of the first one.
    pub beta_start: f64,
    /// Beta of the last one.
    pub beta_end: f64,
    /// How betas lie between both.
    pub beta_schedule: BetaSchedule,
    /// Betas as they are, instead of the three above.
    pub trained_betas: Option<Vec<f32>>,
    /// What the model predicts.
    pub prediction_type: Prediction,
    /// How steps are spread; each sampler has its own default (DDIM `leading`, the others `linspace`).
    pub timestep_spacing: Option<Spacing>,
    /// Added to each timestep by `leading`.
    pub steps_offset: usize,
    /// Rescales betas so that the last timestep holds no signal.
    pub rescale_betas_zero_snr: bool,
    /// DDIM: the last step goes to no noise at all instead of the first timestep's.
    pub set_alpha_to_one: bool,
    /// DDIM: clips the predicted sample.
    pub clip_sample: bool,
    /// To this range on both sides.
    pub clip_sample_range: f32,
    /// Karras sigmas, unless the request says otherwise.
    pub use_karras_sigmas: Option<bool>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            set_alpha_to_one: true,
            clip_sample: true,
            clip_sample_range: 1.0,
            use_karras_sigmas: None,
        }
    }
}

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`. Which sampler it names does not matter, as long as its noise schedule is of the kind that all
    /// samplers here share.
    ///
    /// # Errors
    /// [`SamplerError::BadConfig`] with the reader's words, [`SamplerError::Unsupported`] for a setting that would change the images
    /// and is not known here.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SamplerError> {
        let bad = |error: serde_json::Error| SamplerError::BadConfig { reason: error.to_string() };
        let whole: Map<String, Value> = serde_json::from_slice(bytes).map_err(bad)?;
        check_supported(&whole)?;
        // JSON has no infinity: what is no number bounds nothing
        let bound = whole.get("lambda_min_clipped").and_then(Value::as_f64);
        let config: Self = serde_json::from_value(Value::Object(whole)).map_err(bad)?;
        let config = config.checked()?;
        let lowest = lowest_lambda(&config);
        match bound.filter(|bound| *bound > lowest) {
            None => Ok(config),
            Some(bound) => Err(SamplerError::Unsupported {
                field: "lambda_min_clipped".to_owned(),
                found: bound.to_string(),
                expected: format!("at most {lowest}, which leaves no noise level out,"),
            }),
        }
    }

    /// The settings that the releases of a base have: `sd15`, `sd21`, `sdxl`, `sdxl-refiner`; none for bases that don't denoise so.
    ///
    /// `sd21` is the 768 pixel model, which predicts velocities; its 512 pixel sibling predicts noise and can't be told from it by
    /// names and shapes, so a request may say which prediction holds.
    #[must_use]
    pub fn of_base(base: &str) -> Option<Self> {
        let (prediction_type, timestep_spacing) = match base {
            "sd15" => (Prediction::Epsilon, None),
            "sd21" => (Prediction::VPrediction, None),
            "sdxl" | "sdxl-refiner" => (Prediction::Epsilon, Some(Spacing::Leading)),
            _ => return None,
        };
        Some(Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            prediction_type,
            timestep_spacing,
            steps_offset: 1,
            set_alpha_to_one: false,
            clip_sample: false,
            ..Self::default()
        })
    }

    fn checked(self) -> Result<Self, SamplerError> {
        let bad = |reason: String| Err(SamplerError::BadConfig { reason });
        let steps = self.num_train_timesteps;
        if !(2..=100_000).contains(&steps) {
            return bad(format!("num_train_timesteps is {steps}; 2 to 100000 are possible"));
        }
        if !(0.0 < self.beta_start && self.beta_start <= self.beta_end && self.beta_end < 1.0) {
            return bad(format!("betas from {} to {} are no noise schedule", self.beta_start, self.beta_end));
        }
        if let Some(betas) = &self.trained_betas
            && (betas.len() != steps || betas.iter().any(|beta| !(0.0 < *beta && *beta < 1.0)))
        {
            return bad(format!("trained_betas must be {steps} numbers between 0 and 1"));
        }
        if self.steps_offset > steps {
            return bad(format!(
                "steps_offset is {}; at most the {steps} training timesteps are possible",
                self.steps_offset
            ));
        }
        if self.clip_sample_range.is_nan() || self.clip_sample_range < 0.0 {
            return bad(format!(
                "clip_sample_range is {}; it bounds both sides, so it is 0 or more",
                self.clip_sample_range
            ));
        }
        Ok(self)
    }
}

/// The end of a noise schedule that a config may move for a Karras schedule, which here spans what the timesteps span.
const ENDS: [&str; 2] = ["sigma_min", "sigma_max"];

/// Schedulers of diffusers whose configs mean the same to each other (its `KarrasDiffusionSchedulers` but for EDM's).
const COMPATIBLE: [&str; 14] = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverSDEScheduler",
];

/// Settings that change the noise levels or the prediction, and the one value of each that is what happens here.
const SETTINGS: [(&str, &str); 8] = [
    ("interpolation_type", "linear"),
    ("timestep_type", "discrete"),
    ("final_sigmas_type", "zero"),
    ("thresholding", "false"),
    ("use_exponential_sigmas", "false"),
    ("use_beta_sigmas", "false"),
    ("use_lu_lambdas", "false"),
    ("use_flow_sigmas", "false"),
];

fn check_supported(config: &Map<String, Value>) -> Result<(), SamplerError> {
    let said = |key: &str| config.get(key).filter(|value| !value.is_null());
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let wrong = |field: &str, found: String, expected: String| {
        Err(SamplerError::Unsupported { field: field.to_owned(), found, expected })
    };
    if let Some(class) = said("_class_name").map(plain)
        && !COMPATIBLE.contains(&class.as_str())
    {
        return wrong("_class_name", class, COMPATIBLE.join(", "));
    }
    for field in ENDS {
        if let Some(found) = said(field) {
            return wrong(field, plain(found), "null".to_owned());
        }
    }
    for (field, expected) in SETTINGS {
        if let Some(found) = said(field).map(plain).filter(|found| found != expected) {
            return wrong(field, found, expected.to_owned());
        }
    }
    Ok(())
}
