//! `/v1/models/{model}/convert`.

use axum::{extract::State, response::Response};
use shared::{
    job::{ConvertArgs, Target},
    wire::{ConvertRequest, FieldError, JobView},
};

use crate::{
    extract::{Command, NoParameters, Path},
    plan::{Order, Wanted},
    problem::ApiError,
    state::AppState,
    submit::submit,
};

/// Makes a model of another layout or type
///
/// A job that writes a new model below a root of a host: a `.ckpt` or `.pt` as safetensors, a single file as a folder of diffusers and
/// the other way round, weights in another float type, without averages and leftovers of training, with another VAE or LoRAs baked in.
/// The model's own files are only read. Nothing has the new name before everything was written, flushed and read back; an
/// attempt that was interrupted is gone on with. The new model is in the catalogue when the job succeeds, and says what it was made
/// from. What is there already stays, unless `overwrite` is given and a job of this kind wrote it.
#[utoipa::path(post, path = "/v1/models/{model}/convert", operation_id = "convertModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")),
    request_body = ConvertRequest,
    responses((status = 202, description = "Accepted; the result is a ConvertResult", body = JobView)))]
pub(crate) async fn convert_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<ConvertRequest>,
) -> Result<Response, ApiError> {
    let (target, priority) = (body.target.clone(), body.priority);
    let ConvertRequest { layout, dtype, vae_dtype, prune, use_ema, allow_nan, .. } = body;
    let ConvertRequest { vae, loras, output, overwrite, title, .. } = body;
    let args = ConvertArgs {
        model,
        layout,
        dtype,
        vae_dtype,
        prune,
        use_ema,
        allow_nan,
        vae,
        loras,
        output,
        overwrite,
        title,
    };
    submit(&state, asked, Order { priority, ..Order::new(wanted(args, "", target)?) }).await
}

/// A conversion whose arguments stand at `at` of the body.
///
/// # Errors
/// A 400 problem with every fault of the arguments.
pub(crate) fn wanted(args: ConvertArgs<String>, at: &str, target: Target) -> Result<Wanted, ApiError> {
    let faults = args.faults().into_iter();
    let faults: Vec<FieldError> =
        faults.map(|fault| FieldError { pointer: format!("{at}{}", fault.pointer), detail: fault.detail }).collect();
    if faults.is_empty() { Ok(Wanted::Convert { args: Box::new(args), target }) } else { Err(ApiError::fields(faults)) }
}
