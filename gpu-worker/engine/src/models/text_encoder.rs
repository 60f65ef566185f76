//! A CLIP text encoder: token ids in, states of one layer, pooled and projected state out.

use std::sync::Arc;

use super::{
    run::{Bound, compute_type},
    users::text::{self, Outputs},
};
use crate::{
    arch::clip::{Config, EndOfText, Role},
    error::EngineError,
    forward::Component,
    graph::UserGraph,
    runtime::{Control, Outcome, Part, Runtime},
    statistics::check_finite,
    tensor::Tensor,
    weights::Weights,
};

/// Which states a pipeline takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EncodeOptions {
    /// Layers left out at the end: 0 takes the states of the last layer, 1 the penultimate ones.
    pub skip: usize,
    /// Whether the final layer norm goes over them.
    pub is_normed: bool,
}

impl EncodeOptions {
    /// The last layer's states under the final norm.
    pub const LAST: Self = Self { skip: 0, is_normed: true };
    /// The states before the last layer, as they are: `hidden_states[-2]` of transformers.
    pub const PENULTIMATE: Self = Self { skip: 1, is_normed: false };

    /// What diffusers' pipelines of a family take: SDXL, its refiner and SD3 the penultimate states as they are, all others
    /// the last ones under the final norm. `clip_skip` leaves out so many layers more.
    #[must_use]
    pub fn for_base(base: Option<&str>, clip_skip: usize) -> Self {
        match base {
            Some("sdxl" | "sdxl-refiner" | "sd3") => Self { skip: clip_skip.saturating_add(1), is_normed: false },
            _ => Self { skip: clip_skip, is_normed: true },
        }
    }
}

/// What an encoder makes of prompts; F32.
#[derive(Debug, Clone, PartialEq)]
pub struct TextStates {
    /// The last layer's states under the final norm: \[batch, positions, width\].
    pub last: Tensor,
    /// The states that were asked for: \[batch, positions, width\].
    pub hidden: Tensor,
    /// The last state at the end of the text: \[batch, width\].
    pub pooled: Tensor,
    /// The pooled state projected: \[batch, projection\]; none for an encoder without projection.
    pub projected: Option<Tensor>,
}

/// A text encoder over its weights.
#[derive(Debug)]
pub struct TextEncoder {
    config: Config,
    bound: Bound,
    /// Where a user's graph has its states; none for our own.
    outputs: Option<Outputs>,
}

impl TextEncoder {
    /// The encoder of a component: by its config, or by the graph that it brings.
    ///
    /// # Errors
    /// As [`TextEncoder::new`]; a graph that is no text encoder's.
    pub fn open(runtime: &Arc<Runtime>, component: &Component<'_>, weights: Weights) -> Result<Self, EngineError> {
        match component.graph {
            Some(graph) => Self::of_graph(runtime, graph, component, weights),
            None => {
                let role = if component.kind == "text_encoder_2" { Role::Second } else { Role::First };
                let config = Config::read(component.config, &weights.facts(), role, component.base)?;
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
        let outputs = Outputs::of(graph)?;
        let config = text::config(graph, &outputs, component.config)?;
        let bound = Bound::new(runtime, Part::TextEncoder, graph.emitted().clone(), weights)?;
        Ok(Self { config, bound, outputs: Some(outputs) })
    }

    /// Binds a config to weights.
    ///
    /// # Errors
    /// Weights that are missing or have another shape than the config says; what ONNX Runtime refuses.
    pub fn new(runtime: &Arc<Runtime>, config: Config, weights: Weights) -> Result<Self, EngineError> {
        let provider = runtime.options().provider;
        let compute = compute_type(provider, &weights.facts(), false);
        let emitted = config.emit(provider, compute, &weights)?;
        Ok(Self { config, bound: Bound::new(runtime, Part::TextEncoder, emitted, weights)?, outputs: None })
    }

    /// Its config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether it has states of this layer: a user's graph may give those of some only.
    #[must_use]
    pub fn gives(&self, options: EncodeOptions) -> bool {
        match &self.outputs {
            Some(named) => named.hidden(options, self.config.layers).is_ok(),
            None => self.layer(options).is_ok(),
        }
    }

    /// What states depend on beside the weights: the graph that the config gives, how many layers it is said to have (a user's graph does
    /// not tell), and where a text ends.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{} {} {:?}", self.bound.emitted().key, self.config.layers, self.config.end)
    }

    /// Bytes that a run of `batch` prompts takes beside the weights: measured before, or supposed.
    pub fn estimate(&self, batch: usize) -> u64 {
        self.bound.estimate(self.largest_bytes(batch))
    }

    fn largest_bytes(&self, batch: usize) -> u64 {
        // fewer rows than the graph takes are filled up
        let batch = batch.max(self.bound.only_rows("input_ids").unwrap_or(0));
        self.config.largest_bytes(batch, self.bound.is_converted())
    }

    /// Encodes prompts, each [`Config::positions`] ids long with its marks and padding.
    ///
    /// # Errors
    /// [`EngineError::Input`] for ids that are too few, too many or not in the vocabulary, a prompt without end mark, or more
    /// skipped layers than there are; [`EngineError::NotFinite`]; those of a run.
    pub fn encode(
        &self,
        prompts: &[Vec<i64>],
        options: EncodeOptions,
        control: &Control,
    ) -> Result<TextStates, EngineError> {
        let outputs = self.run(prompts, options, control)?;
        for (name, tensor) in &outputs {
            check_finite(name, tensor)?;
        }
        let mut outputs = outputs.into_iter().map(|(_, tensor)| tensor);
        match (outputs.next(), outputs.next(), outputs.next()) {
            (Some(last), Some(hidden), Some(pooled)) => {
                Ok(TextStates { last, hidden, pooled, projected: outputs.next() })
            }
            _ => Err(EngineError::Onnx { what: "encoding", answer: "fewer outputs than the graph has".to_owned() }),
        }
    }

    /// The outputs as they come, unchecked: `last`, the states that were asked for, `pooled`, `projected`.
    pub(crate) fn run(
        &self,
        prompts: &[Vec<i64>],
        options: EncodeOptions,
        control: &Control,
    ) -> Result<Vec<(&'static str, Tensor)>, EngineError> {
        let outcome = self.run_measured(prompts, options, control)?;
        let names = ["last", "hidden", "normed", "pooled", "projected"];
        let unwanted = if options.is_normed { "hidden" } else { "normed" };
        Ok(names.into_iter().zip(outcome.outputs).filter(|(name, _)| *name != unwanted).collect())
    }

    /// All outputs, in the graph's order, with what memory it took.
    pub(crate) fn run_measured(
        &self,
        prompts: &[Vec<i64>],
        options: EncodeOptions,
        control: &Control,
    ) -> Result<Outcome, EngineError> {
        let ids = self.ids(prompts)?;
        let ends: Vec<i64> =
            prompts.iter().enumerate().map(|(row, prompt)| self.end(row, prompt)).collect::<Result<_, _>>()?;
        let largest = self.largest_bytes(prompts.len());
        if let Some(named) = &self.outputs {
            named.hidden(options, self.config.layers)?;
            let given = [("input_ids", &ids)];
            let ran = self.bound.run(&given, largest, control)?;
            return Ok(Outcome { outputs: named.states(&ran.outputs, options, self.config.layers, &ends)?, ..ran });
        }
        let layer = Tensor::i64(&[1], vec![self.layer(options)?])?;
        let ends = Tensor::i64(&[prompts.len(), 1], ends)?;
        let inputs = [("input_ids", &ids), ("end", &ends), ("layer", &layer)];
        self.bound.run(&inputs, largest, control)
    }

    fn layer(&self, options: EncodeOptions) -> Result<i64, EngineError> {
        let layer = self.config.layers.checked_sub(options.skip).and_then(|layer| i64::try_from(layer).ok());
        layer.ok_or_else(|| EngineError::Input {
            name: "clip_skip".to_owned(),
            found: format!("{} layers to skip", options.skip),
            expected: format!("at most {}", self.config.layers),
        })
    }

    fn ids(&self, prompts: &[Vec<i64>]) -> Result<Tensor, EngineError> {
        let wrong =
            |found: String, expected: String| EngineError::Input { name: "input_ids".to_owned(), found, expected };
        let positions = self.config.positions;
        if let Some(prompt) = prompts.iter().find(|prompt| prompt.len() != positions) {
            return Err(wrong(format!("{} ids in a prompt", prompt.len()), format!("{positions}")));
        }
        let is_known = |id: &&i64| usize::try_from(**id).is_ok_and(|id| id < self.config.vocabulary);
        if let Some(id) = prompts.iter().flatten().find(|id| !is_known(id)) {
            return Err(self.unknown_token(*id));
        }
        if prompts.is_empty() {
            return Err(wrong("no prompt".to_owned(), "at least one".to_owned()));
        }
        Tensor::i64(&[prompts.len(), positions], prompts.concat())
    }

    /// The vocabulary of who cut the prompt is another than the encoder's.
    fn unknown_token(&self, id: i64) -> EngineError {
        let words = self.config.vocabulary;
        EngineError::Input {
            name: "input_ids".to_owned(),
            found: format!("the token id {id}, which this text encoder's vocabulary of {words} tokens does not have,"),
            expected: format!(
                "an id from 0 to {}: the tokenizer belongs to another encoder; put the model's own tokenizer beside it (a \
                 diffusers folder has one), or take text encoders of the usual vocabulary",
                words.saturating_sub(1)
            ),
        }
    }

    fn end(&self, row: usize, prompt: &[i64]) -> Result<i64, EngineError> {
        let position = end_position(prompt, self.config.end).and_then(|position| i64::try_from(position).ok());
        position.ok_or_else(|| EngineError::Input {
            name: "input_ids".to_owned(),
            found: format!("no end mark in prompt {row}"),
            expected: format!("{:?}", self.config.end),
        })
    }
}

/// The position whose last state is the pooled one; none without end mark.
fn end_position(prompt: &[i64], end: EndOfText) -> Option<usize> {
    match end {
        EndOfText::Id(id) => prompt.iter().position(|token| *token == id),
        EndOfText::Highest => {
            let highest = prompt.iter().max()?;
            prompt.iter().position(|token| token == highest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pooled_state_is_at_the_first_end_mark_or_the_first_of_the_highest() {
        // 9 ends and pads, 10 and 11 were added to the vocabulary
        let prompt = [8, 3, 11, 10, 11, 9, 9, 9];
        assert_eq!(end_position(&prompt, EndOfText::Id(9)), Some(5));
        assert_eq!(end_position(&prompt, EndOfText::Highest), Some(2));
        assert_eq!(end_position(&prompt, EndOfText::Id(7)), None);
        assert_eq!(end_position(&[], EndOfText::Highest), None);
    }

    #[test]
    fn families_take_the_states_that_diffusers_takes() {
        let of = EncodeOptions::for_base;
        assert_eq!(of(Some("sd15"), 0), EncodeOptions { skip: 0, is_normed: true });
        assert_eq!(of(Some("sd15"), 1), EncodeOptions { skip: 1, is_normed: true });
        assert_eq!(of(Some("sdxl"), 0), EncodeOptions { skip: 1, is_normed: false });
        assert_eq!(of(Some("sdxl"), 2), EncodeOptions { skip: 3, is_normed: false });
    }
}
