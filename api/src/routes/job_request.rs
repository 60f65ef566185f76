//! `POST /v1/jobs`: the general form of every order.

use serde::Deserialize;
use serde_json::Value;
use shared::{
    config::nearest,
    ids::ComponentId,
    job::{
        BenchmarkArgs, JobKind, Keep, KeepAlive, OptimizeArgs, Target, ValidateLevel, WriteForm, WritePart,
        engine::EngineArgs,
    },
    wire::{FieldError, JobRequest, MetadataWriteRequest},
};

use super::convert;
use crate::{
    extract::parse_value,
    plan::{
        Cached, Order, Wanted,
        pipeline::{Manner, Where},
    },
    problem::ApiError,
};

/// As [`shared::job::LoadArgs`] and [`shared::job::CacheAddArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelArgs {
    model: String,
    #[serde(default)]
    components: Option<Vec<String>>,
    #[serde(default)]
    keep_alive: Option<KeepAlive>,
    #[serde(default)]
    protect: bool,
}

impl ModelArgs {
    fn keep(&self) -> Keep {
        Keep { keep_alive: self.keep_alive, protect: self.protect }
    }
}

/// As [`shared::job::CacheKeepArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepArgs {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    component: Option<ComponentId>,
    #[serde(default)]
    protect: Option<bool>,
    #[serde(default)]
    keep_alive: Option<KeepAlive>,
}

/// As [`shared::job::ApplyPipelineArgs`], of what the pipeline declares.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineArgs {
    pipeline: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    verify: bool,
}

/// As [`shared::job::UnloadArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnloadArgs {
    model: String,
    #[serde(default)]
    components: Option<Vec<String>>,
    #[serde(default)]
    from_ram: bool,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    wait_for_jobs: bool,
}

/// As [`shared::job::CacheRemoveArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveArgs {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    component: Option<ComponentId>,
    #[serde(default)]
    cancel_loads: bool,
}

/// As [`shared::job::ScanArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScanArgs {
    #[serde(default)]
    root: Option<String>,
    #[serde(default)]
    model: Option<String>,
}

/// As [`shared::job::HashArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashArgs {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    root: Option<String>,
}

/// As [`shared::job::ValidateArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidateArgs {
    model: String,
    #[serde(default)]
    level: ValidateLevel,
}

/// As [`shared::job::MetadataWriteArgs`], with the model by id or name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteArgs {
    model: String,
    #[serde(rename = "as", default)]
    form: WriteForm,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    overwrite: bool,
    #[serde(default)]
    include: Vec<WritePart>,
}

/// The order that a request describes.
///
/// # Errors
/// 400 problems that point at the wrong field.
pub(crate) fn order(request: JobRequest) -> Result<Order, ApiError> {
    let kind: JobKind = request.kind.parse().map_err(|text: String| {
        let near = nearest(&request.kind, JobKind::ALL.map(|kind| kind.as_str().to_owned()));
        ApiError::field("/kind", text).maybe_hint(near.map(|near| format!("did you mean `{near}`?")))
    })?;
    let args = if request.args.is_null() { Value::Object(serde_json::Map::new()) } else { request.args };
    let target = request.target;
    let wanted = match kind {
        JobKind::Scan => {
            let ScanArgs { root, model } = parse_value("args", args)?;
            match (model, root) {
                (Some(_), Some(_)) => return Err(ApiError::field("/args", "name a root or a model, not both")),
                (Some(model), None) => Wanted::Reidentify { model, target },
                (None, root) => Wanted::Scan { root, target },
            }
        }
        JobKind::Load => {
            let args: ModelArgs = parse_value("args", args)?;
            Wanted::Load { keep: args.keep(), model: args.model, components: args.components, target }
        }
        JobKind::CacheAdd => {
            let args: ModelArgs = parse_value("args", args)?;
            Wanted::CacheAdd { keep: args.keep(), model: args.model, components: args.components, target }
        }
        JobKind::Unload => {
            let UnloadArgs { model, components, from_ram, force, wait_for_jobs } = parse_value("args", args)?;
            Wanted::Unload { model, components, from_ram, force, wait_for_jobs, target: Some(target) }
        }
        JobKind::Hash => {
            let HashArgs { model, root } = parse_value("args", args)?;
            Wanted::Hash { model, root, target }
        }
        JobKind::Validate => {
            let ValidateArgs { model, level } = parse_value("args", args)?;
            Wanted::Validate { model, level, target }
        }
        JobKind::MetadataWrite => {
            let WriteArgs { model, form, to, overwrite, include } = parse_value("args", args)?;
            let wanted = MetadataWriteRequest { form, to, overwrite, include, ..MetadataWriteRequest::default() };
            Wanted::MetadataWrite { model, wanted, version: None, target }
        }
        JobKind::Convert => convert::wanted(parse_value("args", args)?, "/args", target)?,
        JobKind::CacheKeep => {
            let KeepArgs { model, component, protect, keep_alive } = parse_value("args", args)?;
            Wanted::CacheKeep { what: what(model, component)?, target, protect, keep_alive }
        }
        JobKind::Optimize => {
            let args: OptimizeArgs = parse_value("args", args)?;
            if args.device.is_some() {
                return Err(ApiError::field("/args/device", "name the device as the target: `device:<host>/<device>`"));
            }
            Wanted::Optimize { args, target }
        }
        JobKind::VaeDecode => run(EngineArgs::VaeDecode(parse_value("args", args)?), "/args", target)?,
        JobKind::VaeEncode => run(EngineArgs::VaeEncode(parse_value("args", args)?), "/args", target)?,
        JobKind::Tokenize => run(EngineArgs::Tokenize(parse_value("args", args)?), "/args", target)?,
        JobKind::EncodeText | JobKind::UnetStep | JobKind::Generate | JobKind::Benchmark => {
            assembled(kind, args, "/args", target)?
        }
        JobKind::LoraCheck => run(EngineArgs::LoraCheck(parse_value("args", args)?), "/args", target)?,
        JobKind::BlendLoras => run(EngineArgs::BlendLoras(parse_value("args", args)?), "/args", target)?,
        JobKind::ApplyPipeline => {
            let PipelineArgs { pipeline, dry_run, verify } = parse_value("args", args)?;
            Wanted::Apply { pipeline, generation: None, manner: Manner { place: Where::At(target), dry_run, verify } }
        }
        JobKind::RestorePipeline => {
            let PipelineArgs { pipeline, dry_run, verify } = parse_value("args", args)?;
            if dry_run {
                return Err(ApiError::field("/args/dry_run", "only an application can be tried dry"));
            }
            Wanted::Restore { pipeline, place: Where::At(target), verify }
        }
        JobKind::CacheRemove => {
            let RemoveArgs { model, component, cancel_loads } = parse_value("args", args)?;
            Wanted::CacheRemove { what: what(model, component)?, cancel_loads, target }
        }
    };
    Ok(Order {
        priority: request.priority,
        labels: request.labels,
        max_attempts: request.max_attempts,
        at: "/args",
        ..Order::new(wanted)
    })
}

/// Work whose arguments, at `at` of the body, name models, or a pipeline in their place.
///
/// # Errors
/// As [`direct`], where they name models.
pub(crate) fn assembled(kind: JobKind, args: Value, at: &'static str, target: Target) -> Result<Wanted, ApiError> {
    match args {
        Value::Object(args) if args.get("pipeline").is_some_and(|name| !name.is_null()) => {
            Ok(Wanted::Assembled { kind, args, at, target })
        }
        args => direct(kind, args, at, target),
    }
}

/// Work whose arguments, at `at` of the body, name models.
///
/// # Errors
/// A 400 problem with the faults of the arguments.
pub(crate) fn direct(kind: JobKind, args: Value, at: &str, target: Target) -> Result<Wanted, ApiError> {
    let place = at.trim_start_matches('/');
    match kind {
        JobKind::EncodeText => run(EngineArgs::EncodeText(parse_value(place, args)?), at, target),
        JobKind::UnetStep => run(EngineArgs::UnetStep(parse_value(place, args)?), at, target),
        JobKind::Benchmark => benchmark(parse_value(place, args)?, at, target),
        _ => run(EngineArgs::Generate(parse_value(place, args)?), at, target),
    }
}

/// Work of the engine whose arguments stand at `at` of the body.
///
/// # Errors
/// A 400 problem with every fault of the arguments.
pub(crate) fn run(args: EngineArgs<String>, at: &str, target: Target) -> Result<Wanted, ApiError> {
    let faults = args.faults().into_iter();
    let faults: Vec<FieldError> =
        faults.map(|fault| FieldError { pointer: format!("{at}{}", fault.pointer), detail: fault.detail }).collect();
    if faults.is_empty() { Ok(Wanted::Run { args, target }) } else { Err(ApiError::fields(faults)) }
}

/// A benchmark whose arguments stand at `at` of the body.
///
/// # Errors
/// A 400 problem that names the field that cannot be measured with.
pub(crate) fn benchmark(args: BenchmarkArgs<String>, at: &str, target: Target) -> Result<Wanted, ApiError> {
    match args.check() {
        Ok(()) => Ok(Wanted::Benchmark { args, target }),
        Err(fault) => Err(ApiError::field(format!("{at}{}", fault.pointer), fault.detail)),
    }
}

fn what(model: Option<String>, component: Option<ComponentId>) -> Result<Cached, ApiError> {
    match (model, component) {
        (Some(_), Some(_)) => Err(ApiError::field("/args", "name a model or a component, not both")),
        (Some(model), None) => Ok(Cached::Model(model)),
        (None, Some(component)) => Ok(Cached::Component(component)),
        (None, None) => Ok(Cached::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(text: &str) -> String {
        let request = serde_json::from_str(text).unwrap();
        order(request).unwrap_err().body().errors[0].pointer.clone()
    }

    #[test]
    fn wrong_arguments_are_pointed_at() {
        assert_eq!(pointer(r#"{"kind":"lod"}"#), "/kind");
        assert_eq!(pointer(r#"{"kind":"load"}"#), "/args/model");
        assert_eq!(pointer(r#"{"kind":"scan","args":{"model":"m","root":"r"}}"#), "/args");
        assert_eq!(pointer(r#"{"kind":"load","args":{"model":"m","component":"vae"}}"#), "/args/component");
        assert_eq!(pointer(r#"{"kind":"unload","args":{"model":"m","from_ram":"yes"}}"#), "/args/from_ram");
        assert_eq!(pointer(r#"{"kind":"generate","args":{"model":"m","prompt":"p","width":65}}"#), "/args/width");
        assert_eq!(pointer(r#"{"kind":"vae_decode","args":{"model":"m","latents":{}}}"#), "/args/latents");
        let tiling =
            r#"{"kind":"vae_decode","args":{"model":"m","latents":{"root":"r","path":"p"},"settings":{"tiling":"x"}}}"#;
        assert_eq!(pointer(tiling), "/args/settings/tiling");
    }

    #[test]
    fn arguments_may_be_left_out_where_all_are_optional() {
        let order = order(serde_json::from_str(r#"{"kind":"cache_remove","target":"host:a"}"#).unwrap()).unwrap();
        assert!(matches!(order.wanted, Wanted::CacheRemove { what: Cached::All, cancel_loads: false, .. }));
    }
}
