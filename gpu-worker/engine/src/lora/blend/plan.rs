//! Which modules of which LoRAs are one module, how strongly each counts, and how the result names it.

use std::collections::BTreeMap;

use super::{
    super::{
        file::{Lora, Module},
        index::LoraIndex,
        matching::match_base,
        spelling::{BaseTensor, Spellings, UNNAMED, components, plain},
        stack::Entry,
    },
    BlendError, Spelling,
};

/// A LoRA of the stack.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// What errors call it.
    pub name: String,
    /// Its modules, over the file's bytes: each is read when it is computed.
    pub index: &'a LoraIndex<'a>,
    /// Its weights.
    pub entry: Entry,
}

impl Source<'_> {
    /// # Errors
    /// [`BlendError::Lora`].
    pub(super) fn module(&self, stem: &str) -> Result<Module, BlendError> {
        self.index.module(stem).map_err(|source| BlendError::Lora { lora: self.name.clone(), source })
    }
}

/// A module of the result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// Its name in the file without the ending of its parts.
    pub(super) stem: String,
    /// Dimensions of the base's weight, where a base is given.
    pub(super) shape: Option<Vec<usize>>,
    /// What is summed.
    pub(super) terms: Vec<Summand>,
}

/// A module of a LoRA in the sum.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summand {
    /// The LoRAs that have it, by their places: of the first it is read.
    pub(super) sources: Vec<usize>,
    /// The module in it.
    pub(super) stem: String,
    /// What its change is multiplied with beside its own scale.
    pub(super) strength: f64,
}

/// What the plan has of one LoRA.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Matched {
    /// Modules that the base has; all of them where there is none.
    pub(super) modules: usize,
    /// Modules that the base does not have.
    pub(super) unmatched: Vec<String>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// By stem.
    pub(super) targets: Vec<Target>,
    /// Of each LoRA, in their order.
    pub(super) matched: Vec<Matched>,
}

/// A module of a base, or its spelling where there is none: component and path.
type Place = (String, String);

pub(super) fn plan(
    sources: &[Source<'_>],
    base: Option<&[BaseTensor]>,
    spelling: Spelling,
) -> Result<Plan, BlendError> {
    let mut matched = Vec::with_capacity(sources.len());
    let mut places: BTreeMap<Place, Vec<Summand>> = BTreeMap::new();
    for (at, source) in sources.iter().enumerate() {
        let (found, unmatched) = match base {
            Some(base) => against(source, base)?,
            None => (alone(source, spelling)?, Vec::new()),
        };
        matched.push(Matched { modules: found.len(), unmatched });
        for (stem, place) in found {
            let strength = source.entry.strength(&place.0, &place.1);
            let terms = places.entry(place).or_default();
            // the same module of the same file again adds to its weight
            let is_same = |at: &usize| sources.get(*at).is_some_and(|other| other.entry.digest == source.entry.digest);
            match terms.iter_mut().find(|term| term.stem == stem && term.sources.first().is_some_and(is_same)) {
                Some(term) => {
                    term.strength += strength;
                    term.sources.push(at);
                }
                None => terms.push(Summand { sources: vec![at], stem, strength }),
            }
        }
    }
    places.values_mut().for_each(|terms| terms.retain(|term| term.strength != 0.0));
    places.retain(|_, terms| !terms.is_empty());
    if places.is_empty() {
        return Err(BlendError::Nothing);
    }
    let names = Names::of(base, sources, &places)?;
    let target = |(place, terms): (Place, Vec<Summand>)| {
        let shape = base.and_then(|base| shape(base, &place));
        Target { stem: names.stem(&place, spelling), shape, terms }
    };
    Ok(Plan { targets: places.into_iter().map(target).collect(), matched })
}

fn shape(base: &[BaseTensor], (component, path): &Place) -> Option<Vec<usize>> {
    let name = format!("{path}.weight");
    base.iter().find(|tensor| tensor.component == *component && tensor.name == name).map(|tensor| tensor.shape.clone())
}

/// The modules of a LoRA that have a place.
type Placed = Vec<(String, Place)>;

/// The places of a LoRA's modules in a base, and the modules that it does not have.
fn against(source: &Source<'_>, base: &[BaseTensor]) -> Result<(Placed, Vec<String>), BlendError> {
    let modules = source.index.stems().map(|stem| source.module(stem)).collect::<Result<_, _>>()?;
    let report = match_base(&Lora { modules, others: Vec::new() }, base);
    if let Some(refusal) = report.refusal() {
        return Err(BlendError::NotForBase { lora: source.name.clone(), refusal });
    }
    let placed = report.matched.into_iter().map(|fit| (fit.stem, (fit.component, fit.path))).collect();
    Ok((placed, report.unmatched))
}

/// The places by name alone, which must say of which component a module is.
fn alone(source: &Source<'_>, spelling: Spelling) -> Result<Placed, BlendError> {
    let needs = |reason: String| BlendError::NeedsBase { reason };
    let name = &source.name;
    if spelling == Spelling::Diffusers {
        return Err(needs("names with dots cannot be told from others".to_owned()));
    }
    if !source.entry.blocks.0.is_empty() {
        return Err(needs(format!("the weights of `{name}` by block are for paths of a base")));
    }
    let place = |stem: &str| match components(stem) {
        (UNNAMED, _) => Err(needs(format!("`{stem}` of `{name}` does not say of which component it is"))),
        ([component, ..], rest) => Ok((stem.to_owned(), ((*component).to_owned(), plain(rest)))),
        ([], _) => Err(needs(format!("`{stem}` of `{name}` is of no component"))),
    };
    source.index.stems().map(place).collect()
}

/// How modules are named.
struct Names {
    spellings: Option<Spellings>,
    /// SDXL: two encoders, the UNet in its original numbering.
    is_xl: bool,
}

/// What modules of a UNet begin with in its original numbering, and in diffusers'.
const ORIGINAL: [&str; 6] = ["input_blocks_", "middle_block_", "output_blocks_", "time_embed_", "label_emb_", "out_"];
const NUMBERED: [&str; 3] = ["down_blocks_", "mid_block_", "up_blocks_"];

impl Names {
    fn of(
        base: Option<&[BaseTensor]>,
        sources: &[Source<'_>],
        places: &BTreeMap<Place, Vec<Summand>>,
    ) -> Result<Self, BlendError> {
        if let Some(base) = base {
            let is_xl = base.iter().any(|tensor| tensor.component == "text_encoder_2");
            return Ok(Self { spellings: Some(Spellings::of(base)), is_xl });
        }
        let begins = |beginnings: &[&str]| {
            let unet = places.keys().filter(|(component, _)| component == "unet");
            unet.clone().any(|(_, path)| beginnings.iter().any(|begin| path.starts_with(begin)))
        };
        if begins(&ORIGINAL) && begins(&NUMBERED) {
            let reason =
                "some LoRAs name the UNet's modules as the original does and some as diffusers does".to_owned();
            return Err(BlendError::NeedsBase { reason });
        }
        let second = places.keys().any(|(component, _)| component == "text_encoder_2");
        let mut stems = sources.iter().flat_map(|source| source.index.stems());
        let counted = stems.any(|stem| stem.starts_with("lora_te1_"));
        Ok(Self { spellings: None, is_xl: second || counted || begins(&ORIGINAL) })
    }

    fn stem(&self, (component, path): &Place, spelling: Spelling) -> String {
        match (spelling, component.strip_prefix("text_encoder")) {
            (Spelling::Kohya, Some(number)) => {
                let number = if number.is_empty() { "1" } else { number.trim_start_matches('_') };
                let number = if self.is_xl { number } else { "" };
                format!("lora_te{number}_{}", whole_text(path, '_'))
            }
            (Spelling::Kohya, None) => {
                let original = self.spellings.as_ref().filter(|_| self.is_xl && component == "unet");
                let path = original.and_then(|names| names.original(path)).unwrap_or_else(|| path.clone());
                format!("lora_{component}_{}", path.replace('.', "_"))
            }
            (Spelling::Diffusers, Some(_)) => format!("{component}.{}", whole_text(path, '.')),
            (Spelling::Diffusers, None) => format!("{component}.{path}"),
        }
    }
}

/// A text encoder's path with the name of its inner model, which some leave out.
fn whole_text(path: &str, between: char) -> String {
    let path = path.replace(['.'], &between.to_string());
    let inner = ["encoder", "embeddings", "final_layer_norm"].iter().any(|part| path.starts_with(part));
    if inner { format!("text_model{between}{path}") } else { path }
}
