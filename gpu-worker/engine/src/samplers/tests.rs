//! Held against diffusers' schedulers (`tests/reference/make_samplers.py`): schedules, and whole trajectories with a model that is a formula.

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;

#[derive(Deserialize)]
struct Golden {
    schedules: Vec<Case>,
    trajectories: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    sampler: SamplerKind,
    config: Value,
    name: String,
    steps: usize,
    karras: bool,
    timesteps: Vec<f32>,
    init_noise_sigma: f32,
    sigmas: Option<Vec<f32>>,
    #[serde(default)]
    eta: f32,
    #[serde(default)]
    pattern: Vec<f32>,
    #[serde(default)]
    start: Vec<f32>,
    #[serde(default)]
    noise: Vec<Vec<f32>>,
    #[serde(default)]
    samples: Vec<Vec<f32>>,
}

impl Case {
    fn sampler(&self) -> Sampler {
        let config = SchedulerConfig::from_json(self.config.to_string().as_bytes()).unwrap();
        Sampler::new(self.sampler, &config, self.steps, Some(self.karras)).unwrap().with_eta(self.eta)
    }

    fn title(&self) -> String {
        format!("{} of {} in {} steps, karras {}", self.sampler, self.name, self.steps, self.karras)
    }
}

fn golden() -> Golden {
    let text = include_str!("../../../../tests/reference/golden/samplers/samplers.json");
    serde_json::from_str(text).unwrap()
}

/// The largest difference, relative to `range`.
fn distance(ours: &[f32], theirs: &[f32], range: f32) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / range).fold(0.0, f32::max)
}

fn check_schedule(case: &Case) -> Sampler {
    let sampler = case.sampler();
    let title = case.title();
    assert!(distance(&sampler.schedule().timesteps, &case.timesteps, 1000.0) <= 1e-6, "{title}: timesteps");
    if let Some(sigmas) = &case.sigmas {
        for (ours, theirs) in sampler.schedule().sigmas.iter().zip(sigmas) {
            assert!((ours - theirs).abs() <= 1e-6 * theirs.max(1.0), "{title}: sigma {ours} beside {theirs}");
        }
    }
    let scale = sampler.initial_scale();
    assert!((scale - case.init_noise_sigma).abs() <= 2e-6 * scale, "{title}: {scale}");
    sampler
}

#[test]
fn schedules_are_those_of_diffusers() {
    let schedules = golden().schedules;
    assert!(schedules.len() > 80);
    for case in &schedules {
        check_schedule(case);
    }
}

#[test]
fn trajectories_are_those_of_diffusers() {
    for case in golden().trajectories {
        let mut sampler = check_schedule(&case);
        let mut sample = case.start.clone();
        for (step, wanted) in case.samples.iter().enumerate() {
            let before = sample.clone();
            let scale = sampler.input_scale(step);
            let turn = (sampler.schedule().timesteps[step] / 300.0).cos();
            let output: Vec<f32> =
                sample.iter().zip(&case.pattern).map(|(x, pattern)| 0.4 * (x * scale) + 0.6 * pattern * turn).collect();
            sampler.step(step, &mut sample, &output, case.noise.get(step).map(Vec::as_slice)).unwrap();
            // where a step ends near 0, what it started from bounds the rounding
            let range = before.iter().chain(wanted).fold(0.0f32, |max, value| max.max(value.abs()));
            let distance = distance(&sample, wanted, range);
            // from a sigma of 4096 the rounding of the first step stays visible
            let bound = if case.name == "zero-snr" { 2e-5 } else { 2e-6 };
            assert!(distance <= bound, "{}: step {step} is off by {distance}", case.title());
        }
    }
}

#[test]
fn a_config_as_releases_have_it_is_read_whatever_its_sampler() {
    let sdxl = r#"{
        "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": false, "interpolation_type": "linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false
    }"#;
    let read = SchedulerConfig::from_json(sdxl.as_bytes()).unwrap();
    let wanted = SchedulerConfig { use_karras_sigmas: Some(false), ..SchedulerConfig::of_base("sdxl").unwrap() };
    assert_eq!(read, wanted);
    let pndm = r#"{ "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
        "clip_sample": false }"#;
    let read = SchedulerConfig::from_json(pndm.as_bytes()).unwrap();
    assert_eq!(read, SchedulerConfig::of_base("sd15").unwrap());
}

#[test]
fn a_request_says_whether_levels_are_those_of_karras_and_else_the_config_does() {
    let of = |use_karras_sigmas| SchedulerConfig { use_karras_sigmas, ..SchedulerConfig::of_base("sd15").unwrap() };
    let euler = |config, asked| SamplerKind::Euler.is_karras(&of(config), asked);
    assert!(
        euler(Some(true), None) && euler(None, Some(true)) && !euler(None, None) && !euler(Some(true), Some(false))
    );
    assert!(!SamplerKind::Ddim.is_karras(&of(Some(true)), None), "a config's wish that it cannot follow");
}

#[test]
fn what_cannot_be_is_refused() {
    let config = SchedulerConfig::of_base("sd15").unwrap();
    let new = |kind, steps, karras| Sampler::new(kind, &config, steps, karras).map(|sampler| sampler.steps());
    assert!(matches!(new(SamplerKind::Euler, 0, None), Err(SamplerError::BadSteps { .. })));
    assert!(matches!(new(SamplerKind::Euler, 1001, None), Err(SamplerError::BadSteps { .. })));
    assert!(
        matches!(new(SamplerKind::Ddim, 1000, None), Err(SamplerError::BadSteps { .. })),
        "offset leaves the schedule"
    );
    assert!(matches!(new(SamplerKind::Ddim, 10, Some(true)), Err(SamplerError::NoKarras { .. })));
    assert_eq!("lms".parse::<SamplerKind>(), Err(SamplerError::UnknownSampler { name: "lms".to_owned() }));
    for text in [
        r#"{"beta_schedule": "cosine"}"#,
        r#"{"beta_end": 2}"#,
        r#"{"num_train_timesteps": 1}"#,
        "[",
        r#"{"trained_betas": [0.1]}"#,
        r#"{"clip_sample_range": -1}"#,
        r#"{"steps_offset": 18446744073709551615}"#,
        r#"{"steps_offset": 1001}"#,
    ] {
        assert!(matches!(SchedulerConfig::from_json(text.as_bytes()), Err(SamplerError::BadConfig { .. })), "{text}");
    }
    let unsupported = [
        r#"{"_class_name": "EDMEulerScheduler"}"#,
        r#"{"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}"#,
        r#"{"use_beta_sigmas": true}"#,
        r#"{"final_sigmas_type": "sigma_min"}"#,
        r#"{"sigma_min": 0.002}"#,
        r#"{"sigma_max": 700}"#,
        r#"{"lambda_min_clipped": -2}"#,
    ];
    for text in unsupported {
        assert!(matches!(SchedulerConfig::from_json(text.as_bytes()), Err(SamplerError::Unsupported { .. })), "{text}");
    }
    // lower than any noise level of this schedule, and no bound at all
    for text in [r#"{"lambda_min_clipped": -8.5, "sigma_min": null}"#, r#"{"lambda_min_clipped": "-Infinity"}"#] {
        SchedulerConfig::from_json(text.as_bytes()).unwrap();
    }
    let mut sampler = Sampler::new(SamplerKind::EulerAncestral, &config, 3, None).unwrap();
    let mut sample = [1.0; 4];
    assert!(matches!(sampler.step(0, &mut sample, &[0.0; 4], None), Err(SamplerError::NeedsNoise { .. })));
    assert!(matches!(sampler.step(1, &mut sample, &[0.0; 4], Some(&[0.0; 4])), Err(SamplerError::Order { .. })));
    assert!(matches!(sampler.step(0, &mut sample, &[0.0; 3], Some(&[0.0; 4])), Err(SamplerError::Length { .. })));
    assert_eq!(sample, [1.0; 4]);
}

proptest! {
    /// Where the model predicts the sample itself, every sampler that adds no noise ends at it.
    #[test]
    fn a_perfect_prediction_is_where_all_end(seed in 0u64..1000, steps in 2usize..40, karras in any::<bool>(), which in 0usize..3) {
        let kind = [SamplerKind::Euler, SamplerKind::Ddim, SamplerKind::DpmPlusPlus2M][which];
        let base = SchedulerConfig::of_base("sdxl").unwrap();
        let config = SchedulerConfig { prediction_type: Prediction::Sample, set_alpha_to_one: true, ..base };
        let mut sampler = Sampler::new(kind, &config, steps, Some(karras && kind != SamplerKind::Ddim)).unwrap();
        let mut noise = crate::noise::Noise::new(seed);
        let (goal, mut sample) = (noise.normal(16), noise.normal(16));
        for step in 0..steps {
            sampler.step(step, &mut sample, &goal, None).unwrap();
        }
        for (value, goal) in sample.iter().zip(&goal) {
            prop_assert!((value - goal).abs() < 1e-4, "{value} {goal}");
        }
    }
}
