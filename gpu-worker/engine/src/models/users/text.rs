//! What a user's text encoder takes and gives, and its states in the order of our own graphs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    arch::clip::{Config, EndOfText},
    error::EngineError,
    graph::{UserGraph, fixed, wrong_graph},
    models::EncodeOptions,
    tensor::Tensor,
    weights::TensorFacts,
};

/// States of the layer of this number.
const LAYER: &str = "hidden_states.";

/// Where a graph has its states among its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::models) struct Outputs {
    last: usize,
    pooled: Option<usize>,
    projected: Option<usize>,
    /// The states before the final norm behind so many layers.
    layers: BTreeMap<usize, usize>,
}

impl Outputs {
    /// Of a graph as transformers' models are exported.
    ///
    /// # Errors
    /// [`EngineError::Config`] for a graph that is no text encoder's.
    pub(in crate::models) fn of(graph: &UserGraph) -> Result<Self, EngineError> {
        graph.must_take(&["input_ids"])?;
        let place = |name: &str| graph.output(name).map(|(at, _)| at);
        let last = place("last_hidden_state");
        let last = last.ok_or_else(|| {
            wrong_graph("last_hidden_state", "no output".to_owned(), "the states of all positions as an output")
        })?;
        let layer = |(at, port): (usize, &crate::graph::Port)| Some((port.name.strip_prefix(LAYER)?.parse().ok()?, at));
        let layers = graph.outputs().iter().enumerate().filter_map(layer).collect();
        Ok(Self { last, pooled: place("pooler_output"), projected: place("text_embeds"), layers })
    }

    /// Which layers' states the graph gives; 0 where it gives the last ones only.
    fn highest(&self) -> usize {
        self.layers.keys().last().copied().unwrap_or(0)
    }

    /// Where the states that were asked for are, of an encoder with so many layers: a graph may give the states of some only.
    ///
    /// # Errors
    /// [`EngineError::Input`] when the graph does not give them.
    pub(in crate::models) fn hidden(&self, options: EncodeOptions, depth: usize) -> Result<usize, EngineError> {
        if options.is_normed && options.skip == 0 {
            return Ok(self.last);
        }
        let layer = depth.checked_sub(options.skip).filter(|_| !options.is_normed);
        let found = layer.and_then(|layer| self.layers.get(&layer)).copied();
        found.ok_or_else(|| EngineError::Input {
            name: "clip_skip".to_owned(),
            found: format!("states {} layers before the last, {}", options.skip, norm(options.is_normed)),
            expected: match self.highest() {
                0 => "the last layer's: the graph gives no others".to_owned(),
                highest => format!("the last layer's, or those of the layers up to {highest} without the norm"),
            },
        })
    }

    /// Last states, those asked for twice, pooled and projected ones: as our own graphs give them.
    ///
    /// # Errors
    /// As [`Self::hidden`]; outputs of other shapes than states have.
    pub(in crate::models) fn states(
        &self,
        outputs: &[Tensor],
        options: EncodeOptions,
        depth: usize,
        ends: &[i64],
    ) -> Result<Vec<Tensor>, EngineError> {
        let hidden = self.hidden(options, depth)?;
        let at = |at: usize| {
            let missing = || EngineError::Onnx { what: "encoding", answer: format!("output {at} is not there") };
            outputs.get(at).cloned().ok_or_else(missing)
        };
        let (last, hidden) = (at(self.last)?, at(hidden)?);
        let pooled = self.pooled.map_or_else(|| at_ends(&last, ends), at)?;
        let projected = self.projected.map(at).transpose()?;
        Ok([last, hidden.clone(), hidden, pooled].into_iter().chain(projected).collect())
    }
}

fn norm(is_normed: bool) -> &'static str {
    if is_normed { "under the final norm" } else { "without the final norm" }
}

/// The state at the end of each row's text.
fn at_ends(states: &Tensor, ends: &[i64]) -> Result<Tensor, EngineError> {
    let (&[rows, positions, width], Some(values)) = (states.shape.as_slice(), states.as_f32()) else {
        let answer = format!("states of the shape {:?}", states.shape);
        return Err(EngineError::Onnx { what: "encoding", answer });
    };
    let begin = |(row, end): (usize, &i64)| (row * positions + usize::try_from(*end).unwrap_or(0)) * width;
    let pooled = ends.iter().enumerate().filter_map(|end| values.get(begin(end)..)?.get(..width));
    Tensor::f32(&[rows, width], pooled.flatten().copied().collect())
}

/// Sizes as the graph shows them, else as `config.json` says, else as every CLIP encoder has them.
///
/// # Errors
/// [`EngineError::Config`] for what nothing tells.
pub(in crate::models) fn config(
    graph: &UserGraph,
    outputs: &Outputs,
    json: Option<&Value>,
) -> Result<Config, EngineError> {
    let told = json.is_some();
    let mut config = Config::from_json(json.unwrap_or(&json!({})), &TensorFacts::default())?;
    if !told {
        // exporters of the time before the end mark was told left the search for it in the graph
        config.end = EndOfText::Highest;
    }
    let side = |at: usize, axis: usize| graph.outputs().get(at).and_then(|port| fixed(port, axis));
    let embedding = graph.first_layer("input_ids").and_then(|shape| Some((*shape.first()?, *shape.get(1)?)));
    let width = side(outputs.last, 2).or(embedding.map(|(_, width)| width)).or(told.then_some(config.width));
    config.width = width.ok_or_else(|| {
        wrong_graph(
            "last_hidden_state",
            "without a width".to_owned(),
            "one, or the part's config.json beside the graph",
        )
    })?;
    config.vocabulary = embedding.map_or(config.vocabulary, |(rows, _)| rows);
    config.positions = graph.input("input_ids").and_then(|port| fixed(port, 1)).unwrap_or(config.positions);
    let is_depth_told = json.is_some_and(|json| json.get("num_hidden_layers").is_some());
    if outputs.highest() > 0 && !is_depth_told {
        config.layers = outputs.highest();
    }
    let projection = outputs.projected.and_then(|at| side(at, 1)).or(config.projection).unwrap_or(config.width);
    config.projection = outputs.projected.map(|_| projection);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(layers: &[usize]) -> Outputs {
        let layers = layers.iter().map(|layer| (*layer, 2 + layer)).collect();
        Outputs { last: 0, pooled: None, projected: Some(1), layers }
    }

    #[test]
    fn the_states_of_a_layer_are_those_that_the_graph_gives_or_are_refused() {
        let last = EncodeOptions { skip: 0, is_normed: true };
        let penultimate = EncodeOptions { skip: 1, is_normed: false };
        assert_eq!(outputs(&[]).hidden(last, 3).unwrap(), 0);
        assert_eq!(outputs(&[0, 1, 2, 3]).hidden(penultimate, 3).unwrap(), 4);
        // exported without the states behind its last layer
        assert_eq!(outputs(&[0, 1, 2]).hidden(penultimate, 3).unwrap(), 4);
        let refused = [
            (outputs(&[]), penultimate),
            (outputs(&[0, 1, 2]), EncodeOptions { skip: 1, is_normed: true }),
            (outputs(&[0, 1, 2]), EncodeOptions { skip: 4, is_normed: false }),
            (outputs(&[0, 1]), penultimate),
        ];
        for (outputs, options) in refused {
            let error = outputs.hidden(options, 3).unwrap_err();
            assert!(matches!(&error, EngineError::Input { name, .. } if name == "clip_skip"), "{error}");
        }
    }

    #[test]
    fn a_graph_without_pooled_states_has_them_at_the_ends_of_the_texts() {
        let last = Tensor::f32(&[2, 3, 2], (0..12_u8).map(f32::from).collect()).unwrap();
        let given = [last, Tensor::f32(&[2, 1], vec![7.0, 8.0]).unwrap()];
        let states = outputs(&[]).states(&given, EncodeOptions { skip: 0, is_normed: true }, 3, &[2, 1]).unwrap();
        assert_eq!(states[3], Tensor::f32(&[2, 2], vec![4.0, 5.0, 8.0, 9.0]).unwrap());
        assert_eq!((states.len(), &states[4]), (5, &given[1]));
    }
}
