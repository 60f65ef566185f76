//! What PEFT and diffusers write beside the factors: alpha by module, and how the scale is computed.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::pattern::{BadPattern, PathPattern};

/// The alpha and the rank of an adapter whose settings say none: what PEFT's configs take then.
const PEFT_ALPHA: f64 = 8.0;
const PEFT_RANK: f64 = 8.0;

/// The settings of one component's adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSettings {
    /// `lora_alpha`, of LoHa and LoKr `alpha`, for modules that no pattern names; PEFT's own where it is left out or `null`.
    pub alpha: f64,
    /// `alpha_pattern` in the order of the file: of the keys that name a module the first gives its alpha.
    pub alphas: Vec<(PathPattern, f64)>,
    /// `use_rslora`: the scale is alpha/√r instead of alpha/r.
    pub rank_stabilised: bool,
    /// `fan_in_fan_out`: the product is transposed.
    pub transposed: bool,
    /// Of PEFT's LoKr: what alpha is divided by also where neither matrix is a product, whose sides would tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Ranks>,
}

/// Ranks as settings say them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranks {
    /// `r`, for modules that no pattern names.
    pub rank: f64,
    /// `rank_pattern` in the order of the file.
    pub patterns: Vec<(PathPattern, f64)>,
}

/// What PEFT calls the kinds of adapters whose scale is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lora,
    Loha,
    Lokr,
}

impl Kind {
    /// The setting that holds its alpha.
    const fn alpha(self) -> &'static str {
        match self {
            Self::Lora => "lora_alpha",
            Self::Loha | Self::Lokr => "alpha",
        }
    }
}

/// Settings that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text is none.
    #[error("it is no JSON object")]
    NoObject(#[source] serde_json::Error),
    /// A field is of another type.
    #[error("`{field}` is not what PEFT writes there")]
    Field {
        /// The field.
        field: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// They are those of another kind of adapter.
    #[error("`{field}` is `{kind}`, whose factors are scaled in ways of its own; LORA, LOHA and LOKR are known")]
    Kind {
        /// The field.
        field: String,
        /// What PEFT calls it.
        kind: String,
    },
    /// A key of a pattern is not understood.
    #[error("a key of `{field}` cannot be applied")]
    Pattern {
        /// The field.
        field: String,
        /// Which key, and what of it.
        #[source]
        source: BadPattern,
    },
}

/// An `adapter_config.json`, or diffusers' `lora_adapter_metadata`, whose keys begin with `<component>.`.
#[derive(Debug)]
pub struct AdapterDocument(BTreeMap<String, Box<RawValue>>);

impl AdapterDocument {
    /// Reads the text. Values are looked at when they are asked for: most are none of ours.
    ///
    /// # Errors
    /// [`SettingsError::NoObject`].
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        serde_json::from_str(text).map(Self).map_err(SettingsError::NoObject)
    }

    /// What it says of this component, empty for a file of PEFT's; none where nothing is said.
    ///
    /// # Errors
    /// [`SettingsError`]: the first field that is wrong.
    pub fn of(&self, component: &str) -> Result<Option<AdapterSettings>, SettingsError> {
        self.read(component, true)
    }

    /// The same without the ranks of LoKr, for modules whose factors show theirs.
    ///
    /// # Errors
    /// [`SettingsError`]: the first field that is wrong, of those that are read.
    pub fn without_ranks(&self, component: &str) -> Result<Option<AdapterSettings>, SettingsError> {
        self.read(component, false)
    }

    fn read(&self, component: &str, with_ranks: bool) -> Result<Option<AdapterSettings>, SettingsError> {
        let name = |key: &str| name(component, key);
        let kind = self.kind(&name("peft_type"))?;
        let alpha = self.field::<f64>(&name(kind.alpha()))?;
        let pattern = self.field::<InOrder>(&name("alpha_pattern"))?;
        if alpha.is_none() && pattern.is_none() && !self.0.contains_key(&name("r")) {
            return Ok(None);
        }
        Ok(Some(AdapterSettings {
            alpha: alpha.unwrap_or(PEFT_ALPHA),
            alphas: patterns(&name("alpha_pattern"), pattern.unwrap_or_default())?,
            rank_stabilised: self.field(&name("use_rslora"))?.unwrap_or(false),
            transposed: self.field(&name("fan_in_fan_out"))?.unwrap_or(false),
            ranks: if with_ranks && kind == Kind::Lokr { Some(self.ranks(component)?) } else { None },
        }))
    }

    /// What kind of adapter it is for.
    fn kind(&self, field: &str) -> Result<Kind, SettingsError> {
        let said = self.field::<String>(field)?;
        match said.as_deref().map(|kind| kind.strip_prefix("PeftType.").unwrap_or(kind)) {
            None | Some("LORA") => Ok(Kind::Lora),
            Some("LOHA") => Ok(Kind::Loha),
            Some("LOKR") => Ok(Kind::Lokr),
            Some(kind) => Err(SettingsError::Kind { field: field.to_owned(), kind: kind.to_owned() }),
        }
    }

    fn ranks(&self, component: &str) -> Result<Ranks, SettingsError> {
        let [rank, pattern] = ["r", "rank_pattern"].map(|key| name(component, key));
        let pairs = self.field::<InOrder>(&pattern)?.unwrap_or_default();
        let rank = self.field(&rank)?.unwrap_or(PEFT_RANK);
        Ok(Ranks { rank, patterns: patterns(&pattern, pairs)? })
    }

    /// Whether it says that this component's products are transposed; not where that cannot be read.
    #[must_use]
    pub fn is_transposed(&self, component: &str) -> bool {
        self.field(&name(component, "fan_in_fan_out")).ok().flatten().unwrap_or(false)
    }

    /// A field's value; none where it is not there or `null`.
    fn field<V: DeserializeOwned>(&self, field: &str) -> Result<Option<V>, SettingsError> {
        let Some(raw) = self.0.get(field) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|source| SettingsError::Field { field: field.to_owned(), source })
    }
}

/// What a document calls a component's setting.
fn name(component: &str, key: &str) -> String {
    if component.is_empty() { key.to_owned() } else { format!("{component}.{key}") }
}

fn patterns(field: &str, pairs: InOrder) -> Result<Vec<(PathPattern, f64)>, SettingsError> {
    let wrong = |source| SettingsError::Pattern { field: field.to_owned(), source };
    let pair = |(key, alpha): (String, f64)| Ok((PathPattern::parse(&key).map_err(wrong)?, alpha));
    pairs.0.into_iter().map(pair).collect()
}

/// The pairs of an object in the order of the text; of a key that stands twice the last value, as Python has it.
#[derive(Debug, Default)]
struct InOrder(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = InOrder;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
        let mut pairs: Vec<(String, f64)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, f64>()? {
            match pairs.iter_mut().find(|(other, _)| *other == key) {
                Some((_, earlier)) => *earlier = value,
                None => pairs.push((key, value)),
            }
        }
        Ok(InOrder(pairs))
    }
}

impl AdapterSettings {
    /// Settings that say nothing but that products are transposed, for modules that have an `alpha` of their own.
    #[must_use]
    pub fn transposed() -> Self {
        Self { alpha: PEFT_ALPHA, alphas: Vec::new(), rank_stabilised: false, transposed: true, ranks: None }
    }

    /// The scale of a module of this dotted path and rank; rank 0 where no factor has one.
    #[must_use]
    pub fn scale(&self, path: &str, rank: usize) -> f64 {
        let alpha = named(&self.alphas, path).unwrap_or(self.alpha);
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let rank = match (rank, &self.ranks) {
            (0, None) => return 1.0,
            (0, Some(ranks)) => named(&ranks.patterns, path).unwrap_or(ranks.rank).max(1.0),
            (rank, _) => rank as f64,
        };
        if self.rank_stabilised { alpha / rank.sqrt() } else { alpha / rank }
    }
}

/// The number of the first key that names the module.
fn named(patterns: &[(PathPattern, f64)], path: &str) -> Option<f64> {
    patterns.iter().find(|(key, _)| key.names(path)).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_comes_from_the_first_key_of_the_file_that_names_the_module() {
        let text = r#"{
            "unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": { "attn1.to_q": 1.0, "to_q": 2, "^to_k": 4 },
            "text_encoder.lora_alpha": 16, "text_encoder.use_rslora": true, "text_encoder.alpha_pattern": null,
            "transformer.alpha_pattern": { "to_q": 2.0, "attn1.to_q": 1.0, "to_q": 3.0 }
        }"#;
        let document = AdapterDocument::parse(text).unwrap();
        let unet = document.of("unet").unwrap().unwrap();
        for (path, scale) in
            [("a.attn1.to_q", 0.25), ("a.attn2.to_q", 0.5), ("a.attn2.xto_q", 2.0), ("to_k", 1.0), ("a.to_k", 2.0)]
        {
            assert_eq!(unet.scale(path, 4), scale, "{path}");
        }
        assert_eq!(document.of("text_encoder").unwrap().unwrap().scale("a", 4), 8.0);
        let transformer = document.of("transformer").unwrap().unwrap();
        assert_eq!(transformer.scale("a.attn1.to_q", 1), 3.0);
        assert_eq!(transformer.scale("a.to_v", 4), 2.0, "without an alpha it is PEFT's own");
        assert_eq!(document.of("text_encoder_2").unwrap(), None);
        // as a runner is told
        let told = serde_json::to_string(&unet).unwrap();
        assert_eq!(serde_json::from_str::<AdapterSettings>(&told).unwrap(), unet);
    }

    #[test]
    fn other_kinds_of_adapters_have_their_own_words() {
        let of = |text: &str| AdapterDocument::parse(text).unwrap().of("").map(Option::unwrap);
        let loha =
            of(r#"{"peft_type": "LOHA", "r": 4, "alpha": 16, "lora_alpha": 1, "alpha_pattern": {"to_q": 2}}"#).unwrap();
        assert_eq!((loha.scale("a", 4), loha.scale("a.to_q", 4), loha.scale("a", 0)), (4.0, 0.5, 1.0));
        let lokr = of(r#"{"peft_type": "LOKR", "r": 64, "alpha": 16, "rank_pattern": {"to_q": 32}}"#).unwrap();
        assert_eq!((lokr.scale("a", 2), lokr.scale("a", 0), lokr.scale("a.to_q", 0)), (8.0, 0.25, 0.5));
        let bare = of(r#"{"peft_type": "LOKR", "r": null, "alpha_pattern": {}}"#).unwrap();
        assert_eq!(bare.scale("a", 0), 1.0, "PEFT's own alpha over its own rank");
        let told = serde_json::to_string(&lokr).unwrap();
        assert_eq!(serde_json::from_str::<AdapterSettings>(&told).unwrap(), lokr);
        let document =
            AdapterDocument::parse(r#"{"peft_type": "LOKR", "r": 4, "alpha": 16, "rank_pattern": {"a.*": 2}}"#)
                .unwrap();
        let wrong = document.of("").unwrap_err();
        assert!(matches!(&wrong, SettingsError::Pattern { field, .. } if field == "rank_pattern"), "{wrong:?}");
        assert_eq!(document.without_ranks("").unwrap().unwrap().scale("a", 2), 8.0, "the factors show the rank");
        let other = of(r#"{"peft_type": "ADALORA", "lora_alpha": 8}"#).unwrap_err();
        assert!(matches!(&other, SettingsError::Kind { kind, .. } if kind == "ADALORA"), "{other:?}");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_by_name() {
        for text in ["", "[]", "{", r#"{"a": 1} more"#] {
            assert!(matches!(AdapterDocument::parse(text), Err(SettingsError::NoObject(_))), "{text}");
        }
        for (text, field) in [
            (r#"{"lora_alpha": "8"}"#, "lora_alpha"),
            (r#"{"alpha_pattern": {"to_q": "2"}}"#, "alpha_pattern"),
            (r#"{"alpha_pattern": [1]}"#, "alpha_pattern"),
            (r#"{"r": 4, "use_rslora": 1}"#, "use_rslora"),
            (r#"{"r": 4, "fan_in_fan_out": "no"}"#, "fan_in_fan_out"),
        ] {
            let wrong = AdapterDocument::parse(text).unwrap().of("").unwrap_err();
            assert!(matches!(&wrong, SettingsError::Field { field: found, .. } if found == field), "{wrong:?}");
        }
        let document = AdapterDocument::parse(r#"{"unet.alpha_pattern": {"to_q": 1, "to_.*": 2}}"#).unwrap();
        let wrong = document.of("unet").unwrap_err();
        assert!(
            matches!(&wrong, SettingsError::Pattern { field, source } if field == "unet.alpha_pattern" && source.key == "to_.*"),
            "{wrong:?}"
        );
    }
}
