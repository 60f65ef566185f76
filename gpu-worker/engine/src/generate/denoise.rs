//! The loop from noise to latents. It knows a sampler, seeds and a function that predicts; no models.

use crate::{
    error::EngineError,
    noise::Noise,
    runtime::Control,
    samplers::Sampler,
    tensor::{Tensor, TensorData},
};

use super::GenerateError;

/// What the loop is told after each step.
pub(super) struct Step<'s> {
    /// Steps that are done.
    pub(super) done: usize,
    /// The latents now.
    pub(super) latents: &'s Tensor,
    /// The latents without noise, as they are predicted now.
    pub(super) denoised: Tensor,
}

/// A source of noise for each image, so that an image does not depend on those beside it.
pub(super) struct Seeds(Vec<Noise>);

impl Seeds {
    pub(super) fn new(seeds: impl Iterator<Item = u64>) -> Self {
        Self(seeds.map(Noise::new).collect())
    }

    /// The next noise of all images, behind each other; `values` in all.
    pub(super) fn draw(&mut self, values: usize) -> Vec<f32> {
        let each = values / self.0.len().max(1);
        self.0.iter_mut().flat_map(|noise| noise.normal(each)).collect()
    }
}

/// Denoises `noise` (unscaled, F32) in all steps of `sampler`. `predict` sees the scaled sample and the timestep.
pub(super) fn denoise(
    noise: Tensor,
    sampler: &mut Sampler,
    seeds: &mut Seeds,
    control: &Control,
    predict: &mut dyn FnMut(&Tensor, f32) -> Result<Tensor, EngineError>,
    after: &mut dyn FnMut(Step<'_>) -> Result<(), GenerateError>,
) -> Result<Tensor, GenerateError> {
    let steps = sampler.steps();
    let mut latents = scaled(&noise, sampler.initial_scale())?;
    let timesteps = sampler.schedule().timesteps.clone();
    for (step, timestep) in timesteps.into_iter().enumerate() {
        control.cancel.check()?;
        let input = scaled(&latents, sampler.input_scale(step))?;
        let prediction = predict(&input, timestep)?;
        let fresh = sampler.needs_noise().then(|| seeds.draw(latents.data.len()));
        let output = values(&prediction)?;
        let Tensor { shape, data: TensorData::F32(sample) } = &mut latents else {
            return Err(no_floats(&prediction).into());
        };
        let denoised = sampler.step(step, sample, output, fresh.as_deref())?;
        let denoised = Tensor::f32(shape, denoised)?;
        control.report(step + 1, steps);
        after(Step { done: step + 1, latents: &latents, denoised })?;
    }
    Ok(latents)
}

/// Classifier-free guidance: from the unconditional prediction through the conditional one and beyond.
pub(super) fn guide(unconditional: Tensor, conditional: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
    let guided =
        values(&unconditional)?.iter().zip(values(conditional)?).map(|(from, to)| from + scale * (to - from)).collect();
    Tensor::f32(&unconditional.shape, guided)
}

fn scaled(tensor: &Tensor, factor: f32) -> Result<Tensor, EngineError> {
    Tensor::f32(&tensor.shape, values(tensor)?.iter().map(|value| value * factor).collect())
}

pub(super) fn values(tensor: &Tensor) -> Result<&[f32], EngineError> {
    tensor.as_f32().ok_or_else(|| no_floats(tensor))
}

fn no_floats(tensor: &Tensor) -> EngineError {
    EngineError::Input {
        name: "latents".to_owned(),
        found: tensor.data.element().to_string(),
        expected: "F32".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        runtime::Cancel,
        samplers::{SamplerKind, SchedulerConfig},
    };

    fn sampler(kind: SamplerKind, steps: usize) -> Sampler {
        Sampler::new(kind, &SchedulerConfig::of_base("sd15").unwrap(), steps, None).unwrap()
    }

    fn run(seeds: &[u64], steps: usize, control: &Control) -> Result<(Tensor, usize), GenerateError> {
        let mut sampler = sampler(SamplerKind::EulerAncestral, steps);
        let mut source = Seeds::new(seeds.iter().copied());
        let shape = [seeds.len(), 4, 2, 2];
        let noise = Tensor::f32(&shape, source.draw(seeds.len() * 16))?;
        let mut told = 0;
        let mut predict = |input: &Tensor, timestep: f32| {
            Tensor::f32(&input.shape, values(input)?.iter().map(|x| 0.5 * x + (timestep / 1000.0)).collect())
        };
        let mut after = |step: Step<'_>| {
            told += 1;
            assert_eq!((step.done, &step.latents.shape[..], &step.denoised.shape[..]), (told, &shape[..], &shape[..]));
            Ok(())
        };
        let latents = denoise(noise, &mut sampler, &mut source, control, &mut predict, &mut after)?;
        Ok((latents, told))
    }

    #[test]
    fn an_image_does_not_depend_on_those_beside_it() {
        let control = Control::default();
        let (both, told) = run(&[7, 8], 6, &control).unwrap();
        let (alone, _) = run(&[8], 6, &control).unwrap();
        assert_eq!((told, &both.as_f32().unwrap()[16..]), (6, alone.as_f32().unwrap()));
        assert_eq!(run(&[7, 8], 6, &control).unwrap().0, both);
    }

    #[test]
    fn steps_are_reported_and_a_cancel_ends_before_the_next() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let cancel = Cancel::new();
        let (told, stop) = (Arc::clone(&seen), cancel.clone());
        let progress = move |done: usize, of: usize| {
            told.lock().unwrap().push((done, of));
            if done == 2 {
                stop.cancel();
            }
        };
        let control = Control { cancel, progress: Some(Arc::new(progress)), ..Control::default() };
        assert!(matches!(run(&[1], 5, &control), Err(GenerateError::Engine(EngineError::Cancelled))));
        assert_eq!(*seen.lock().unwrap(), [(1, 5), (2, 5)]);
    }

    #[test]
    fn guidance_goes_from_one_prediction_through_the_other() {
        let (from, to) = (Tensor::f32(&[2], vec![1.0, 0.0]).unwrap(), Tensor::f32(&[2], vec![2.0, 0.0]).unwrap());
        assert_eq!(guide(from.clone(), &to, 1.0).unwrap(), to);
        assert_eq!(guide(from, &to, 7.5).unwrap().as_f32(), Some(&[8.5, 0.0][..]));
    }
}
