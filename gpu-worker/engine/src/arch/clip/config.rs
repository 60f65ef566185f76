//! The settings of a CLIP text encoder as transformers' `CLIPTextConfig` writes them.

use serde_json::{Value, json};

use crate::{arch::settings::Settings, error::EngineError, weights::TensorFacts};

pub(super) const MODEL: &str = "CLIP text encoder";
pub(super) const PROJECTION: &str = "text_projection.weight";
/// The number that configs had for the end mark while nobody read it (transformers before its change 24773).
const OLD_END: i64 = 2;

/// The function between the two layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(1.702 x)`: OpenAI's models.
    QuickGelu,
    /// With the error function: OpenCLIP's models.
    Gelu,
}

/// Which position of a prompt the pooled state is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfText {
    /// The first token with this id.
    Id(i64),
    /// The first of the tokens with the highest id: what transformers does where the config's number is the old one.
    Highest,
}

/// Which of a model's encoders it is: their activations differ where their sizes do not tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `text_encoder`.
    First,
    /// `text_encoder_2`.
    Second,
}

/// A CLIP text encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the token embedding.
    pub vocabulary: usize,
    /// Tokens of a prompt, marks and padding included.
    pub positions: usize,
    /// Width of a state.
    pub width: usize,
    /// Width between the two layers of a block.
    pub inner: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Between the two layers of a block.
    pub activation: Activation,
    /// Epsilon of the layer norms.
    pub norm_eps: f32,
    /// Width of the projected pooled state; none for an encoder without projection.
    pub projection: Option<usize>,
    /// Where the pooled state is.
    pub end: EndOfText,
}

impl Config {
    /// Reads `config.json`. Whether there is a projection stands in `architectures`; where that is silent, the tensors tell.
    ///
    /// # Errors
    /// [`EngineError::Config`] with the field that is wrong or asks for what is not supported.
    pub fn from_json(json: &Value, facts: &TensorFacts) -> Result<Self, EngineError> {
        let whole = Settings::new(MODEL, json)?;
        whole.only("model_type", &[json!("clip_text_model"), json!("clip")])?;
        // configs of whole CLIP models hold the text half's apart
        let text = whole.find("text_config").map_or(Ok(whole), |text| Settings::new(MODEL, text))?;
        let is_projected = projected(&whole)?.unwrap_or_else(|| facts.shape(PROJECTION).is_some());
        let config = Self {
            vocabulary: text.positive("vocab_size", 49_408)?,
            positions: text.positive("max_position_embeddings", 77)?,
            width: text.positive("hidden_size", 512)?,
            inner: text.positive("intermediate_size", 2048)?,
            layers: text.layers("num_hidden_layers", 12)?,
            heads: text.positive("num_attention_heads", 8)?,
            activation: activation(&text)?,
            norm_eps: text.float("layer_norm_eps", 1e-5)?,
            projection: if is_projected { Some(text.positive("projection_dim", 512)?) } else { None },
            end: end(&text)?,
        };
        match text.find("num_attention_heads") {
            Some(heads) if !config.width.is_multiple_of(config.heads) => {
                Err(text.wrong("num_attention_heads", heads, format!("a divisor of the width {}", config.width)))
            }
            _ => Ok(config),
        }
    }
}

fn projected(settings: &Settings<'_>) -> Result<Option<bool>, EngineError> {
    const FIELD: &str = "architectures";
    let Some(value) = settings.find(FIELD) else { return Ok(None) };
    match value.get(0).and_then(Value::as_str) {
        Some("CLIPTextModelWithProjection" | "CLIPModel") => Ok(Some(true)),
        Some("CLIPTextModel") => Ok(Some(false)),
        _ => Err(settings.wrong(FIELD, value, "CLIPTextModel, CLIPTextModelWithProjection, CLIPModel")),
    }
}

fn activation(settings: &Settings<'_>) -> Result<Activation, EngineError> {
    const FIELD: &str = "hidden_act";
    let Some(value) = settings.find(FIELD) else { return Ok(Activation::QuickGelu) };
    match value.as_str() {
        Some("quick_gelu") => Ok(Activation::QuickGelu),
        Some("gelu") => Ok(Activation::Gelu),
        _ => Err(settings.wrong(FIELD, value, "quick_gelu, gelu")),
    }
}

fn end(settings: &Settings<'_>) -> Result<EndOfText, EngineError> {
    const FIELD: &str = "eos_token_id";
    let Some(value) = settings.find(FIELD) else { return Ok(EndOfText::Id(49_407)) };
    match value.as_i64() {
        Some(OLD_END) => Ok(EndOfText::Highest),
        Some(id) if id >= 0 => Ok(EndOfText::Id(id)),
        _ => Err(settings.wrong(FIELD, value, "a token id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tensor::ElementType, weights::TensorFact};

    fn read(json: &Value) -> Result<Config, EngineError> {
        Config::from_json(json, &TensorFacts::default())
    }

    #[test]
    fn fields_that_cannot_be_meant_are_named() {
        let cases = [
            ("num_attention_heads", json!({ "hidden_size": 48, "num_attention_heads": 5 })),
            ("hidden_size", json!({ "hidden_size": "wide" })),
            ("num_hidden_layers", json!({ "num_hidden_layers": 16_000_000 })),
            ("hidden_act", json!({ "hidden_act": "relu" })),
            ("model_type", json!({ "model_type": "t5" })),
            ("architectures", json!({ "architectures": ["CLIPVisionModel"] })),
            ("eos_token_id", json!({ "eos_token_id": [1] })),
        ];
        for (wrong, json) in cases {
            let error = read(&json).unwrap_err();
            assert!(matches!(&error, EngineError::Config { field, .. } if field == wrong), "{error}");
        }
    }

    #[test]
    fn the_projection_is_in_the_architectures_or_among_the_tensors() {
        let plain = json!({ "architectures": ["CLIPTextModel"], "projection_dim": 40 });
        assert_eq!(read(&plain).unwrap().projection, None);
        let projected = json!({ "architectures": ["CLIPTextModelWithProjection"], "projection_dim": 40 });
        assert_eq!(read(&projected).unwrap().projection, Some(40));
        let fact = TensorFact { dtype: ElementType::F32, shape: vec![40, 512] };
        let facts = [(PROJECTION.to_owned(), fact)].into_iter().collect();
        let silent = Config::from_json(&json!({ "projection_dim": 40 }), &facts).unwrap();
        assert_eq!(silent.projection, Some(40));
        assert_eq!(read(&json!({})).unwrap().projection, None);
    }

    #[test]
    fn the_old_number_of_the_end_mark_means_the_highest_token() {
        assert_eq!(read(&json!({ "eos_token_id": 2 })).unwrap().end, EndOfText::Highest);
        assert_eq!(read(&json!({ "eos_token_id": 7 })).unwrap().end, EndOfText::Id(7));
        assert_eq!(read(&json!({})).unwrap().end, EndOfText::Id(49_407));
    }
}
