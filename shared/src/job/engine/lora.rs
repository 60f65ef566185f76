//! Arguments of `lora_check` and `blend_loras`.

use serde::{Deserialize, Serialize};

use super::{
    assembly::{LoraUse, TakingPart, check_loras, lora_parts, name_loras},
    faults::{Fault, Faults},
    role::Role,
};
use crate::{ids::ModelId, job::write::WriteForm};

/// Largest rank that can be asked for.
const RANK_MAX: u32 = 4096;
/// Longest title, in bytes.
const TITLE_BYTES: usize = 200;

/// Arguments of `lora_check`: what a LoRA would do to a base. Nothing is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraCheckArgs<M = ModelId> {
    /// The LoRA.
    pub lora: M,
    /// The model that it would be applied to.
    pub base: M,
}

impl<M> LoraCheckArgs<M> {
    pub(super) fn try_with_models<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<LoraCheckArgs<N>, E> {
        let Self { lora, base } = self;
        Ok(LoraCheckArgs { lora: name(lora)?, base: name(base)? })
    }
}

/// The type of a LoRA's factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraDtype {
    /// 16-bit IEEE floats.
    #[default]
    Fp16,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
    /// 32-bit floats.
    Fp32,
}

impl LoraDtype {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp32 => "fp32",
        }
    }
}

impl std::str::FromStr for LoraDtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fp16" => Ok(Self::Fp16),
            "bf16" => Ok(Self::Bf16),
            "fp32" => Ok(Self::Fp32),
            other => Err(format!("`{other}` is none of fp16, bf16, fp32")),
        }
    }
}

/// How a LoRA's file names its modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraSpelling {
    /// As kohya's trainer: `lora_unet_….lora_down.weight`, what every program reads.
    #[default]
    Kohya,
    /// As diffusers and PEFT: `unet.….lora_A.weight`. Needs a base.
    Diffusers,
}

impl std::str::FromStr for LoraSpelling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kohya" => Ok(Self::Kohya),
            "diffusers" => Ok(Self::Diffusers),
            other => Err(format!("`{other}` is neither kohya nor diffusers")),
        }
    }
}

/// Where a LoRA that is made goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraOutput {
    /// Name of a root of the host; that of the first LoRA when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Path below it, in a folder that is there; ends with `.safetensors`.
    pub path: String,
}

/// Arguments of `blend_loras`: a stack is written down as one LoRA. The LoRAs' own files are only read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlendLorasArgs<M = ModelId> {
    /// The stack.
    pub loras: Vec<LoraUse<M>>,
    /// A model that the LoRAs are for. Needed for weights by block, for diffusers' names, and where the LoRAs name the same
    /// modules otherwise; with it, a LoRA that is not for it is refused.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub base: Option<M>,
    /// Most of this rank for each module, 1 to 4096; ranks add when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// The smallest rank for each module that has this share, up to 1, of the sum of squares of its change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<f64>,
    /// The type of the factors.
    #[serde(default)]
    pub dtype: LoraDtype,
    /// How modules are named.
    #[serde(default)]
    pub spelling: LoraSpelling,
    /// Where it goes.
    pub output: LoraOutput,
    /// Replace what an earlier job wrote there. Nothing else is ever replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overwrite: bool,
    /// Title of the new LoRA; the name of its file when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// `Option<M>::default` without the bound that serde would put on `M`.
fn none<M>() -> Option<M> {
    None
}

impl<M> BlendLorasArgs<M> {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        if self.loras.is_empty() {
            faults.add("/loras", "give at least one");
        }
        check_loras(&self.loras, "/loras", &mut faults);
        if let Some(rank) = self.rank {
            faults.range("/rank", rank, &(1..=RANK_MAX));
        }
        if let Some(energy) = self.energy {
            faults.range("/energy", energy, &(f64::MIN_POSITIVE..=1.0));
        }
        if self.rank.is_some() && self.energy.is_some() {
            faults.add("/energy", "give a rank or a share of the energy, not both");
        }
        if let Err(why) = WriteForm::Copy.check_path(&self.output.path) {
            faults.add("/output/path", why);
        }
        if let Some(title) = &self.title {
            faults.text("/title", title, TITLE_BYTES);
        }
        faults.end()
    }

    pub(super) fn models(&self) -> Vec<TakingPart<'_, M>> {
        let base = self.base.iter().map(|base| ("/base".into(), base, Role::LoraBase));
        lora_parts(&self.loras).chain(base).collect()
    }

    pub(super) fn try_with_models<N, E>(
        self,
        name: &mut impl FnMut(M) -> Result<N, E>,
    ) -> Result<BlendLorasArgs<N>, E> {
        let Self { loras, base, rank, energy, dtype, spelling, output, overwrite, title } = self;
        let loras = name_loras(loras, name)?;
        let base = base.map(name).transpose()?;
        Ok(BlendLorasArgs { loras, base, rank, energy, dtype, spelling, output, overwrite, title })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_blend_says_how_large_it_is_at_most_once_and_stays_below_its_root() {
        let pointers = |args: serde_json::Value| -> Vec<String> {
            let args: BlendLorasArgs<String> = serde_json::from_value(args).unwrap();
            args.faults().into_iter().map(|fault| fault.pointer).collect()
        };
        let to = |path: &str| json!({ "path": path });
        let one = json!([{ "lora": "a", "weight": 0.5 }]);
        assert!(pointers(json!({ "loras": one, "output": to("x/b.safetensors"), "rank": 8 })).is_empty());
        assert!(pointers(json!({ "loras": one, "output": to("b.safetensors"), "energy": 1.0 })).is_empty());
        let wrong = json!({ "loras": [], "output": to("../b.safetensors"), "rank": 0, "energy": 1.5 });
        assert_eq!(pointers(wrong), ["/loras", "/rank", "/energy", "/energy", "/output/path"]);
    }
}
