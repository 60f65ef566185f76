//! What commands take beside a model: a stack of LoRAs, other text encoders, or a pipeline in place of all models.

use std::{collections::BTreeMap, str::FromStr};

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use shared::job::engine::LoraUse;

use crate::error::CliError;

/// A stack of LoRAs, or the pipeline that says the models.
#[derive(Debug, Args)]
pub(super) struct StackArgs {
    /// A LoRA, with its weight and that in the text encoders: `NAME`, `NAME:0.8` or `NAME:0.8:0.5`; then factors of
    /// blocks: `NAME:0.8:mid_block=0.5,down_blocks.1=0`; may be given several times.
    #[arg(long = "lora", value_name = "LORA[:WEIGHT[:TEXT]][:BLOCKS]", conflicts_with = "pipeline")]
    loras: Vec<LoraArg>,

    /// The pipeline that says which models, in place of MODEL.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
}

/// Other models' text encoders.
#[derive(Debug, Args)]
pub(super) struct EncodersArgs {
    /// Another model's text encoder in place of the one of this kind, e.g. `text_encoder_2=MODEL`; may be given several times.
    #[arg(long = "text-encoder", value_name = "KIND=MODEL", conflicts_with = "pipeline")]
    text_encoders: Vec<EncoderArg>,
}

impl StackArgs {
    /// The stack as a request says it.
    pub(super) fn loras(&self) -> Vec<LoraUse<String>> {
        self.loras.iter().map(|lora| lora.0.clone()).collect()
    }

    /// The pipeline.
    pub(super) fn pipeline(&self) -> Option<String> {
        self.pipeline.clone()
    }

    /// The model, which a pipeline stands for, and a name for what is worked with.
    ///
    /// # Errors
    /// When neither is given.
    pub(super) fn subject(&self, model: Option<String>) -> Result<(String, String), CliError> {
        match (model, &self.pipeline) {
            (Some(model), None) => Ok((model.clone(), model)),
            (_, Some(pipeline)) => Ok((String::new(), pipeline.clone())),
            (None, None) => Err(CliError::Usage("name a model, or a pipeline with `--pipeline`".to_owned())),
        }
    }

    /// The request without the models that a pipeline says.
    ///
    /// # Errors
    /// Never for these types.
    pub(super) fn body<T: Serialize>(&self, request: &T) -> Result<Value, CliError> {
        let mut body = serde_json::to_value(request)?;
        if self.pipeline.is_some()
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("model");
            // what somebody did say of the VAE stays, and is refused
            fields.retain(|name, value| name != "vae_settings" || *value != serde_json::json!({}));
        }
        Ok(body)
    }
}

impl EncodersArgs {
    /// As a request says it.
    pub(super) fn text_encoders(&self) -> BTreeMap<String, String> {
        self.text_encoders.iter().cloned().map(EncoderArg::named).collect()
    }
}

/// A LoRA as people write it: `NAME`, `NAME:0.8` or `NAME:0.8:0.5`, each also with factors of blocks behind it:
/// `NAME:0.8:mid_block=0.5,down_blocks.1=0`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoraArg(pub(super) LoraUse<String>);

impl FromStr for LoraArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // from the end: a name may hold colons
        let (rest, blocks) = blocks_at_end(text)?;
        let (rest, last) = number_at_end(rest);
        let (name, first) = match last {
            Some(_) => number_at_end(rest),
            None => (rest, None),
        };
        if let Some(weight) = [first, last].into_iter().flatten().find(|weight| !weight.is_finite()) {
            return Err(format!("`{text}`: the weight {weight} is no finite number"));
        }
        if name.is_empty() {
            return Err(format!("`{text}` names no LoRA: write NAME, NAME:0.8 or NAME:0.8:0.5"));
        }
        let (weight, text_encoder_weight) = match (first, last) {
            (Some(weight), text) => (weight, text),
            (None, weight) => (weight.unwrap_or(1.0), None),
        };
        Ok(Self(LoraUse { text_encoder_weight, blocks, ..LoraUse::at(name.to_owned(), weight) }))
    }
}

/// The text before its last colon and the factors of blocks after it, where there are some.
pub(super) fn blocks_at_end(text: &str) -> Result<(&str, BTreeMap<String, f64>), String> {
    let pairs = |list: &str| -> Option<Vec<(String, f64)>> {
        list.split(',')
            .map(|pair| pair.split_once('=').and_then(|(block, factor)| Some((block.to_owned(), factor.parse().ok()?))))
            .collect()
    };
    let found = text.rsplit_once(':').and_then(|(rest, list)| Some((rest, pairs(list)?)));
    let Some((rest, pairs)) = found else { return Ok((text, BTreeMap::new())) };
    if let Some((block, factor)) = pairs.iter().find(|(_, factor)| !factor.is_finite()) {
        return Err(format!("`{text}`: the factor of `{block}` is {factor}, which is no finite number"));
    }
    let (count, blocks) = (pairs.len(), pairs.into_iter().collect::<BTreeMap<_, _>>());
    if blocks.len() < count {
        return Err(format!("`{text}` names a block twice"));
    }
    Ok((rest, blocks))
}

/// The text before its last colon and the number after it, where there is one.
fn number_at_end(text: &str) -> (&str, Option<f64>) {
    let split = text.rsplit_once(':').and_then(|(rest, number)| Some((rest, number.parse::<f64>().ok()?)));
    split.map_or((text, None), |(rest, number)| (rest, Some(number)))
}

/// A text encoder that takes a place: `KIND=MODEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncoderArg {
    kind: String,
    model: String,
}

impl EncoderArg {
    /// The kind and the model.
    pub(super) fn named(self) -> (String, String) {
        (self.kind, self.model)
    }
}

impl FromStr for EncoderArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((kind, model)) if !kind.is_empty() && !model.is_empty() => {
                Ok(Self { kind: kind.to_owned(), model: model.to_owned() })
            }
            _ => Err(format!("`{text}` is no text encoder: write KIND=MODEL, e.g. `text_encoder_2=MODEL`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loras_are_written_with_their_weights() {
        let of =
            |text: &str| text.parse::<LoraArg>().map(|lora| (lora.0.lora, lora.0.weight, lora.0.text_encoder_weight));
        assert_eq!(of("a"), Ok(("a".into(), 1.0, None)));
        assert_eq!(of("a:-0.5"), Ok(("a".into(), -0.5, None)));
        assert_eq!(of("a b:0.8:0"), Ok(("a b".into(), 0.8, Some(0.0))));
        assert_eq!(of("v:2:x"), Ok(("v:2:x".into(), 1.0, None)), "what is no number belongs to the name");
        assert!(of("").is_err() && of(":1").is_err());
        let with_blocks = |text: &str| {
            let LoraArg(used) = text.parse().unwrap();
            (used.lora, used.weight, used.text_encoder_weight, used.blocks.into_iter().collect::<Vec<_>>())
        };
        let two = vec![("down_blocks.1".to_owned(), 0.0), ("mid_block".to_owned(), -0.5)];
        assert_eq!(with_blocks("a:0.8:0:mid_block=-0.5,down_blocks.1=0"), ("a".into(), 0.8, Some(0.0), two.clone()));
        assert_eq!(with_blocks("a:mid_block=-0.5,down_blocks.1=0"), ("a".into(), 1.0, None, two));
        assert_eq!(with_blocks("a:b=c").0, "a:b=c", "what is no factor belongs to the name");
        assert!(of("a:mid_block=1,mid_block=2").is_err() && of(":mid_block=1").is_err());
        for endless in ["a:nan", "a:0.5:inf", "a:-inf:0.5", "a:0.5:mid_block=nan"] {
            assert!(of(endless).is_err_and(|why| why.contains("no finite number")), "{endless}");
        }
        assert!("text_encoder".parse::<EncoderArg>().is_err());
    }

    #[test]
    fn a_pipeline_stands_for_the_models() {
        let args = |pipeline: Option<&str>| StackArgs { loras: Vec::new(), pipeline: pipeline.map(str::to_owned) };
        let request = serde_json::json!({ "model": "", "vae_settings": {}, "prompt": "p" });
        assert_eq!(args(Some("p")).body(&request).unwrap(), serde_json::json!({ "prompt": "p" }));
        assert_eq!(args(None).body(&request).unwrap(), request);
        assert!(args(None).subject(None).is_err());
    }
}
