//! What a `convert` job is asked to make, and where that may be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::engine::{Fault, LoraUse, Role, TakingPart, stack_faults};
use crate::ids::ModelId;

/// Longest path below a root, in bytes.
const PATH_BYTES: usize = 1024;
/// Longest title, in characters.
const TITLE_CHARS: usize = 200;
/// What files of tensors end with.
const ENDING: &str = ".safetensors";

/// How a converted model is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConvertLayout {
    /// Under the names that it has, as safetensors. With another VAE or LoRAs: the layout of the source.
    #[default]
    Same,
    /// One file under the original (LDM, SGM) names.
    SingleFile,
    /// A folder as diffusers has it; of a lone component, its folder.
    Diffusers,
}

/// The type that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConvertDtype {
    /// As they are.
    #[default]
    Keep,
    /// 32-bit floats.
    Fp32,
    /// 16-bit IEEE floats. A component with values that do not fit keeps its type.
    Fp16,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
}

/// Where a converted model goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvertOutput {
    /// Name of a root of the host; that of the model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Path below it, in a folder that is there. A file ends with `.safetensors`, a folder does not.
    pub path: String,
}

/// Arguments of `convert`. The model's own files are only read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvertArgs<M = ModelId> {
    /// The model.
    pub model: M,
    /// How it is laid out.
    #[serde(default)]
    pub layout: ConvertLayout,
    /// The type of its weights.
    #[serde(default)]
    pub dtype: ConvertDtype,
    /// The type of the VAE's weights. Absent: as `dtype`, but where that is `fp16` a VAE keeps its own that overflows when it runs in 16 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae_dtype: Option<ConvertDtype>,
    /// Leave out what is no weight of the model: averages, optimizers, noise schedules, constants.
    #[serde(default = "yes")]
    pub prune: bool,
    /// The averaged weights (EMA) of the UNet in place of its last ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_ema: bool,
    /// Take values that are not numbers, which are refused otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_nan: bool,
    /// Another model whose VAE takes the place of its own.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub vae: Option<M>,
    /// LoRAs that are baked in; their order makes no difference.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<M>>,
    /// Where it goes.
    pub output: ConvertOutput,
    /// Replace what an earlier job of this kind wrote there. Nothing else is ever replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overwrite: bool,
    /// Title of the new model; that of the model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

fn yes() -> bool {
    true
}

/// `Option<M>::default` without the bound that serde would put on `M`.
fn none<M>() -> Option<M> {
    None
}

impl ConvertLayout {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::SingleFile => "single_file",
            Self::Diffusers => "diffusers",
        }
    }
}

impl ConvertDtype {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }
}

impl ConvertOutput {
    /// Whether it names a file; a folder otherwise.
    pub fn is_file(&self) -> bool {
        self.path.ends_with(ENDING)
    }

    /// What is wrong with the path, if anything: plain parts, none hidden.
    fn fault(&self) -> Option<String> {
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
        if self.path.len() > PATH_BYTES || self.path.chars().any(char::is_control) {
            return Some(format!("longer than {PATH_BYTES} bytes, or with control characters"));
        }
        let is_below = self.path.split('/').all(plain) && self.path.rsplit('/').next() != Some(ENDING);
        (!is_below).then(|| "not a path below the root, or with a hidden part".to_owned())
    }
}

impl<M> ConvertArgs<M> {
    /// What is wrong with the arguments themselves.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = stack_faults(&BTreeMap::<String, M>::new(), &self.loras);
        let mut add = |pointer: &str, detail: String| faults.push(Fault { pointer: pointer.to_owned(), detail });
        if let Some(why) = self.output.fault() {
            add("/output/path", why);
        }
        match (self.layout, self.output.is_file()) {
            (ConvertLayout::SingleFile, false) => add("/output/path", format!("a single file ends with `{ENDING}`")),
            (ConvertLayout::Diffusers, true) => add("/output/path", format!("a folder does not end with `{ENDING}`")),
            _ => {}
        }
        if self.title.as_ref().is_some_and(|title| title.chars().count() > TITLE_CHARS || title.contains('\0')) {
            add("/title", format!("longer than {TITLE_CHARS} characters, or with a NUL character"));
        }
        faults
    }

    /// The models that take part beside the one that is converted: the pointer to the field that names each, and what it does.
    pub fn others(&self) -> Vec<TakingPart<'_, M>> {
        let vae = self.vae.iter().map(|vae| ("/vae".into(), vae, Role::VaeDecoder));
        let pointer = |index| format!("/loras/{index}/lora").into();
        let loras = self.loras.iter().enumerate().map(|(index, used)| (pointer(index), &used.lora, Role::Lora));
        vae.chain(loras).collect()
    }

    /// The same with every model named otherwise: the converted one, then those of [`ConvertArgs::others`].
    ///
    /// # Errors
    /// The first of `name`.
    pub fn try_with_models<N, E>(self, mut name: impl FnMut(M) -> Result<N, E>) -> Result<ConvertArgs<N>, E> {
        let Self { model, layout, dtype, vae_dtype, prune, use_ema, allow_nan, vae, loras, output, overwrite, title } =
            self;
        Ok(ConvertArgs {
            model: name(model)?,
            layout,
            dtype,
            vae_dtype,
            prune,
            use_ema,
            allow_nan,
            vae: vae.map(&mut name).transpose()?,
            loras: loras.into_iter().map(|used| used.try_with_model(&mut name)).collect::<Result<_, E>>()?,
            output,
            overwrite,
            title,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(args: serde_json::Value) -> Vec<String> {
        let args: ConvertArgs<String> = serde_json::from_value(args).unwrap();
        args.faults().into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn outputs_stay_below_the_root_and_fit_the_layout() {
        let at =
            |layout: &str, path: &str| pointers(json!({ "model": "m", "layout": layout, "output": { "path": path } }));
        assert!(at("single_file", "a/b.safetensors").is_empty() && at("diffusers", "a/b").is_empty());
        assert!(at("same", "b.safetensors").is_empty() && at("same", "b").is_empty());
        for path in ["", "/a", "../a", "a/../b", "a//b", ".a", "a/.b/c", "a/.safetensors", "a\n"] {
            assert_eq!(at("same", path), ["/output/path"], "{path:?}");
        }
        assert_eq!(at("single_file", "a"), ["/output/path"]);
        assert_eq!(at("diffusers", "a.safetensors"), ["/output/path"]);
    }

    #[test]
    fn weights_of_loras_and_titles_are_bounded() {
        let faults = pointers(json!({
            "model": "m", "loras": [{ "lora": "l", "weight": 1e9 }], "output": { "path": "a" }, "title": "t".repeat(201),
        }));
        assert_eq!(faults, ["/loras/0/weight", "/title"]);
    }
}
