//! What a `benchmark` job is asked to measure, and when it has measured enough.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::engine::{self, Fault, LoraUse, Role, TakingPart, VaeSettings};
use crate::ids::{BenchmarkId, ModelId};

/// Smallest and largest side of an image that is measured, in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 64..=4096;
/// Sides are multiples of this: one latent pixel.
const SIDE_STEP: u32 = 8;
/// Largest batch.
const BATCH: u32 = 64;
/// Most sizes times batches.
const CASES: usize = 32;

/// Width and height of an image in pixels, written `512x768`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageSize {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('x').map(|(width, height)| (width.parse().ok(), height.parse().ok()));
        match parts {
            Some((Some(width), Some(height))) => Ok(Self { width, height }),
            _ => Err(format!("`{text}` is not a size: write WIDTHxHEIGHT in pixels, as in `512x768`")),
        }
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl Serialize for ImageSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What a result is compared with: `last`, the newest of the same model and device, or the id of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The newest before it of the same model and device that measured the same kind of thing: of the same steps, and all of the
    /// components, sizes and batches where there is one, else some of the components.
    Last,
    /// This one.
    Of(BenchmarkId),
}

impl FromStr for Baseline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "last" {
            return Ok(Self::Last);
        }
        text.parse().map(Self::Of).map_err(|_| format!("`{text}` is neither `last` nor the id of a benchmark"))
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::Of(id) => id.fmt(f),
        }
    }
}

impl Serialize for Baseline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Baseline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// When a case was run often enough: the medians of the last windows differ by no more than the spread, or a limit is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BenchmarkLimits {
    /// Runs after the first one that do not count.
    pub warmup_runs: u32,
    /// Runs of a window.
    pub window_runs: u32,
    /// So many windows are looked at.
    pub windows: u32,
    /// Their medians differ by no more than so many percent of the smallest.
    pub spread_percent: u32,
    /// Runs of a case at most, the first and the warm-up not counted.
    pub max_runs: u32,
    /// Seconds of a case at most; one that is running is finished.
    pub max_seconds: u32,
}

impl Default for BenchmarkLimits {
    fn default() -> Self {
        Self { warmup_runs: 1, window_runs: 5, windows: 3, spread_percent: 5, max_runs: 200, max_seconds: 60 }
    }
}

/// Arguments of `benchmark`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkArgs<M = ModelId> {
    /// The model; left out where `pipeline` is given.
    #[schema(required = false)]
    pub model: M,
    /// Kinds of components to measure (`unet`, `vae`, …); all that can be run when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// Whole generations instead of components: from a prompt to an image, in so many steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_steps: Option<u32>,
    /// Batches of each size.
    #[serde(default = "one")]
    pub batches: Vec<u32>,
    /// Sizes of images; what needs none is measured once for each batch.
    #[serde(default = "square")]
    #[schema(value_type = Vec<String>, example = json!(["512x768"]))]
    pub sizes: Vec<ImageSize>,
    /// Also measures loads from disk with an empty page cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
    /// How often loads are measured; 0 leaves them out.
    #[serde(default = "thrice")]
    pub loads: u32,
    /// When enough was measured.
    #[serde(default)]
    pub limits: BenchmarkLimits,
    /// What the result is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "last")]
    pub baseline: Option<Baseline>,
    /// A median is better or worse when it differs by more than so many percent.
    #[serde(default = "five")]
    pub bound_percent: u32,
    /// Another model whose VAE takes the place of its own.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub vae: Option<M>,
    /// How the VAE runs.
    #[serde(default, skip_serializing_if = "VaeSettings::is_default")]
    pub vae_settings: VaeSettings,
    /// Other models whose text encoder takes the place of the one of this kind (`text_encoder`, `text_encoder_2`).
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub text_encoders: BTreeMap<String, M>,
    /// A stack of LoRAs that the model is changed by for this; their order makes no difference.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<M>>,
    /// Name of the pipeline that said which models; in a request in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
}

/// `Option<M>::default` without the bound that serde would put on `M`.
fn none<M>() -> Option<M> {
    None
}

fn one() -> Vec<u32> {
    vec![1]
}

fn square() -> Vec<ImageSize> {
    vec![ImageSize { width: 512, height: 512 }]
}

fn thrice() -> u32 {
    3
}

fn five() -> u32 {
    5
}

impl<M> BenchmarkArgs<M> {
    /// A benchmark of everything of a model that can be run, as configured by default.
    pub fn of(model: M) -> Self {
        Self {
            model,
            components: None,
            pipeline_steps: None,
            batches: one(),
            sizes: square(),
            cold: false,
            loads: thrice(),
            limits: BenchmarkLimits::default(),
            baseline: None,
            bound_percent: five(),
            vae: None,
            vae_settings: VaeSettings::default(),
            text_encoders: BTreeMap::new(),
            loras: Vec::new(),
            pipeline: None,
        }
    }

    /// The models that take part beside the one that is measured.
    pub fn other_models(&self) -> Vec<TakingPart<'_, M>> {
        let vae = self.vae.iter().map(|vae| ("/vae".into(), vae, Role::VaeDecoder));
        vae.chain(engine::parts(&self.text_encoders, &self.loras)).collect()
    }

    /// The same with every model named otherwise: the one that is measured, then [`BenchmarkArgs::other_models`] in order.
    ///
    /// # Errors
    /// The first of `name`.
    pub fn try_with_models<N, E>(self, mut name: impl FnMut(M) -> Result<N, E>) -> Result<BenchmarkArgs<N>, E> {
        Ok(BenchmarkArgs {
            model: name(self.model)?,
            components: self.components,
            pipeline_steps: self.pipeline_steps,
            batches: self.batches,
            sizes: self.sizes,
            cold: self.cold,
            loads: self.loads,
            limits: self.limits,
            baseline: self.baseline,
            bound_percent: self.bound_percent,
            vae: self.vae.map(&mut name).transpose()?,
            vae_settings: self.vae_settings,
            text_encoders: engine::name_encoders(self.text_encoders, &mut name)?,
            loras: engine::name_loras(self.loras, &mut name)?,
            pipeline: self.pipeline,
        })
    }

    /// What cannot be measured: the field, and what is wrong with it.
    ///
    /// # Errors
    /// The first field that is out of its bounds.
    pub fn check(&self) -> Result<(), Fault> {
        let limits = &self.limits;
        let within = |field: &str, value: u32, range: std::ops::RangeInclusive<u32>| {
            if range.contains(&value) {
                return Ok(());
            }
            Err(fault(field, format!("`{value}` is not within {} to {}", range.start(), range.end())))
        };
        self.batches.iter().try_for_each(|batch| within("/batches", *batch, 1..=BATCH))?;
        self.sizes.iter().try_for_each(|size| check_size(*size))?;
        let cases = self.batches.len().saturating_mul(self.sizes.len());
        if cases == 0 || cases > CASES {
            return Err(fault("/sizes", format!("{cases} batches and sizes together: 1 to {CASES}")));
        }
        if self.pipeline_steps.is_some() && self.components.is_some() {
            return Err(fault("/components", "a whole pipeline and single components are two benchmarks".to_owned()));
        }
        self.pipeline_steps.map_or(Ok(()), |steps| within("/pipeline_steps", steps, 1..=200))?;
        within("/loads", self.loads, 0..=20)?;
        within("/bound_percent", self.bound_percent, 1..=1000)?;
        within("/limits/warmup_runs", limits.warmup_runs, 0..=100)?;
        within("/limits/window_runs", limits.window_runs, 1..=100)?;
        within("/limits/windows", limits.windows, 2..=20)?;
        within("/limits/spread_percent", limits.spread_percent, 1..=100)?;
        within("/limits/max_runs", limits.max_runs, 1..=10_000)?;
        within("/limits/max_seconds", limits.max_seconds, 1..=3600)?;
        self.vae_settings.faults("/vae_settings").into_iter().next().map_or(Ok(()), Err)?;
        engine::stack_faults(&self.text_encoders, &self.loras).into_iter().next().map_or(Ok(()), Err)
    }
}

fn fault(field: &str, detail: String) -> Fault {
    Fault { pointer: field.to_owned(), detail }
}

fn check_size(size: ImageSize) -> Result<(), Fault> {
    let fits = |side: u32| SIDES.contains(&side) && side.is_multiple_of(SIDE_STEP);
    if fits(size.width) && fits(size.height) {
        return Ok(());
    }
    let bounds = format!("multiples of {SIDE_STEP} from {} to {}", SIDES.start(), SIDES.end());
    Err(fault("/sizes", format!("`{size}`: sides are {bounds}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_default_and_the_stored_form_round_trips() {
        let model = ModelId::generate();
        let args: BenchmarkArgs = serde_json::from_value(serde_json::json!({ "model": model })).unwrap();
        assert_eq!(args, BenchmarkArgs::of(model));
        assert_eq!(args.check(), Ok(()));
        let text =
            r#"{"sizes": ["512x768", "64x64"], "batches": [1, 2], "baseline": "last", "limits": {"max_runs": 7}}"#;
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["model"] = serde_json::json!(model);
        let args: BenchmarkArgs = serde_json::from_value(value).unwrap();
        assert_eq!(args.sizes[0], ImageSize { width: 512, height: 768 });
        assert_eq!((args.limits.max_runs, args.limits.windows), (7, 3));
        assert_eq!(serde_json::from_value::<BenchmarkArgs>(serde_json::to_value(&args).unwrap()).unwrap(), args);
    }

    #[test]
    fn the_field_that_cannot_be_measured_is_named() {
        let field = |change: fn(&mut BenchmarkArgs)| {
            let mut args = BenchmarkArgs::of(ModelId::generate());
            change(&mut args);
            args.check().unwrap_err().pointer
        };
        assert_eq!(field(|args| args.batches = vec![0]), "/batches");
        assert_eq!(field(|args| args.batches.clear()), "/sizes");
        assert_eq!(field(|args| args.sizes = vec![ImageSize { width: 513, height: 512 }]), "/sizes");
        assert_eq!(field(|args| args.limits.windows = 1), "/limits/windows");
        assert_eq!(field(|args| args.loads = 21), "/loads");
        let both: fn(&mut BenchmarkArgs) = |args| {
            args.components = Some(vec!["vae".into()]);
            args.pipeline_steps = Some(4);
        };
        assert_eq!(field(both), "/components");
        for text in ["", "512", "512x", "x512", "512x512x3", "-1x8"] {
            assert!(text.parse::<ImageSize>().is_err(), "{text}");
        }
        assert!("newest".parse::<Baseline>().is_err());
    }
}
