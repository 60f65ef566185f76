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
    /// The LoRA by its place, the module in it, and what its change is multiplied with beside its own scale.
    pub(super) terms: Vec<(usize, String, f64)>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// By stem.
    pub(super) targets: Vec<Target>,
    /// Modules that the base does not have: the LoRA and the module.
    pub(super) left_out: Vec<(String, String)>,
}

/// A module of a base, or its spelling where there is none: component and path.
type Place = (String, String);

pub(super) fn plan(
    sources: &[Source<'_>],
    base: Option<&[BaseTensor]>,
    spelling: Spelling,
) -> Result<Plan, BlendError> {
    let mut left_out = Vec::new();
    let mut places: BTreeMap<Place, Vec<(usize, String, f64)>> = BTreeMap::new();
    for (at, source) in sources.iter().enumerate() {
        let found = match base {
            Some(base) => against(source, base, &mut left_out)?,
            None => alone(source, spelling)?,
        };
        for (stem, place) in found {
            let strength = source.entry.strength(&place.0, &place.1);
            let terms = places.entry(place).or_default();
            // the same module of the same file again adds to its weight
            let again = terms.iter_mut().find(|(other, same, _)| {
                *same == stem && sources.get(*other).is_some_and(|other| other.entry.digest == source.entry.digest)
            });
            match again {
                Some((_, _, sum)) => *sum += strength,
                None => terms.push((at, stem, strength)),
            }
        }
    }
    places.values_mut().for_each(|terms| terms.retain(|(_, _, strength)| *strength != 0.0));
    places.retain(|_, terms| !terms.is_empty());
    if places.is_empty() {
        return Err(BlendError::Nothing);
    }
    let names = Names::of(base, sources, &places)?;
    let target = |(place, terms): (Place, Vec<_>)| {
        let shape = base.and_then(|base| shape(base, &place));
        Target { stem: names.stem(&place, spelling), shape, terms }
    };
    Ok(Plan { targets: places.into_iter().map(target).collect(), left_out })
}

fn shape(base: &[BaseTensor], (component, path): &Place) -> Option<Vec<usize>> {
    let name = format!("{path}.weight");
    base.iter().find(|tensor| tensor.component == *component && tensor.name == name).map(|tensor| tensor.shape.clone())
}

/// The places of a LoRA's modules in a base.
fn against(
    source: &Source<'_>,
    base: &[BaseTensor],
    left_out: &mut Vec<(String, String)>,
) -> Result<Vec<(String, Place)>, BlendError> {
    let modules = source.index.stems().map(|stem| source.module(stem)).collect::<Result<_, _>>()?;
    let report = match_base(&Lora { modules, others: Vec::new() }, base);
    if let Some(refusal) = report.refusal() {
        return Err(BlendError::NotForBase { lora: source.name.clone(), refusal });
    }
    left_out.extend(report.unmatched.into_iter().map(|stem| (source.name.clone(), stem)));
    Ok(report.matched.into_iter().map(|fit| (fit.stem, (fit.component, fit.path))).collect())
}

/// The places by name alone, which must say of which component a module is.
fn alone(source: &Source<'_>, spelling: Spelling) -> Result<Vec<(String, Place)>, BlendError> {
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
        places: &BTreeMap<Place, Vec<(usize, String, f64)>>,
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
