//! What PEFT and diffusers write beside the factors: alpha by module, and how the scale is computed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The settings of one component's adapter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AdapterSettings {
    /// `lora_alpha`, for modules that no pattern names.
    pub alpha: Option<f64>,
    /// `alpha_pattern`: alpha of the modules whose path is the key or ends with it.
    pub alphas: BTreeMap<String, f64>,
    /// `use_rslora`: the scale is alpha/√r instead of alpha/r.
    pub rank_stabilised: bool,
    /// `fan_in_fan_out`: the product is transposed.
    pub transposed: bool,
}

impl AdapterSettings {
    /// Reads an `adapter_config.json`, or the part of diffusers' `lora_adapter_metadata` whose keys begin with
    /// `<component>.`; `component` is empty for the former. None where nothing is said.
    #[must_use]
    pub fn from_json(document: &Map<String, Value>, component: &str) -> Option<Self> {
        let of = |key: &str| match component {
            "" => document.get(key),
            component => document.get(&format!("{component}.{key}")),
        };
        let flag = |key| of(key).and_then(Value::as_bool).unwrap_or(false);
        let alpha = of("lora_alpha").and_then(Value::as_f64);
        let pattern = of("alpha_pattern").and_then(Value::as_object);
        if alpha.is_none() && pattern.is_none() && of("r").is_none() {
            return None;
        }
        let alphas = pattern.into_iter().flatten().filter_map(|(path, value)| Some((path.clone(), value.as_f64()?)));
        Some(Self {
            alpha,
            alphas: alphas.collect(),
            rank_stabilised: flag("use_rslora"),
            transposed: flag("fan_in_fan_out"),
        })
    }

    /// The scale of a module of this dotted path and rank.
    #[must_use]
    pub fn scale(&self, path: &str, rank: usize) -> Option<f64> {
        let named = |key: &str| path == key || path.strip_suffix(key).is_some_and(|front| front.ends_with('.'));
        // the longest key is the most exact
        let pattern = self.alphas.iter().filter(|(key, _)| named(key)).max_by_key(|(key, _)| key.len());
        let alpha = pattern.map(|(_, alpha)| *alpha).or(self.alpha)?;
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let rank = rank.max(1) as f64;
        Some(if self.rank_stabilised { alpha / rank.sqrt() } else { alpha / rank })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn alpha_comes_from_the_most_exact_pattern() {
        let document = json!({
            "unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": { "to_q": 2.0, "attn1.to_q": 1.0 },
            "text_encoder.lora_alpha": 16, "text_encoder.use_rslora": true,
        });
        let document = document.as_object().unwrap();
        let unet = AdapterSettings::from_json(document, "unet").unwrap();
        assert_eq!(unet.scale("a.attn1.to_q", 4), Some(0.25));
        assert_eq!(unet.scale("a.attn2.to_q", 4), Some(0.5));
        assert_eq!(unet.scale("a.attn2.xto_q", 4), Some(2.0));
        let encoder = AdapterSettings::from_json(document, "text_encoder").unwrap();
        assert_eq!(encoder.scale("a", 4), Some(8.0));
        assert_eq!(AdapterSettings::from_json(document, "text_encoder_2"), None);
    }
}
