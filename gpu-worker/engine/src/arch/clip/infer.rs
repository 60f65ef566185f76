//! The config of a CLIP text encoder that comes without one: a single-file checkpoint.
//!
//! Sizes are those of the tensors. Heads, activation and end mark leave no trace in them and follow from the family.

use super::config::{Activation, Config, EndOfText, MODEL, PROJECTION, Role};
use crate::{
    arch::settings::{side, wrong},
    error::EngineError,
    weights::TensorFacts,
};

/// Width of a head in every released CLIP text encoder.
const HEAD: usize = 64;
/// Narrower encoders than any release are reduced models, which have this many heads (`modelyard dev make-models`).
const NARROWEST: usize = 512;
const REDUCED_HEADS: usize = 4;
/// The end mark of CLIP's vocabulary, and the size of that vocabulary.
const END: i64 = 49_407;
const VOCABULARY: usize = 49_408;

impl Config {
    /// Infers the config from canonical names and shapes; `base` is the family that the model belongs to.
    ///
    /// # Errors
    /// [`EngineError::Config`] with the tensor that is missing or does not fit.
    pub fn infer(facts: &TensorFacts, role: Role, base: Option<&str>) -> Result<Self, EngineError> {
        let tokens = "text_model.embeddings.token_embedding.weight";
        let positions = "text_model.embeddings.position_embedding.weight";
        let vocabulary = side(MODEL, facts, tokens, 0)?;
        let width = side(MODEL, facts, tokens, 1)?;
        let heads = if width < NARROWEST { REDUCED_HEADS } else { width / HEAD };
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(wrong(
                MODEL,
                tokens,
                format!("{width} wide"),
                format!("a multiple of the heads' width {HEAD}"),
            ));
        }
        Ok(Self {
            vocabulary,
            positions: side(MODEL, facts, positions, 0)?,
            width,
            inner: side(MODEL, facts, "text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
            layers: facts.count("text_model.encoder.layers."),
            heads,
            activation: activation(width, role, base),
            norm_eps: 1e-5,
            projection: facts.shape(PROJECTION).and_then(|shape| shape.first()).copied(),
            end: if vocabulary < VOCABULARY { EndOfText::Highest } else { EndOfText::Id(END) },
        })
    }

    /// From `config.json` where there is one, else from the tensors.
    ///
    /// # Errors
    /// As [`Config::from_json`] and [`Config::infer`].
    pub fn read(
        json: Option<&serde_json::Value>,
        facts: &TensorFacts,
        role: Role,
        base: Option<&str>,
    ) -> Result<Self, EngineError> {
        json.map_or_else(|| Self::infer(facts, role, base), |json| Self::from_json(json, facts))
    }
}

/// CLIP-L is OpenAI's, H and bigG are OpenCLIP's. Widths tell the releases apart, the family tells reduced models.
fn activation(width: usize, role: Role, base: Option<&str>) -> Activation {
    match (width, base, role) {
        (768, ..) => Activation::QuickGelu,
        (1024 | 1280, ..) | (_, Some("sd21" | "sdxl-refiner"), _) => Activation::Gelu,
        (_, Some("sdxl" | "sd3"), Role::Second) => Activation::Gelu,
        _ => Activation::QuickGelu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arch::golden, tensor::ElementType, weights::TensorFact};

    fn facts(vocabulary: usize, width: usize, layers: usize) -> TensorFacts {
        let fixed = [
            ("text_model.embeddings.token_embedding.weight".to_owned(), vec![vocabulary, width]),
            ("text_model.embeddings.position_embedding.weight".to_owned(), vec![77, width]),
        ];
        let layer =
            |layer: usize| (format!("text_model.encoder.layers.{layer}.mlp.fc1.weight"), vec![width * 4, width]);
        let fact = |(name, shape)| (name, TensorFact { dtype: ElementType::F32, shape });
        fixed.into_iter().chain((0..layers).map(layer)).map(fact).collect()
    }

    #[test]
    fn the_three_releases_are_told_apart_by_their_width() {
        let [l, h, g] = [(768, 12), (1024, 23), (1280, 32)]
            .map(|(width, layers)| Config::infer(&facts(49_408, width, layers), Role::First, None).unwrap());
        assert_eq!([l.heads, h.heads, g.heads], [12, 16, 20]);
        assert_eq!([l.layers, h.layers, g.layers], [12, 23, 32]);
        assert_eq!([l.activation, h.activation], [Activation::QuickGelu, Activation::Gelu]);
        assert_eq!(g.activation, Activation::Gelu);
        assert_eq!(l.end, EndOfText::Id(49_407));
    }

    #[test]
    fn reduced_models_are_inferred_as_their_folders_have_it() {
        let first = Role::First;
        let maps = [("clip-l", first, "sdxl"), ("clip-h", first, "sd21"), ("clip-g", Role::Second, "sdxl")];
        for ((map, role, base), (width, layers)) in maps.into_iter().zip([(32, 2), (48, 2), (64, 3)]) {
            let (tensors, is_first) = (golden::reduced(map), map == "clip-l");
            let facts = golden::facts(&tensors);
            // as `modelyard dev make-models` writes it
            let json = serde_json::json!({
                "eos_token_id": 2, "hidden_act": if is_first { "quick_gelu" } else { "gelu" }, "hidden_size": width,
                "intermediate_size": width * 4, "num_attention_heads": 4, "num_hidden_layers": layers,
                "projection_dim": width, "vocab_size": 800,
            });
            let config = Config::from_json(&json, &facts).unwrap();
            assert_eq!(Config::infer(&facts, role, Some(base)).unwrap(), config, "{map}");
        }
    }

    #[test]
    fn the_family_tells_the_activation_of_reduced_models() {
        let read = |role, base| Config::infer(&facts(800, 32, 2), role, Some(base)).unwrap();
        assert_eq!(read(Role::First, "sdxl").activation, Activation::QuickGelu);
        assert_eq!(read(Role::Second, "sdxl").activation, Activation::Gelu);
        assert_eq!(read(Role::First, "sd21").activation, Activation::Gelu);
        assert_eq!((read(Role::First, "sd15").heads, read(Role::First, "sd15").end), (4, EndOfText::Highest));
    }

    #[test]
    fn the_releases_are_inferred_from_their_tensors_and_mean_them() {
        for (release, role) in [("clip-l", Role::First), ("clip-h", Role::First), ("clip-g", Role::Second)] {
            let tensors = golden::tensors(release);
            let facts = golden::facts(&tensors);
            let config = Config::from_json(&golden::config(release), &facts).unwrap();
            assert_eq!(Config::infer(&facts, role, None).unwrap(), config, "{release}");
            let mut meant = config.tensors();
            meant.sort();
            assert_eq!(meant, tensors, "{release}");
        }
    }

    #[test]
    fn a_tensor_that_is_missing_is_named() {
        let error = Config::infer(&TensorFacts::default(), Role::First, None).unwrap_err();
        assert!(error.to_string().contains("token_embedding.weight` is absent"), "{error}");
    }
}
