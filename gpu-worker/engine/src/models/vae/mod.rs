//! A VAE in use: images to latents and back, in slices and tiles where memory asks for it.

mod geometry;
mod images;
mod plan;
mod posterior;
mod raw;
mod settings;
mod tiling;

use std::sync::Arc;

pub use geometry::Architecture;
pub use plan::Plan;
pub use posterior::Posterior;
pub use settings::{Tiling, VaeSettings};

use self::images::Planes;
use super::{
    run::{compute_type, run_learning},
    users::vae::Half,
};
use crate::{
    error::EngineError,
    forward::Component,
    graph::{Emitted, Provider, UserGraph},
    images::SIDE_LIMIT,
    runtime::{Control, Part, Runtime},
    statistics::check_finite,
    tensor::Tensor,
    weights::Weights,
};

/// A VAE whose weights are resident.
#[derive(Debug)]
pub struct Vae {
    runtime: Arc<Runtime>,
    architecture: Architecture,
    weights: Weights,
    settings: VaeSettings,
    decoder: Option<Emitted>,
    encoder: Option<Emitted>,
    /// What a user's graph is; none for our own.
    users: Option<Half>,
}

/// A result and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Images in −1..1, or latents as a UNet sees them.
    pub sample: Tensor,
    /// How it was cut, and the estimate.
    pub plan: Plan,
    /// The memory that the runs took, beside the weights; none where the library did not tell, or where an earlier run of
    /// the same graph had taken it already.
    pub peak_bytes: Option<u64>,
}

impl Vae {
    /// The VAE of a component: by its config, or the half that the graph is which it brings.
    ///
    /// # Errors
    /// As [`Vae::new`]; a graph that is no half of a VAE.
    pub fn open(
        runtime: &Arc<Runtime>,
        component: &Component<'_>,
        weights: Weights,
        settings: VaeSettings,
    ) -> Result<Self, EngineError> {
        match component.graph {
            Some(graph) => Self::of_graph(runtime, graph, component, weights, settings),
            None => {
                let architecture = Architecture::read(component.config, &weights.facts(), component.base)?;
                Self::new(Arc::clone(runtime), architecture, weights, settings)
            }
        }
    }

    fn of_graph(
        runtime: &Arc<Runtime>,
        graph: &UserGraph,
        component: &Component<'_>,
        weights: Weights,
        mut settings: VaeSettings,
    ) -> Result<Self, EngineError> {
        let half = Half::of(graph)?;
        let architecture = half.architecture(graph, component.config, component.base)?;
        settings.slicing |= half.only_rows == Some(1);
        let emitted = graph.emitted().clone();
        let (decoder, encoder) = if half.decodes { (Some(emitted), None) } else { (None, Some(emitted)) };
        let runtime = Arc::clone(runtime);
        Ok(Self { runtime, architecture, weights, settings, decoder, encoder, users: Some(half) })
    }

    /// Makes ready: emits the graphs of the halves that the weights have.
    ///
    /// # Errors
    /// When weights and architecture do not fit.
    pub fn new(
        runtime: Arc<Runtime>,
        architecture: Architecture,
        weights: Weights,
        settings: VaeSettings,
    ) -> Result<Self, EngineError> {
        let facts = weights.facts();
        let provider = runtime.options().provider;
        let compute = compute_type(provider, &facts, settings.upcast.unwrap_or(architecture.force_upcast()));
        let decoder = facts.has_prefix("decoder.").then(|| architecture.decoder(provider, compute, &facts));
        let encoder = facts.has_prefix("encoder.").then(|| architecture.encoder(provider, compute, &facts));
        let (decoder, encoder) = (decoder.transpose()?, encoder.transpose()?);
        Ok(Self { runtime, architecture, weights, settings, decoder, encoder, users: None })
    }

    /// The same with latents as they are where nothing tells their scale.
    pub(crate) fn or_unscaled(mut self) -> Self {
        if self.architecture.scaling_factor().is_none() {
            self.settings.scaling_factor = self.settings.scaling_factor.or(Some(1.0));
        }
        self
    }

    /// What it is.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// How it works.
    pub fn settings(&self) -> &VaeSettings {
        &self.settings
    }

    /// How latents of this shape would be decoded within `bound_bytes`, and what memory that would take.
    ///
    /// # Errors
    /// When no tiling fits, or the shape is wrong.
    pub fn plan_decode(&self, shape: &[usize], bound_bytes: Option<u64>) -> Result<Plan, EngineError> {
        let [batch, _, height, width] = self.checked("latents", shape, self.architecture.latent_channels())?;
        let emitted = half(self.decoder.as_ref(), "decoder.conv_in.weight")?;
        let factor = self.runtime.memory_factor(emitted);
        let whole = self.host_bytes((batch, height, width), true)?;
        let bytes =
            |batch, side: (usize, usize)| factor.bytes(self.base_bytes(batch, side, true)).saturating_add(whole);
        plan::plan(&self.settings_for(batch), &self.architecture, (batch, height, width), &bytes, bound_bytes, true)
    }

    /// How an image of this shape would be encoded within `bound_bytes`, and what memory that would take.
    ///
    /// # Errors
    /// When no tiling fits, or the shape is wrong.
    pub fn plan_encode(&self, shape: &[usize], bound_bytes: Option<u64>) -> Result<Plan, EngineError> {
        let [batch, _, height, width] = self.checked("sample", shape, self.architecture.in_channels())?;
        let scale = self.architecture.scale();
        if !height.is_multiple_of(scale) || !width.is_multiple_of(scale) {
            return Err(EngineError::Input {
                name: "sample".to_owned(),
                found: format!("{width}×{height} pixels"),
                expected: format!("multiples of {scale}"),
            });
        }
        let emitted = half(self.encoder.as_ref(), "encoder.conv_in.weight")?;
        let factor = self.runtime.memory_factor(emitted);
        let whole = self.host_bytes((batch, height, width), false)?;
        let bytes =
            |batch, side: (usize, usize)| factor.bytes(self.base_bytes(batch, side, false)).saturating_add(whole);
        plan::plan(&self.settings_for(batch), &self.architecture, (batch, height, width), &bytes, bound_bytes, false)
    }

    /// Decodes latents [batch, channels, h, w], as a UNet sees them, to images [batch, 3, h·scale, w·scale] in −1..1.
    ///
    /// # Errors
    /// Wrong shapes, memory, cancellation, or an image that holds NaN.
    pub fn decode(&self, latents: &Tensor, bound_bytes: Option<u64>, control: &Control) -> Result<Done, EngineError> {
        let plan = self.plan_decode(&latents.shape, bound_bytes)?;
        control.reserve(plan.estimated_bytes)?;
        let (scaling, shift) = self.factors()?;
        let mut planes = Planes::of(latents, "latents")?;
        planes.map(|value| value / scaling + shift);
        let emitted = half(self.decoder.as_ref(), "decoder.conv_in.weight")?;
        let (planes, peak_bytes) = self.run(emitted, planes, &plan, true, control)?;
        let sample = planes.into_tensor()?;
        check_finite("sample", &sample)?;
        Ok(Done { sample, plan, peak_bytes })
    }

    /// Encodes images [batch, 3, h, w] in −1..1 to latents [batch, channels, h/scale, w/scale] as a UNet sees them.
    ///
    /// # Errors
    /// Wrong shapes, memory, cancellation, or latents that hold NaN.
    pub fn encode(
        &self,
        sample: &Tensor,
        posterior: Posterior<'_>,
        bound_bytes: Option<u64>,
        control: &Control,
    ) -> Result<Done, EngineError> {
        self.check_posterior(posterior)?;
        let plan = self.plan_encode(&sample.shape, bound_bytes)?;
        control.reserve(plan.estimated_bytes)?;
        let (scaling, shift) = self.factors()?;
        let emitted = half(self.encoder.as_ref(), "encoder.conv_in.weight")?;
        let (mut planes, peak_bytes) = self.run(emitted, Planes::of(sample, "sample")?, &plan, false, control)?;
        if self.has_moments() {
            planes = posterior.latents(&planes)?;
        }
        planes.map(|value| (value - shift) * scaling);
        let sample = planes.into_tensor()?;
        check_finite("latents", &sample)?;
        Ok(Done { sample, plan, peak_bytes })
    }

    /// Whether the encoder gives mean and variance instead of latents.
    fn has_moments(&self) -> bool {
        self.users.map_or_else(|| self.architecture.has_moments(), |half| half.has_moments)
    }

    /// Refuses the mean of a graph that gives latents which it drew, and a draw where nothing tells the variance.
    fn check_posterior(&self, posterior: Posterior<'_>) -> Result<(), EngineError> {
        let draws = self.users.is_some_and(|half| half.draws);
        let (found, expected) = match posterior {
            Posterior::Mode if draws => {
                ("the mean is asked for", "a draw: the graph draws latents itself, each time others")
            }
            Posterior::Sample(_) if !draws && !self.has_moments() => {
                ("a draw is asked for", "the mean: this encoder gives latents without their variance")
            }
            Posterior::Mode | Posterior::Sample(_) => return Ok(()),
        };
        let (found, expected) = (found.to_owned(), expected.to_owned());
        Err(EngineError::Input { name: "sample".to_owned(), found, expected })
    }

    /// The factors by which latents are scaled: as set, or as the config says.
    fn factors(&self) -> Result<(f32, f32), EngineError> {
        let scaling = self.settings.scaling_factor.or(self.architecture.scaling_factor());
        let scaling = scaling.filter(|factor| factor.is_finite() && *factor != 0.0);
        let scaling = scaling.ok_or_else(|| EngineError::Config {
            architecture: self.architecture.name(),
            field: "scaling_factor".to_owned(),
            found: "not known".to_owned(),
            expected: "one in the settings, or a base that has one".to_owned(),
        })?;
        Ok((scaling, self.settings.shift_factor.unwrap_or(self.architecture.shift_factor())))
    }

    /// Bytes of the whole input and the whole result, where both take the device's own memory: the host's on the CPU.
    fn host_bytes(&self, (batch, height, width): (usize, usize, usize), decodes: bool) -> Result<u64, EngineError> {
        let scale = if decodes { self.architecture.scale() } else { 1 };
        let pixels = (height.saturating_mul(scale), width.saturating_mul(scale));
        if pixels.0.max(pixels.1) > SIDE_LIMIT {
            return Err(EngineError::Input {
                name: if decodes { "latents" } else { "sample" }.to_owned(),
                found: format!("an image of {}×{} pixels", pixels.1, pixels.0),
                expected: format!("at most {SIDE_LIMIT} a side"),
            });
        }
        if self.runtime.options().provider == Provider::Cuda {
            return Ok(0);
        }
        let latents = self.architecture.latent_channels().div_ceil(self.architecture.scale().max(1).pow(2));
        let values = pixels.0.saturating_mul(pixels.1).saturating_mul(self.architecture.in_channels() + latents);
        Ok(u64::try_from(values.saturating_mul(batch).saturating_mul(size_of::<f32>())).unwrap_or(u64::MAX))
    }

    fn checked(&self, name: &str, shape: &[usize], channels: usize) -> Result<[usize; 4], EngineError> {
        match *shape {
            [batch, found, height, width] if found == channels && batch > 0 && height > 0 && width > 0 => {
                Ok([batch, found, height, width])
            }
            _ => Err(EngineError::Input {
                name: name.to_owned(),
                found: format!("{shape:?}"),
                expected: format!("[batch, {channels}, height, width]"),
            }),
        }
    }

    /// Runs all slices and tiles of the plan.
    fn run(
        &self,
        emitted: &Emitted,
        planes: Planes,
        plan: &Plan,
        decodes: bool,
        control: &Control,
    ) -> Result<(Planes, Option<u64>), EngineError> {
        let input = emitted.inputs.first().map(|port| port.name.clone()).unwrap_or_default();
        let slices = if plan.slicing { planes.slices() } else { vec![planes] };
        let of = slices.len().saturating_mul(plan.tiles);
        let (mut done, mut peak) = (0, None);
        let mut whole: Option<Planes> = None;
        for slice in slices {
            let mut part = |tile: Planes| -> Result<Planes, EngineError> {
                control.cancel.check()?;
                let base = self.base_bytes(tile.batch, (tile.height, tile.width), decodes);
                let tile = tile.into_tensor()?;
                let given = [(input.as_str(), &tile)];
                let outcome = run_learning(&self.runtime, (Part::Vae, emitted), &self.weights, &given, base, control)?;
                peak = peak.max(outcome.peak_bytes);
                done += 1;
                control.report(done, of);
                let output = outcome.outputs.into_iter().nth(self.output());
                let missing = || EngineError::Onnx { what: "running the graph", answer: "it has no output".to_owned() };
                Planes::of(&output.ok_or_else(missing)?, "output")
            };
            let result = match plan.tiling {
                Some(tiling) => tiling::tiled(&slice, &self.architecture.cut(tiling, decodes), &mut part)?,
                None => part(slice)?,
            };
            whole = Some(match whole {
                Some(before) => before.followed_by(result)?,
                None => result,
            });
        }
        let whole = whole.ok_or_else(|| EngineError::Input {
            name: input.clone(),
            found: "an empty batch".to_owned(),
            expected: "at least one".to_owned(),
        })?;
        Ok((whole, peak))
    }

    /// The place of what counts among a graph's outputs.
    fn output(&self) -> usize {
        self.users.map_or(0, |half| half.output)
    }

    /// Bytes of the largest value of a run; fewer images than the graph takes are filled up.
    fn base_bytes(&self, batch: usize, side: (usize, usize), decodes: bool) -> u64 {
        let batch = batch.max(self.only_rows().unwrap_or(0));
        if decodes { self.architecture.decode_bytes(batch, side) } else { self.architecture.encode_bytes(batch, side) }
    }

    /// As set; more images than the graph takes go through it one after the other.
    fn settings_for(&self, batch: usize) -> VaeSettings {
        let slicing = self.settings.slicing || self.only_rows().is_some_and(|rows| batch > rows);
        VaeSettings { slicing, ..self.settings }
    }

    fn only_rows(&self) -> Option<usize> {
        self.users.and_then(|half| half.only_rows)
    }
}

fn half<'e>(emitted: Option<&'e Emitted>, first: &str) -> Result<&'e Emitted, EngineError> {
    emitted.ok_or_else(|| EngineError::MissingWeights {
        architecture: "VAE".to_owned(),
        count: 1,
        first: first.to_owned(),
    })
}
