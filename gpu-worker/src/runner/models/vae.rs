//! A VAE: latents to images and images to latents.

use engine::{
    EngineError, Tensor,
    images::{self, ImageLimits, Picture},
    models::vae::{Done, Plan, Posterior, Tiling, Vae, VaeSettings},
    noise::Noise,
};
use serde_json::{Value, json};
use shared::{
    error::{Classify, ErrorBody},
    job::engine::{self as asked, ImageFormat, LatentSample, TilingMode},
};

use super::{
    Bench,
    kept::must_be_kept,
    parts::component,
    tensors::{Tensors, file},
};
use crate::runner::{
    Blob, IMAGE, PartFacts,
    engine_thread::{Outcome, RunFailure},
    protocol::RunPhase,
};

/// How safetensors files begin, after the length of their header.
const HEADER_BYTE: (usize, u8) = (8, b'{');

/// The VAE of these facts over its weights.
pub(super) fn open(bench: &Bench<'_>, facts: &PartFacts, settings: &asked::VaeSettings) -> Result<Vae, RunFailure> {
    let graph = bench.graph(facts)?;
    let component = component(facts, graph.as_deref());
    Ok(Vae::open(bench.runtime, &component, bench.weights(facts)?, of_request(settings))?)
}

#[expect(clippy::cast_possible_truncation, reason = "graphs compute in 32-bit floats")]
pub(super) fn of_request(asked: &asked::VaeSettings) -> VaeSettings {
    let tiling = match &asked.tiling {
        Some(asked::Tiling::Tiles(tiles)) => Some(Tiling { size: tiles.size as usize, overlap: tiles.overlap as f32 }),
        Some(asked::Tiling::Mode(_)) | None => None,
    };
    VaeSettings {
        slicing: asked.slicing.unwrap_or_default(),
        tiling,
        upcast: asked.upcast,
        scaling_factor: asked.scaling_factor.map(|factor| factor as f32),
        shift_factor: asked.shift_factor.map(|factor| factor as f32),
    }
}

/// The bytes that the run may take: cut finer to fit, unless the request says that it is not to be cut.
fn bound(bench: &Bench<'_>, settings: &asked::VaeSettings) -> Option<u64> {
    (!is_whole(settings)).then_some(bench.room())
}

/// Whether the request says that an image is not to be cut, whatever memory there is.
pub(super) fn is_whole(settings: &asked::VaeSettings) -> bool {
    settings.tiling == Some(asked::Tiling::Mode(TilingMode::Off))
}

pub(super) fn decode(
    bench: &Bench<'_>,
    facts: &PartFacts,
    settings: &asked::VaeSettings,
    (format, limit_bytes): (ImageFormat, u64),
) -> Result<Outcome, RunFailure> {
    bench.at(RunPhase::Preparing, 0, 1);
    let given = Tensors::read(bench)?;
    let latents = given.get("latents")?;
    let vae = open(bench, facts, settings)?;
    let bound = bound(bench, settings);
    let plan = vae.plan_decode(&latents.shape, bound)?;
    must_be_kept(&[image_floats(&vae, latents, format)], limit_bytes)?;
    bench.must_fit(plan.estimated_bytes)?;
    bench.at(RunPhase::Decoding, 0, parts(&plan, images_of(&latents.shape)));
    let done = vae.decode(latents, bound, &bench.control(RunPhase::Decoding))?;
    let facts = told(&vae, &done);
    Ok(Outcome { facts, blobs: pictures(bench, &done.sample, format)? })
}

/// The floats of the image, where they are what is left.
fn image_floats(vae: &Vae, latents: &Tensor, format: ImageFormat) -> ([usize; 4], usize) {
    let scale = vae.architecture().scale();
    match *latents.shape.as_slice() {
        [batch, _, height, width] if format == ImageFormat::Safetensors => {
            ([batch, 3, height.saturating_mul(scale), width.saturating_mul(scale)], 1)
        }
        _ => ([0; 4], 0),
    }
}

pub(super) fn encode(
    bench: &Bench<'_>,
    facts: &PartFacts,
    settings: &asked::VaeSettings,
    (sample, seed): (LatentSample, u64),
) -> Result<Outcome, RunFailure> {
    bench.at(RunPhase::Preparing, 0, 1);
    let image = image(bench)?;
    let vae = open(bench, facts, settings)?;
    let bound = bound(bench, settings);
    let plan = vae.plan_encode(&image.shape, bound)?;
    bench.must_fit(plan.estimated_bytes)?;
    bench.at(RunPhase::Encoding, 0, parts(&plan, images_of(&image.shape)));
    let noise = match sample {
        LatentSample::Mean => None,
        LatentSample::Sample => Some(noise(&vae, &image, seed)?),
    };
    let posterior = noise.as_ref().map_or(Posterior::Mode, Posterior::Sample);
    let done = vae.encode(&image, posterior, bound, &bench.control(RunPhase::Encoding))?;
    let facts = told(&vae, &done);
    Ok(Outcome { facts, blobs: vec![file("latents.safetensors", &[("latents", &done.sample)])?] })
}

/// Runs of a plan for so many images.
fn parts(plan: &Plan, batch: usize) -> u32 {
    let slices = if plan.slicing { batch } else { 1 };
    u32::try_from(plan.tiles.saturating_mul(slices)).unwrap_or(u32::MAX)
}

fn images_of(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

/// Noise of the latents' shape.
fn noise(vae: &Vae, image: &Tensor, seed: u64) -> Result<Tensor, EngineError> {
    let (channels, scale) = (vae.architecture().latent_channels(), vae.architecture().scale());
    let [batch, _, height, width] = *image.shape.as_slice() else {
        return Err(EngineError::Input {
            name: IMAGE.to_owned(),
            found: format!("{:?}", image.shape),
            expected: "four sides".to_owned(),
        });
    };
    let shape = [batch, channels, height / scale.max(1), width / scale.max(1)];
    Tensor::f32(&shape, Noise::new(seed).normal(shape.iter().product()))
}

/// The image of the run: a picture, or the tensor `image` of a safetensors file.
fn image(bench: &Bench<'_>) -> Result<Tensor, RunFailure> {
    let bytes = bench.input(IMAGE)?;
    if bytes.get(HEADER_BYTE.0) == Some(&HEADER_BYTE.1) {
        return Ok(Tensors::of(bytes, &bench.order.cancel)?.get(IMAGE)?.clone());
    }
    let picture = images::decode(bytes, ImageLimits::default()).map_err(|error| work(&error))?;
    let shape = [1, 3, picture.height() as usize, picture.width() as usize];
    Ok(Tensor::f32(&shape, picture.to_sample())?)
}

/// Images as files, `image-<n>.<format>`; as one file of floats where that is asked for.
fn pictures(bench: &Bench<'_>, sample: &Tensor, format: ImageFormat) -> Result<Vec<Blob>, RunFailure> {
    let written = match format {
        ImageFormat::Safetensors => return Ok(vec![file("image.safetensors", &[(IMAGE, sample)])?]),
        ImageFormat::Png => images::ImageFormat::Png,
        ImageFormat::Webp => images::ImageFormat::Webp,
    };
    let values = sample.as_f32().unwrap_or_default();
    let pictures = Picture::from_sample(&sample.shape, values).map_err(|error| work(&error))?;
    let blob = |(number, picture): (usize, &Picture)| {
        bench.go_on()?;
        Ok(Blob {
            name: format!("image-{number}.{}", format.as_str()),
            media_type: format.media_type().to_owned(),
            bytes: picture.encode(written, None).map_err(|error| work(&error))?,
        })
    };
    pictures.iter().enumerate().map(blob).collect()
}

/// What is told of a run.
pub(super) fn told(vae: &Vae, done: &Done) -> Value {
    let Done { sample, plan, peak_bytes } = done;
    let tiling =
        plan.tiling.map(|tiling| json!({ "size": tiling.size, "overlap": tiling.overlap, "tiles": plan.tiles }));
    json!({
        "shape": sample.shape, "architecture": vae.architecture().name(), "slicing": plan.slicing, "tiling": tiling,
        "tiling_is_automatic": plan.automatic, "estimated_bytes": plan.estimated_bytes, "peak_bytes": peak_bytes,
    })
}

fn work(error: &(impl Classify + 'static)) -> RunFailure {
    RunFailure::Work(ErrorBody::of(error))
}
