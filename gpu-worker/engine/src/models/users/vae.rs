//! The half of a VAE that a user's graph is: what it takes, which output counts, whether it draws its own noise.

use serde_json::{Value, json};

use crate::{
    arch::vae,
    error::EngineError,
    graph::{UserGraph, fixed, wrong_graph},
    models::vae::Architecture,
};

/// What a decoder takes.
const LATENTS: &str = "latent_sample";
/// What an encoder takes, and a decoder gives.
const IMAGE: &str = "sample";
/// What an encoder gives where it leaves the drawing to others: mean and logarithm of the variance.
const MOMENTS: &str = "latent_parameters";

/// A half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::models) struct Half {
    /// Whether it decodes.
    pub(in crate::models) decodes: bool,
    /// The place of what counts among its outputs.
    pub(in crate::models) output: usize,
    /// Whether that is mean and variance.
    pub(in crate::models) has_moments: bool,
    /// Whether it is latents that the graph drew itself.
    pub(in crate::models) draws: bool,
    /// The only number of images that it takes at a time: fewer are filled up to it.
    pub(in crate::models) only_rows: Option<usize>,
}

impl Half {
    /// Of a graph as diffusers' and optimum's exporters write it.
    ///
    /// # Errors
    /// [`EngineError::Config`] for a graph that is no half of a VAE.
    pub(in crate::models) fn of(graph: &UserGraph) -> Result<Self, EngineError> {
        let decodes = graph.input(LATENTS).is_some();
        let input = if decodes { LATENTS } else { IMAGE };
        graph.must_take(&[input])?;
        let place = |name: &str| graph.output(name).map(|(at, _)| at);
        let moments = place(MOMENTS).filter(|_| !decodes);
        let wanted = if decodes { IMAGE } else { LATENTS };
        let alone = || (graph.outputs().len() == 1).then_some(0);
        let output = moments.or_else(|| place(wanted)).or_else(alone);
        let output = output.ok_or_else(|| wrong_graph(wanted, "no output".to_owned(), "an output of this name"))?;
        let draws = !decodes && moments.is_none() && graph.draws_noise();
        let only_rows = graph.input(input).and_then(|port| fixed(port, 0));
        Ok(Self { decodes, output, has_moments: moments.is_some(), draws, only_rows })
    }

    /// The VAE that it is half of: its `config.json`, else what the graph shows and its family has.
    ///
    /// # Errors
    /// [`EngineError::Config`] for what neither tells.
    pub(in crate::models) fn architecture(
        self,
        graph: &UserGraph,
        json: Option<&Value>,
        base: Option<&str>,
    ) -> Result<Architecture, EngineError> {
        if let Some(json) = json {
            return Architecture::from_json(json);
        }
        let channels = if self.decodes { graph.channels_in(LATENTS) } else { self.encoded_channels(graph) };
        let channels = channels.ok_or_else(|| {
            wrong_graph(LATENTS, "without channels".to_owned(), "some, or the part's config.json beside the graph")
        })?;
        // levels of all released VAEs; a graph does not show them
        let json = json!({
            "latent_channels": channels, "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
        });
        Ok(Architecture::Kl(vae::Config::from_json(&json)?.of_base(base)))
    }

    fn encoded_channels(self, graph: &UserGraph) -> Option<usize> {
        let output = graph.outputs().get(self.output)?;
        let channels = graph.channels_out(&output.name)?;
        Some(if self.has_moments { channels / 2 } else { channels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::test_graph;

    #[test]
    fn halves_are_told_apart_and_what_draws_is_known() {
        let decoder = test_graph(&[(LATENTS, &[1, 4, 0, 0])], &[], &[(IMAGE, &[])], &[]);
        let half = Half::of(&decoder).unwrap();
        assert!(half.decodes && half.only_rows == Some(1) && !half.has_moments && !half.draws);
        let architecture = half.architecture(&decoder, None, Some("sdxl")).unwrap();
        assert_eq!((architecture.latent_channels(), architecture.scale()), (4, 8));
        assert_eq!(architecture.scaling_factor(), Some(0.13025));

        let outputs: [(&str, &[i64]); 2] = [("other", &[]), (MOMENTS, &[0, 32, 0, 0])];
        let encoder = test_graph(&[(IMAGE, &[0, 3, 0, 0])], &[], &outputs, &[]);
        let half = Half::of(&encoder).unwrap();
        assert_eq!((half.decodes, half.output, half.has_moments, half.draws), (false, 1, true, false));
        assert_eq!(half.architecture(&encoder, None, None).unwrap().latent_channels(), 16);

        let noise = [("RandomNormalLike", &[IMAGE][..], "noise")];
        let drawn = test_graph(&[(IMAGE, &[0, 3, 0, 0])], &noise, &[(LATENTS, &[0, 4, 0, 0])], &[]);
        assert!(Half::of(&drawn).unwrap().draws);

        let three = test_graph(&[(LATENTS, &[3, 4, 0, 0])], &[], &[(IMAGE, &[])], &[]);
        assert_eq!(Half::of(&three).unwrap().only_rows, Some(3));

        let both = test_graph(&[(IMAGE, &[0]), ("mask", &[0])], &[], &[(LATENTS, &[])], &[]);
        assert!(matches!(Half::of(&both), Err(EngineError::Config { field, .. }) if field == "mask"));
    }
}
