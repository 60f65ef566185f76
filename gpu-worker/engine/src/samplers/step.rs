//! The steps themselves, over plain slices. σ is noise over signal, ᾱ the signal that is left, squared.

use super::{Prediction, Sampler, SamplerError, SamplerKind};

impl Sampler {
    /// Takes `step`: moves `sample` by the model's output to the next noise level and gives the sample without noise as it is
    /// predicted now, for previews.
    ///
    /// # Errors
    /// [`SamplerError`] when lengths differ, noise is missing or the step is not the next one; the sample is unchanged then.
    pub fn step(
        &mut self,
        step: usize,
        sample: &mut [f32],
        model_output: &[f32],
        noise: Option<&[f32]>,
    ) -> Result<Vec<f32>, SamplerError> {
        self.check(step, sample, model_output, noise)?;
        let noise = noise.filter(|_| self.needs_noise());
        let denoised = match self.kind {
            SamplerKind::Euler | SamplerKind::EulerAncestral => self.euler(step, sample, model_output, noise),
            SamplerKind::Ddim => self.ddim(step, sample, model_output, noise),
            SamplerKind::DpmPlusPlus2M => self.multistep(step, sample, model_output),
        };
        self.next = step + 1;
        Ok(denoised)
    }

    fn check(&self, step: usize, sample: &[f32], output: &[f32], noise: Option<&[f32]>) -> Result<(), SamplerError> {
        let steps = self.steps();
        if step != self.next || step >= steps {
            return Err(SamplerError::Order { step, expected: self.next, steps });
        }
        if self.needs_noise() && noise.is_none() {
            return Err(SamplerError::NeedsNoise { sampler: self.kind });
        }
        let expected = sample.len();
        for (what, found) in [("the model's output", output.len()), ("the noise", noise.map_or(expected, <[f32]>::len))]
        {
            if found != expected {
                return Err(SamplerError::Length { what, found, expected });
            }
        }
        Ok(())
    }

    /// Algorithm 2 of arXiv 2206.00364 without churn; the ancestral form goes further down and adds noise back.
    fn euler(&self, step: usize, sample: &mut [f32], output: &[f32], noise: Option<&[f32]>) -> Vec<f32> {
        let (from, to) = (self.schedule.sigmas[step], self.schedule.sigmas[step + 1]);
        let (up, down) = match noise {
            Some(_) => {
                let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
                (up, (to * to - up * up).sqrt())
            }
            None => (0.0, to),
        };
        let denoised: Vec<f32> =
            sample.iter().zip(output).map(|(x, y)| denoised(self.config.prediction_type, from, *x, *y)).collect();
        for (x, clean) in sample.iter_mut().zip(&denoised) {
            *x += (*x - clean) / from * (down - from);
        }
        for (x, noise) in sample.iter_mut().zip(noise.unwrap_or_default()) {
            *x += noise * up;
        }
        denoised
    }

    /// Equation 12 of arXiv 2010.02502.
    fn ddim(&self, step: usize, sample: &mut [f32], output: &[f32], noise: Option<&[f32]>) -> Vec<f32> {
        let alphas = &self.schedule.alphas_cumprod;
        let timestep = self.schedule.timesteps[step] as usize;
        let before = timestep.checked_sub(self.config.num_train_timesteps / self.steps());
        let last = if self.config.set_alpha_to_one { 1.0 } else { alphas[0] };
        let (alpha, alpha_before) = (alphas[timestep], before.map_or(last, |before| alphas[before]));
        let (signal, grain) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        let variance = (1.0 - alpha_before) / (1.0 - alpha) * (1.0 - alpha / alpha_before);
        let deviation = self.eta * variance.max(0.0).sqrt();
        let direction = (1.0 - alpha_before - deviation * deviation).max(0.0).sqrt();
        let range = if self.config.clip_sample { self.config.clip_sample_range } else { f32::INFINITY };
        let mut denoised = Vec::with_capacity(sample.len());
        for (x, y) in sample.iter_mut().zip(output) {
            let (clean, epsilon) = match self.config.prediction_type {
                Prediction::Epsilon => ((*x - grain * y) / signal, *y),
                Prediction::Sample => (*y, (*x - signal * y) / grain),
                Prediction::VPrediction => (signal * *x - grain * y, signal * y + grain * *x),
            };
            let clean = clean.clamp(-range, range);
            *x = alpha_before.sqrt() * clean + direction * epsilon;
            denoised.push(clean);
        }
        for (x, noise) in sample.iter_mut().zip(noise.unwrap_or_default()) {
            *x += deviation * noise;
        }
        denoised
    }

    /// Algorithm 2 of arXiv 2211.01095; first order at the first step and at the last, which ends without noise.
    fn multistep(&mut self, step: usize, sample: &mut [f32], output: &[f32]) -> Vec<f32> {
        let sigmas = &self.schedule.sigmas;
        let (from, to) = (sigmas[step], sigmas[step + 1]);
        let (signal, grain) = parts(from);
        let prediction = self.config.prediction_type;
        let clean = |x: &f32, y: &f32| match prediction {
            Prediction::Epsilon => (x - grain * y) / signal,
            Prediction::VPrediction => signal * x - grain * y,
            Prediction::Sample => *y,
        };
        let denoised: Vec<f32> = sample.iter().zip(output).map(|(x, y)| clean(x, y)).collect();
        let (signal_to, grain_to) = parts(to);
        let h = log_snr(to) - log_snr(from);
        let gain = signal_to * ((-h).exp() - 1.0);
        let before = self.before.take().filter(|_| step + 1 < self.schedule.timesteps.len());
        for (at, x) in sample.iter_mut().enumerate() {
            *x = grain_to / grain * *x - gain * denoised[at];
            if let Some(before) = &before {
                let ratio = (log_snr(from) - log_snr(sigmas[step - 1])) / h;
                *x -= 0.5 * gain * (1.0 / ratio * (denoised[at] - before[at]));
            }
        }
        self.before = Some(denoised.clone());
        denoised
    }
}

/// The sample without noise, from one with σ.
fn denoised(prediction: Prediction, sigma: f32, x: f32, y: f32) -> f32 {
    let square = sigma * sigma + 1.0;
    match prediction {
        Prediction::Epsilon => x - sigma * y,
        Prediction::VPrediction => y * (-sigma / square.sqrt()) + x / square,
        Prediction::Sample => y,
    }
}

/// Signal and noise of a sample with σ whose variance is kept.
fn parts(sigma: f32) -> (f32, f32) {
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    (signal, sigma * signal)
}

/// Half the logarithm of signal over noise (λ); infinite without noise, where the step's gain is then -1.
fn log_snr(sigma: f32) -> f32 {
    let (signal, grain) = parts(sigma);
    signal.ln() - grain.ln()
}
