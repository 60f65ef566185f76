//! What a user's UNet graph takes and gives, as far as somebody has to know it before it runs.

use serde_json::{Value, json};

use crate::{
    arch::unet2d::{Added, Config},
    error::EngineError,
    graph::{UserGraph, fixed, wrong_graph},
};

/// Inputs as diffusers' and optimum's exporters name them.
const INPUTS: [&str; 5] = ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"];
/// The prediction.
const OUTPUT: &str = "out_sample";
/// Width of a number's sinusoid where nothing tells it: only whether width and numbers agree depends on it.
const EACH: usize = 256;

/// The place of the prediction among the outputs.
///
/// # Errors
/// [`EngineError::Config`] for a graph that is no UNet's.
pub(in crate::models) fn output(graph: &UserGraph) -> Result<usize, EngineError> {
    graph.must_take(&INPUTS)?;
    match (graph.output(OUTPUT), graph.outputs()) {
        (Some((at, _)), _) => Ok(at),
        (None, [_]) => Ok(0),
        (None, outputs) => {
            Err(wrong_graph(OUTPUT, format!("none of {} outputs", outputs.len()), "an output of this name"))
        }
    }
}

/// Widths as the graph shows them, whose prediction is the output at that place, else as `config.json` says. Levels, from which memory is estimated, are those of the config,
/// without one those of SD 1.5.
///
/// # Errors
/// [`EngineError::Config`] for what neither tells.
pub(in crate::models) fn config(graph: &UserGraph, output: usize, json: Option<&Value>) -> Result<Config, EngineError> {
    let told = json.is_some();
    let mut config = Config::from_json(json.unwrap_or(&json!({})))?;
    let known = |name: &str, shown: Option<usize>, said: usize| {
        shown.or(told.then_some(said)).ok_or_else(|| {
            wrong_graph(name, "without a width".to_owned(), "one, or the part's config.json beside the graph")
        })
    };
    config.in_channels = known("sample", graph.channels_in("sample"), config.in_channels)?;
    let out = graph.outputs().get(output).and_then(|port| graph.channels_out(&port.name));
    config.out_channels = known(OUTPUT, out, config.out_channels)?;
    let context = graph.input("encoder_hidden_states").and_then(|port| fixed(port, 2));
    config.context = known("encoder_hidden_states", context, config.context)?;
    config.added = added(graph, config.added)?;
    Ok(config)
}

fn added(graph: &UserGraph, said: Option<Added>) -> Result<Option<Added>, EngineError> {
    let (Some(text), Some(numbers)) = (graph.input("text_embeds"), graph.input("time_ids")) else { return Ok(None) };
    let shown = fixed(text, 1).zip(fixed(numbers, 1));
    let shown =
        shown.map(|(text, numbers)| Added { inputs: text.saturating_add(numbers.saturating_mul(EACH)), each: EACH });
    let unknown =
        || wrong_graph("time_ids", "without a width".to_owned(), "one, or the part's config.json beside the graph");
    said.or(shown).map(Some).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::test_graph;

    const TAKES: [(&str, &[i64]); 3] =
        [("sample", &[2, 4, 0, 0]), ("timestep", &[]), ("encoder_hidden_states", &[2, 77, 768])];

    #[test]
    fn a_lone_output_is_the_prediction_whatever_it_is_called_and_of_several_one_must_say_so() {
        let lone = test_graph(&TAKES, &[], &[("noise_pred", &[2, 4, 0, 0])], &[]);
        let at = output(&lone).unwrap();
        let config = config(&lone, at, None).unwrap();
        assert_eq!((at, config.in_channels, config.out_channels, config.context), (0, 4, 4, 768));
        let second = test_graph(&TAKES, &[], &[("hidden", &[2, 320]), (OUTPUT, &[2, 8, 0, 0])], &[]);
        let at = output(&second).unwrap();
        assert_eq!((at, super::config(&second, at, None).unwrap().out_channels), (1, 8));
        let neither = test_graph(&TAKES, &[], &[("a", &[2, 4]), ("b", &[2, 4])], &[]);
        let refused = output(&neither);
        assert!(matches!(refused, Err(EngineError::Config { field, .. }) if field == OUTPUT));
    }
}
