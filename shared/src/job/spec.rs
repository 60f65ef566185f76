//! What each kind of job is asked to do: a kind with its arguments, as stored and as joined.

use serde::{Deserialize, Serialize};

use super::{
    args::{CacheAddArgs, CacheKeepArgs, CacheRemoveArgs, HashArgs, LoadArgs, OptimizeArgs, ScanArgs, UnloadArgs},
    benchmark::BenchmarkArgs,
    convert::ConvertArgs,
    engine::{
        BlendLorasArgs, EncodeTextArgs, EngineArgs, GenerateArgs, Input, LoraCheckArgs, TakingPart, TokenizeArgs,
        UnetStepArgs, VaeDecodeArgs, VaeEncodeArgs,
    },
    keep::Keep,
    kind::{JobKind, Lane},
    pipeline::{ApplyPipelineArgs, RestorePipelineArgs},
    validate::{ValidateArgs, ValidateLevel},
    write::MetadataWriteArgs,
};
use crate::ids::ModelId;

/// A kind together with its arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", content = "args", rename_all = "snake_case")]
pub enum JobSpec {
    /// See [`JobKind::Scan`].
    Scan(ScanArgs),
    /// See [`JobKind::Load`].
    Load(LoadArgs),
    /// See [`JobKind::Unload`].
    Unload(UnloadArgs),
    /// See [`JobKind::CacheAdd`].
    CacheAdd(CacheAddArgs),
    /// See [`JobKind::CacheRemove`].
    CacheRemove(CacheRemoveArgs),
    /// See [`JobKind::CacheKeep`].
    CacheKeep(CacheKeepArgs),
    /// See [`JobKind::Hash`].
    Hash(HashArgs),
    /// See [`JobKind::Validate`].
    Validate(ValidateArgs),
    /// See [`JobKind::MetadataWrite`].
    MetadataWrite(MetadataWriteArgs),
    /// See [`JobKind::Convert`].
    Convert(ConvertArgs),
    /// See [`JobKind::Optimize`].
    Optimize(OptimizeArgs),
    /// See [`JobKind::VaeDecode`].
    VaeDecode(VaeDecodeArgs),
    /// See [`JobKind::VaeEncode`].
    VaeEncode(VaeEncodeArgs),
    /// See [`JobKind::EncodeText`].
    EncodeText(EncodeTextArgs),
    /// See [`JobKind::UnetStep`].
    UnetStep(UnetStepArgs),
    /// See [`JobKind::Tokenize`].
    Tokenize(TokenizeArgs),
    /// See [`JobKind::Generate`].
    Generate(GenerateArgs),
    /// See [`JobKind::Benchmark`].
    Benchmark(BenchmarkArgs),
    /// See [`JobKind::LoraCheck`].
    LoraCheck(LoraCheckArgs),
    /// See [`JobKind::BlendLoras`].
    BlendLoras(BlendLorasArgs),
    /// See [`JobKind::ApplyPipeline`].
    ApplyPipeline(ApplyPipelineArgs),
    /// See [`JobKind::RestorePipeline`].
    RestorePipeline(RestorePipelineArgs),
}

/// Arguments in the database that this build cannot read: fails that job, never the queue.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the arguments of a `{kind}` job (version {version})")]
pub struct BadSpec {
    /// The kind as stored.
    pub kind: String,
    /// The stored arguments version.
    pub version: i32,
    /// Why.
    #[source]
    pub source: serde_json::Error,
}

impl JobSpec {
    /// The version written beside the arguments.
    pub const ARGS_VERSION: i32 = 1;

    /// The kind.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Scan(_) => JobKind::Scan,
            Self::Load(_) => JobKind::Load,
            Self::Unload(_) => JobKind::Unload,
            Self::CacheAdd(_) => JobKind::CacheAdd,
            Self::CacheRemove(_) => JobKind::CacheRemove,
            Self::CacheKeep(_) => JobKind::CacheKeep,
            Self::Hash(_) => JobKind::Hash,
            Self::Validate(_) => JobKind::Validate,
            Self::MetadataWrite(_) => JobKind::MetadataWrite,
            Self::Convert(_) => JobKind::Convert,
            Self::Optimize(_) => JobKind::Optimize,
            Self::VaeDecode(_) => JobKind::VaeDecode,
            Self::VaeEncode(_) => JobKind::VaeEncode,
            Self::EncodeText(_) => JobKind::EncodeText,
            Self::UnetStep(_) => JobKind::UnetStep,
            Self::Tokenize(_) => JobKind::Tokenize,
            Self::Generate(_) => JobKind::Generate,
            Self::Benchmark(_) => JobKind::Benchmark,
            Self::LoraCheck(_) => JobKind::LoraCheck,
            Self::BlendLoras(_) => JobKind::BlendLoras,
            Self::ApplyPipeline(_) => JobKind::ApplyPipeline,
            Self::RestorePipeline(_) => JobKind::RestorePipeline,
        }
    }

    /// Where this runs.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Validate(args) if args.level == ValidateLevel::Forward => Lane::Device,
            other => other.kind().usual_lane(),
        }
    }

    /// The arguments alone, as stored.
    ///
    /// # Errors
    /// Never for these types; kept because serde's signature says so.
    pub fn args(&self) -> Result<serde_json::Value, serde_json::Error> {
        match self {
            Self::Scan(args) => serde_json::to_value(args),
            Self::Load(args) => serde_json::to_value(args),
            Self::Unload(args) => serde_json::to_value(args),
            Self::CacheAdd(args) => serde_json::to_value(args),
            Self::CacheRemove(args) => serde_json::to_value(args),
            Self::CacheKeep(args) => serde_json::to_value(args),
            Self::Hash(args) => serde_json::to_value(args),
            Self::Validate(args) => serde_json::to_value(args),
            Self::MetadataWrite(args) => serde_json::to_value(args),
            Self::Convert(args) => serde_json::to_value(args),
            Self::Optimize(args) => serde_json::to_value(args),
            Self::VaeDecode(args) => serde_json::to_value(args),
            Self::VaeEncode(args) => serde_json::to_value(args),
            Self::EncodeText(args) => serde_json::to_value(args),
            Self::UnetStep(args) => serde_json::to_value(args),
            Self::Tokenize(args) => serde_json::to_value(args),
            Self::Generate(args) => serde_json::to_value(args),
            Self::Benchmark(args) => serde_json::to_value(args),
            Self::LoraCheck(args) => serde_json::to_value(args),
            Self::BlendLoras(args) => serde_json::to_value(args),
            Self::ApplyPipeline(args) => serde_json::to_value(args),
            Self::RestorePipeline(args) => serde_json::to_value(args),
        }
    }

    /// Reads a stored kind and its arguments.
    ///
    /// # Errors
    /// [`BadSpec`] for an unknown kind or arguments of another shape.
    pub fn decode(kind: &str, version: i32, args: &serde_json::Value) -> Result<Self, BadSpec> {
        serde_json::from_value(serde_json::json!({ "kind": kind, "args": args })).map_err(|source| BadSpec {
            kind: kind.to_owned(),
            version,
            source,
        })
    }

    /// The model that the job is about, if any.
    pub fn model(&self) -> Option<ModelId> {
        match self {
            Self::Load(args) => Some(args.model),
            Self::Unload(args) => Some(args.model),
            Self::CacheAdd(args) => Some(args.model),
            Self::CacheRemove(args) => args.model,
            Self::CacheKeep(args) => args.model,
            Self::Hash(args) => args.model,
            Self::Validate(args) => Some(args.model),
            Self::MetadataWrite(args) => Some(args.model),
            Self::Convert(args) => Some(args.model),
            Self::Benchmark(args) => Some(args.model),
            Self::Scan(args) => args.model,
            Self::Optimize(_) => None,
            Self::VaeDecode(args) => Some(args.model),
            Self::VaeEncode(args) => Some(args.model),
            Self::EncodeText(args) => Some(args.model),
            Self::UnetStep(args) => Some(args.model),
            Self::Tokenize(args) => args.model,
            Self::Generate(args) => Some(args.model),
            Self::LoraCheck(args) => Some(args.lora),
            Self::BlendLoras(args) => args.loras.first().map(|used| used.lora),
            Self::ApplyPipeline(args) => Some(args.assembly.model),
            Self::RestorePipeline(args) => Some(args.assembly.model),
        }
    }

    /// The engine's work that this is, if it is.
    pub fn engine(&self) -> Option<EngineArgs> {
        Some(match self.clone() {
            Self::VaeDecode(args) => EngineArgs::VaeDecode(args),
            Self::VaeEncode(args) => EngineArgs::VaeEncode(args),
            Self::EncodeText(args) => EngineArgs::EncodeText(args),
            Self::UnetStep(args) => EngineArgs::UnetStep(args),
            Self::Tokenize(args) => EngineArgs::Tokenize(args),
            Self::Generate(args) => EngineArgs::Generate(args),
            Self::LoraCheck(args) => EngineArgs::LoraCheck(args),
            Self::BlendLoras(args) => EngineArgs::BlendLoras(args),
            _ => return None,
        })
    }

    /// The models beside [`JobSpec::model`] that the work needs on the disk of its host.
    pub fn other_models(&self) -> Vec<ModelId> {
        let rest =
            |parts: Vec<TakingPart<'_, ModelId>>| parts.into_iter().skip(1).map(|(_, model, _)| *model).collect();
        match self {
            Self::Benchmark(args) => args.other_models().into_iter().map(|(_, model, _)| *model).collect(),
            Self::ApplyPipeline(args) => rest(args.assembly.models()),
            Self::Convert(args) => args.others().into_iter().map(|(_, model, _)| *model).collect(),
            other => other.engine().map(|args| rest(args.models())).unwrap_or_default(),
        }
    }

    /// The single-flight key of this work at a target: while such a job is active, an equal request joins it.
    pub fn unique_key(&self, target: &str) -> Option<String> {
        let of = |components: &Option<Vec<String>>| {
            let mut kinds = components.clone().unwrap_or_default();
            kinds.sort();
            if kinds.is_empty() { "*".to_owned() } else { kinds.join(",") }
        };
        Some(match self {
            Self::Scan(args) => match (&args.model, &args.root) {
                (Some(model), _) => format!("scan/{model}/{target}"),
                (None, root) => format!("scan/{}/{target}", root.as_deref().unwrap_or("*")),
            },
            Self::Load(args) => {
                let keep = Keep::key(args.keep_alive, args.protect);
                format!("load/{}/{}{keep}/{target}", args.model, of(&args.components))
            }
            Self::Unload(args) => {
                let force = if args.force { "/force" } else { "" };
                format!("unload/{}/{}/{}{force}/{target}", args.model, of(&args.components), args.from_ram)
            }
            Self::CacheAdd(args) => {
                let keep = Keep::key(args.keep_alive, args.protect);
                format!("cache_add/{}/{}{keep}/{target}", args.model, of(&args.components))
            }
            Self::CacheRemove(args) => {
                let what = match (&args.model, &args.component) {
                    (Some(model), _) => model.to_string(),
                    (None, Some(component)) => component.to_string(),
                    (None, None) => "*".to_owned(),
                };
                let loads = if args.cancel_loads { "/cancel_loads" } else { "" };
                format!("cache_remove/{what}{loads}/{target}")
            }
            // what was said last holds, and bytes asked for twice are twice the bytes, and a second measurement is one more:
            // no two such requests are one
            Self::CacheKeep(_) | Self::Optimize(_) | Self::Benchmark(_) => return None,
            Self::Hash(args) => match (&args.model, &args.root) {
                (Some(model), _) => format!("hash/{model}/{target}"),
                (None, root) => format!("hash/root/{}/{target}", root.as_deref().unwrap_or("*")),
            },
            Self::Validate(args) => format!("validate/{}/{}/{target}", args.model, args.level.as_str()),
            Self::MetadataWrite(args) => format!("metadata_write/{}/{target}", args.key()),
            Self::Convert(args) => {
                let args = serde_json::to_vec(args).ok()?;
                format!("convert/{}/{target}", blake3::hash(&args).to_hex())
            }
            // the children of two such parents go to other devices each
            Self::ApplyPipeline(_) | Self::RestorePipeline(_)
                if target == "all" || (target.starts_with("host:") && matches!(self, Self::RestorePipeline(_))) =>
            {
                return None;
            }
            Self::ApplyPipeline(args) => format!("apply_pipeline/{}/{target}", args.key()),
            Self::RestorePipeline(args) => {
                let verify = if args.verify { "/verify" } else { "" };
                format!("restore_pipeline/{}{verify}/{target}", args.pipeline)
            }
            Self::VaeDecode(_)
            | Self::VaeEncode(_)
            | Self::EncodeText(_)
            | Self::UnetStep(_)
            | Self::Tokenize(_)
            | Self::Generate(_)
            | Self::LoraCheck(_)
            | Self::BlendLoras(_) => return self.engine_key(target),
        })
    }

    /// The same work on the same data gives the same result, so equal requests join; a file may be another one by the time
    /// that it is read, so they do not.
    fn engine_key(&self, target: &str) -> Option<String> {
        let same = self.engine()?.input().is_none_or(|(_, input)| Input::is_immutable(input));
        let args = same.then(|| serde_json::to_vec(self).ok()).flatten()?;
        Some(format!("{}/{}/{target}", self.kind(), blake3::hash(&args).to_hex()))
    }
}

impl From<EngineArgs> for JobSpec {
    fn from(args: EngineArgs) -> Self {
        match args {
            EngineArgs::VaeDecode(args) => Self::VaeDecode(args),
            EngineArgs::VaeEncode(args) => Self::VaeEncode(args),
            EngineArgs::EncodeText(args) => Self::EncodeText(args),
            EngineArgs::UnetStep(args) => Self::UnetStep(args),
            EngineArgs::Tokenize(args) => Self::Tokenize(args),
            EngineArgs::Generate(args) => Self::Generate(args),
            EngineArgs::LoraCheck(args) => Self::LoraCheck(args),
            EngineArgs::BlendLoras(args) => Self::BlendLoras(args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form_round_trips_and_other_shapes_are_named() {
        let spec = JobSpec::Load(LoadArgs {
            model: ModelId::generate(),
            components: Some(vec!["vae".into()]),
            keep_alive: None,
            protect: false,
        });
        let args = spec.args().unwrap();
        assert_eq!(JobSpec::decode("load", 1, &args).unwrap(), spec);
        assert!(JobSpec::decode("levitate", 1, &args).unwrap_err().to_string().contains("`levitate`"));
        assert!(JobSpec::decode("load", 2, &serde_json::json!({"modle": 1})).is_err());
    }

    #[test]
    fn engine_work_joins_equal_work_on_data_that_cannot_change() {
        let model = ModelId::generate();
        let key = |args: serde_json::Value| {
            let mut args = args;
            args["model"] = serde_json::json!(model);
            JobSpec::decode("vae_decode", 1, &args).unwrap().unique_key("any")
        };
        let upload = crate::ids::UploadId::generate();
        let uploaded = serde_json::json!({ "latents": { "upload": upload } });
        assert!(key(uploaded.clone()).is_some() && key(uploaded.clone()) == key(uploaded.clone()));
        let mut other = uploaded.clone();
        other["format"] = "webp".into();
        assert_ne!(key(uploaded), key(other));
        assert_eq!(key(serde_json::json!({ "latents": { "root": "main", "path": "a.safetensors" } })), None);
    }

    #[test]
    fn a_validation_runs_on_a_device_when_it_runs_the_model() {
        let lane = |level| JobSpec::Validate(ValidateArgs { model: ModelId::generate(), level }).lane();
        let elsewhere = ValidateLevel::ALL.into_iter().filter(|level| *level != ValidateLevel::Forward);
        assert!(elsewhere.map(lane).all(|lane| lane == Lane::Host));
        assert_eq!(lane(ValidateLevel::Forward), Lane::Device);
    }

    #[test]
    fn equal_requests_share_a_key_whatever_the_order_of_components() {
        let model = ModelId::generate();
        let key = |kinds: [&str; 2]| {
            let components = Some(kinds.map(String::from).to_vec());
            JobSpec::Load(LoadArgs { model, components, keep_alive: None, protect: false }).unique_key("any")
        };
        assert_eq!(key(["vae", "unet"]), key(["unet", "vae"]));
    }
}
