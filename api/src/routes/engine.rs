//! Running models: decoding and encoding images and text, one step of a UNet, tokens, whole images.

use axum::{extract::State, response::Response};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shared::{
    job::{JobKind, engine::EngineArgs},
    wire::{
        EncodeTextRequest, GenerateRequest, JobView, LoraCheckRequest, Placing, TokenizeRequest, UnetStepRequest,
        VaeDecodeRequest, VaeEncodeRequest,
    },
};

use super::job_request::{self, run};
use crate::{
    extract::{Command, NoParameters, parse_value},
    plan::Order,
    problem::ApiError,
    state::AppState,
    submit::submit,
};

/// Where and how soon, beside the arguments of a kind.
const PLACING: [&str; 3] = ["target", "priority", "labels"];

/// One object taken apart into the arguments and the placing.
///
/// # Errors
/// A 400 problem that points at the wrong field.
pub(super) fn order<A: DeserializeOwned>(
    mut body: Map<String, Value>,
    args: impl FnOnce(A) -> EngineArgs<String>,
) -> Result<Order, ApiError> {
    let Placing { target, priority, labels } = placing(&mut body)?;
    let wanted = run(args(parse_value("", Value::Object(body))?), "", target)?;
    Ok(Order { priority, labels, ..Order::new(wanted) })
}

/// As [`order`], of a kind that may name a pipeline in place of models.
fn assembled(mut body: Map<String, Value>, kind: JobKind) -> Result<Order, ApiError> {
    let Placing { target, priority, labels } = placing(&mut body)?;
    let wanted = job_request::assembled(kind, Value::Object(body), "", target)?;
    Ok(Order { priority, labels, ..Order::new(wanted) })
}

fn placing(body: &mut Map<String, Value>) -> Result<Placing, ApiError> {
    let placing: Map<String, Value> = PLACING.iter().filter_map(|name| body.remove_entry(*name)).collect();
    parse_value("", Value::Object(placing))
}

/// Decodes latents
///
/// A job that leaves `image-<n>.<format>` for every sample. The latents are an upload, an artifact of another job or a file of
/// the host.
#[utoipa::path(post, path = "/v1/vae/decode", operation_id = "vaeDecode", tag = "engine", request_body = VaeDecodeRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn vae_decode(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, order(body, EngineArgs::VaeDecode)?).await
}

/// Encodes an image
///
/// A job that leaves `latents.safetensors`, scaled as a UNet sees them.
#[utoipa::path(post, path = "/v1/vae/encode", operation_id = "vaeEncode", tag = "engine", request_body = VaeEncodeRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn vae_encode(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, order(body, EngineArgs::VaeEncode)?).await
}

/// Encodes prompts
///
/// A job that leaves `embeddings.safetensors` with what each text encoder of the model gives.
#[utoipa::path(post, path = "/v1/encode", operation_id = "encodeText", tag = "engine", request_body = EncodeTextRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn encode_text(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, assembled(body, JobKind::EncodeText)?).await
}

/// Predicts noise once
///
/// A job that runs the UNet on the given inputs and leaves `prediction.safetensors`.
#[utoipa::path(post, path = "/v1/unet/step", operation_id = "unetStep", tag = "engine", request_body = UnetStepRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn unet_step(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, assembled(body, JobKind::UnetStep)?).await
}

/// Tokenizes texts
///
/// A job of a host; its result (`TokenizeResult`) has the tokens and chunks of each text, and the decoded texts. Without a
/// model, the CLIP vocabulary that comes with the agent.
#[utoipa::path(post, path = "/v1/tokenize", operation_id = "tokenize", tag = "engine", request_body = TokenizeRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, order(body, EngineArgs::Tokenize)?).await
}

/// Generates images
///
/// A job that leaves `image-<n>.<format>`. `pipeline` names a pipeline in place of `model`, `vae`, `vae_settings`,
/// `text_encoders` and `loras`: what it declares now counts, also for a retry. A seed is drawn if none is given, and shown in the job's arguments: with it the same
/// request makes the same images.
#[utoipa::path(post, path = "/v1/generate", operation_id = "generate", tag = "engine", request_body = GenerateRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn generate(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, assembled(body, JobKind::Generate)?).await
}

/// Checks a LoRA against a base
///
/// A job of a host that has both; its result (`LoraCheckResult`) says which modules fit, which the base does not have, which have
/// other dimensions, whether the LoRA is for this base, and what applying it would take. Nothing is applied.
#[utoipa::path(post, path = "/v1/loras/check", operation_id = "checkLora", tag = "engine", request_body = LoraCheckRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn lora_check(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, order(body, EngineArgs::LoraCheck)?).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Wanted;

    fn of(body: Value) -> Result<Order, ApiError> {
        assembled(body.as_object().unwrap().clone(), JobKind::Generate)
    }

    #[test]
    fn arguments_and_placing_stand_side_by_side() {
        let body =
            json!({ "model": "m", "prompt": "a cat", "target": "device:a/cpu:0", "priority": 3, "labels": ["x"] });
        let order = of(body).unwrap();
        assert_eq!((order.priority, order.labels.len()), (3, 1));
        let Wanted::Run { args: EngineArgs::Generate(args), target } = order.wanted else { panic!("not a generate") };
        assert_eq!((args.prompt.as_str(), target.to_string().as_str()), ("a cat", "device:a/cpu:0"));
    }

    #[test]
    fn wrong_fields_are_pointed_at() {
        let pointer = |body: Value| of(body).unwrap_err().body().errors[0].pointer.clone();
        assert_eq!(pointer(json!({ "prompt": "p" })), "/model");
        assert_eq!(pointer(json!({ "model": "m", "prompt": "p", "target": "nowhere" })), "/target");
        assert_eq!(pointer(json!({ "model": "m", "prompt": "p", "stepps": 3 })), "/stepps");
        assert_eq!(pointer(json!({ "model": "m", "prompt": "p", "width": 100 })), "/width");
        assert_eq!(pointer(json!({ "model": "m", "prompt": "p", "noise": { "upload": "x" } })), "/noise");
    }
}
