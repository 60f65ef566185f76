//! A UNet: a noisy sample and its conditions in, a prediction out; alone or as the pair of classifier-free guidance.

use std::sync::Arc;

use super::{
    rows,
    run::{Bound, compute_type},
    users,
};
use crate::{
    arch::unet2d::Config,
    error::EngineError,
    forward::Component,
    graph::UserGraph,
    runtime::{Control, Outcome, Part, Runtime},
    statistics::check_finite,
    tensor::Tensor,
    weights::Weights,
};

/// What a prediction is conditioned on.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'t> {
    /// F32 \[batch, tokens, context\].
    pub encoder_hidden_states: &'t Tensor,
    /// Pooled text and sizes, for UNets that take them.
    pub added: Option<Added<'t>>,
}

/// SDXL's conditions beside the text's states.
#[derive(Debug, Clone, Copy)]
pub struct Added<'t> {
    /// The projected pooled state of the last encoder: F32 \[batch, text\].
    pub text_embeds: &'t Tensor,
    /// Original size, crop and target size (refiner: original size, crop and score): F32 \[batch, numbers\].
    pub time_ids: &'t Tensor,
}

/// The two predictions of classifier-free guidance.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Under the negative conditions.
    pub unconditional: Tensor,
    /// Under the positive ones.
    pub conditional: Tensor,
}

/// A UNet over its weights.
#[derive(Debug)]
pub struct Unet {
    config: Config,
    bound: Bound,
    /// The place of the prediction among the outputs.
    output: usize,
}

impl Unet {
    /// The UNet of a component: by its config, or by the graph that it brings.
    ///
    /// # Errors
    /// As [`Unet::new`]; a graph that is no UNet's.
    pub fn open(runtime: &Arc<Runtime>, component: &Component<'_>, weights: Weights) -> Result<Self, EngineError> {
        match component.graph {
            Some(graph) => Self::of_graph(runtime, graph, component, weights),
            None => {
                let config = Config::read(component.config, &weights.facts(), component.base)?;
                Self::new(runtime, config, weights)
            }
        }
    }

    fn of_graph(
        runtime: &Arc<Runtime>,
        graph: &UserGraph,
        component: &Component<'_>,
        weights: Weights,
    ) -> Result<Self, EngineError> {
        let output = users::unet::output(graph)?;
        let config = users::unet::config(graph, output, component.config)?;
        let bound = Bound::new(runtime, Part::Unet, graph.emitted().clone(), weights)?;
        Ok(Self { config, bound, output })
    }

    /// Binds a config to weights.
    ///
    /// # Errors
    /// Weights that are missing or have another shape than the config says; what ONNX Runtime refuses.
    pub fn new(runtime: &Arc<Runtime>, config: Config, weights: Weights) -> Result<Self, EngineError> {
        let provider = runtime.options().provider;
        let compute = compute_type(provider, &weights.facts(), config.upcast_attention);
        let emitted = config.emit(provider, compute, &weights)?;
        Ok(Self { config, bound: Bound::new(runtime, Part::Unet, emitted, weights)?, output: 0 })
    }

    /// Its config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes that a run over samples of this shape with `tokens` of text takes beside the weights: measured before, or
    /// supposed.
    pub fn estimate(&self, sample: &[usize], tokens: usize) -> u64 {
        self.bound.estimate(self.largest_bytes(sample, tokens))
    }

    fn largest_bytes(&self, sample: &[usize], tokens: usize) -> u64 {
        match *sample {
            [batch, _, height, width] => {
                // fewer rows than the graph takes are filled up
                let batch = batch.max(self.only_rows().unwrap_or(0));
                let own = self.config.largest_bytes(batch, height, width, tokens, self.bound.is_converted());
                // exporters spread attention out
                let spread =
                    if self.bound.emitted().is_users { self.config.spread_bytes(batch, height, width) } else { 0 };
                own.max(spread)
            }
            // not a sample: the run says so
            _ => 0,
        }
    }

    /// Predicts for `sample`, F32 \[batch, channels, height, width\] (already scaled as the sampler wants it), at `timestep`:
    /// F32 \[batch, channels, height, width\].
    ///
    /// # Errors
    /// [`EngineError::Input`] for shapes that do not fit; [`EngineError::NotFinite`]; those of a run.
    pub fn predict(
        &self,
        sample: &Tensor,
        timestep: f32,
        conditions: &Conditions<'_>,
        control: &Control,
    ) -> Result<Tensor, EngineError> {
        let prediction = self.run(sample, timestep, conditions, control)?;
        check_finite("out_sample", &prediction)?;
        Ok(prediction)
    }

    /// Predicts under both conditions, in one run of twice the batch where its estimate is below `memory_bytes` and the two
    /// have as many tokens, else in two.
    ///
    /// # Errors
    /// As [`Unet::predict`].
    pub fn predict_pair(
        &self,
        sample: &Tensor,
        timestep: f32,
        [unconditional, conditional]: [&Conditions<'_>; 2],
        memory_bytes: Option<u64>,
        control: &Control,
    ) -> Result<Pair, EngineError> {
        let joined =
            joined(unconditional, conditional).filter(|_| self.fits_twice(sample, unconditional, memory_bytes));
        let Some(joined) = joined else {
            let unconditional = self.predict(sample, timestep, unconditional, control)?;
            let conditional = self.predict(sample, timestep, conditional, control)?;
            return Ok(Pair { unconditional, conditional });
        };
        let count = sample.shape.first().copied().unwrap_or_default();
        let twice = rows::join(sample, sample)?;
        let both = self.predict(&twice, timestep, &joined.as_conditions(), control)?;
        let (unconditional, conditional) = rows::split(both, count)?;
        Ok(Pair { unconditional, conditional })
    }

    fn fits_twice(&self, sample: &Tensor, conditions: &Conditions<'_>, memory_bytes: Option<u64>) -> bool {
        let mut shape = sample.shape.clone();
        if let Some(batch) = shape.first_mut() {
            *batch = batch.saturating_mul(2);
        }
        let takes = shape.first().is_some_and(|batch| *batch <= self.most_rows());
        takes && memory_bytes.is_none_or(|bound| self.estimate(&shape, tokens(conditions)) <= bound)
    }

    /// Samples that a run may have at most: a user's graph may be for one number of them only.
    pub(crate) fn most_rows(&self) -> usize {
        self.only_rows().unwrap_or(usize::MAX).max(1)
    }

    fn only_rows(&self) -> Option<usize> {
        self.bound.only_rows("sample")
    }

    /// The prediction as it comes, numbers or not.
    pub(crate) fn run(
        &self,
        sample: &Tensor,
        timestep: f32,
        conditions: &Conditions<'_>,
        control: &Control,
    ) -> Result<Tensor, EngineError> {
        let outcome = self.run_measured(sample, timestep, conditions, control)?;
        let nothing = || EngineError::Onnx { what: "predicting", answer: "no output".to_owned() };
        outcome.outputs.into_iter().nth(self.output).ok_or_else(nothing)
    }

    /// The same with what memory it took.
    pub(crate) fn run_measured(
        &self,
        sample: &Tensor,
        timestep: f32,
        conditions: &Conditions<'_>,
        control: &Control,
    ) -> Result<Outcome, EngineError> {
        self.check(sample, conditions)?;
        let timestep = Tensor::f32(&[1], vec![timestep])?;
        let mut inputs = vec![
            ("sample", sample),
            ("timestep", &timestep),
            ("encoder_hidden_states", conditions.encoder_hidden_states),
        ];
        if let Some(added) = conditions.added {
            inputs.extend([("text_embeds", added.text_embeds), ("time_ids", added.time_ids)]);
        }
        let largest = self.largest_bytes(&sample.shape, tokens(conditions));
        self.bound.run(&inputs, largest, control)
    }

    /// What the session's own check of ranks and fixed sides does not see.
    fn check(&self, sample: &Tensor, conditions: &Conditions<'_>) -> Result<(), EngineError> {
        let wrong = |name: &str, found: String, expected: String| {
            Err(EngineError::Input { name: name.to_owned(), found, expected })
        };
        if sample.shape.contains(&0) {
            return wrong("sample", format!("{:?}", sample.shape), "sides from 1 on".to_owned());
        }
        match (self.config.added, conditions.added) {
            (None, None) => Ok(()),
            (None, Some(_)) => wrong("text_embeds", "given".to_owned(), "none: this UNet takes no sizes".to_owned()),
            (Some(_), None) => wrong("text_embeds", "none".to_owned(), "pooled text and time_ids".to_owned()),
            (Some(config), Some(added)) => {
                let [text, numbers] = [added.text_embeds, added.time_ids].map(|tensor| tensor.shape.get(1).copied());
                let (text, numbers) = (text.unwrap_or_default(), numbers.unwrap_or_default());
                if numbers.checked_mul(config.each).and_then(|waves| waves.checked_add(text)) == Some(config.inputs) {
                    return Ok(());
                }
                let expected = format!("pooled width + {} x numbers = {}", config.each, config.inputs);
                wrong("time_ids", format!("a pooled width of {text}, {numbers} numbers"), expected)
            }
        }
    }
}

fn tokens(conditions: &Conditions<'_>) -> usize {
    conditions.encoder_hidden_states.shape.get(1).copied().unwrap_or_default()
}

/// Both conditions behind each other, the unconditional first.
struct Joined {
    states: Tensor,
    added: Option<(Tensor, Tensor)>,
}

impl Joined {
    fn as_conditions(&self) -> Conditions<'_> {
        let added = self.added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
        Conditions { encoder_hidden_states: &self.states, added }
    }
}

/// None if they do not have the same shapes.
fn joined(first: &Conditions<'_>, second: &Conditions<'_>) -> Option<Joined> {
    let states = rows::join(first.encoder_hidden_states, second.encoder_hidden_states).ok()?;
    let added = match (first.added, second.added) {
        (None, None) => None,
        (Some(first), Some(second)) => {
            let text = rows::join(first.text_embeds, second.text_embeds).ok()?;
            Some((text, rows::join(first.time_ids, second.time_ids).ok()?))
        }
        _ => return None,
    };
    Some(Joined { states, added })
}
