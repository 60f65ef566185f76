//! Work that names a pipeline in place of models: what the pipeline declares when the work is accepted is filled in, so that
//! a retry repeats the first attempt.

use serde_json::{Map, Value};
use shared::{
    db::Session,
    job::{JobKind, Target},
};

use super::Wanted;
use crate::{pipelines, problem::ApiError, routes::job_request};

/// What a pipeline says.
const SAID: [&str; 5] = ["model", "vae", "vae_settings", "text_encoders", "loras"];

/// The work with the models of the pipeline; `at` is where its arguments stand in the request.
///
/// # Errors
/// 400 where the request names models as well; 404 with near names; as the work itself.
pub(super) async fn resolve(
    conn: &mut Session,
    kind: JobKind,
    mut args: Map<String, Value>,
    at: &'static str,
    target: Target,
) -> Result<Wanted, ApiError> {
    let said = SAID.into_iter().find(|field| args.get(*field).is_some_and(|value| !value.is_null()));
    if let Some(field) = said {
        let detail = format!("`pipeline` says the `{field}`; leave one of them out");
        return Err(ApiError::field(format!("{at}/{field}"), detail));
    }
    let Some(name) = args.get("pipeline").and_then(Value::as_str) else {
        return Err(ApiError::field(format!("{at}/pipeline"), "the name of a pipeline is a text"));
    };
    let row = pipelines::get(conn, name).await?;
    let declared = serde_json::to_value(pipelines::by_id(&row.declared()?)).map_err(ApiError::defect)?;
    let declared = declared.as_object().cloned().unwrap_or_default();
    let taken = taken_by(kind);
    args.extend(declared.into_iter().filter(|(field, _)| taken.contains(&field.as_str())));
    args.insert("pipeline".to_owned(), row.name.into());
    job_request::direct(kind, Value::Object(args), at, target)
}

/// What of a pipeline work of this kind takes.
fn taken_by(kind: JobKind) -> &'static [&'static str] {
    match kind {
        JobKind::EncodeText => &["model", "text_encoders", "loras"],
        JobKind::UnetStep => &["model", "loras"],
        _ => &SAID,
    }
}
