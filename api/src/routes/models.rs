//! One model: what is known of it, the operator's corrections, reading it again, loading and unloading it.

use std::collections::BTreeMap;

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use shared::{
    db::{
        DbError, Session, hashes,
        models::{self, ModelRow},
    },
    job::{JobSpec, Keep, NewJob, ScanArgs, Target, enqueue::enqueue},
    wire::{Detected, JobView, LoadRequest, ModelDetail, ModelForgotten, Overrides, UnloadRequest},
};

use super::{metadata, search::ids_of};
use crate::{
    edit::Edit,
    extract::{Command, NoBody, NoParameters, Path},
    merge::View,
    plan::{Order, Wanted, get_model},
    problem::ApiError,
    rules,
    state::AppState,
    submit::submit,
    tag, views,
};

/// Shows a model
///
/// With its components, locations and what is wrong with files there, metadata and residency. The ETag changes with the row and with the residency.
#[utoipa::path(get, path = "/v1/models/{model}", operation_id = "getModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The model", body = ModelDetail), (status = 304, description = "Unchanged")))]
pub(crate) async fn get_one_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = state.snapshot().await?;
    let row = get_model(&mut conn, &model).await?;
    let detail = detail(&state, &mut conn, row).await?;
    Ok(tag::answer(&headers, detail.version, &detail))
}

/// Everything known of a model.
///
/// # Errors
/// Database errors.
pub(super) async fn detail(state: &AppState, conn: &mut Session, row: ModelRow) -> Result<ModelDetail, ApiError> {
    let listed = models::listed(&mut *conn, &row).await?;
    let components = models::components_of(&mut *conn, &[row.id]).await?;
    let locations = models::locations_of(&mut *conn, &[row.id]).await?;
    let marked = models::corrupt_files(&mut *conn, &[row.id]).await?;
    let said = models::metadata(&mut *conn, row.id).await?;
    let autov1 = match row.sha256.as_deref() {
        Some(sha256) => hashes::autov1(&mut *conn, sha256).await?,
        None => None,
    };
    let overrides = overrides_of(&row)?;
    let view = View::read(state, conn).await?;
    let residency = views::residency(&view, &ids_of(&components, row.id));
    Ok(ModelDetail {
        prediction: listed.prediction.clone(),
        summary: views::model(listed, residency),
        correction_pending: is_pending(&row, &overrides)
            || locations.iter().any(|at| view.is_alive(&at.host) && at.read_variant != overrides.variant),
        overrides,
        user: metadata::said(&said),
        digest: row.content_digest.clone(),
        hashes: views::hashes(&row, autov1),
        detected: Detected { model_type: row.model_type, base: row.base, prediction: row.prediction },
        root: row.root,
        rel_path: row.rel_path,
        made_from: views::made_from(&row.metadata),
        variants: views::variants(&row.metadata).unwrap_or_default(),
        evidence: row.evidence,
        metadata: row.metadata,
        components: components.iter().map(views::component).collect(),
        locations: locations.into_iter().map(|location| views::location(location, &marked)).collect(),
        version: row.version,
    })
}

/// Corrects what was detected of a model
///
/// Type, base and prediction type take the place of what was detected, here and in lists. Another type or base also means other
/// components or another canonical form of them: the model is read again by a scan that this request enqueues, and is used as
/// before until `correction_pending` is false. So it is with `variant`, one of the model's `variants`: every later operation reads
/// its files, of a component without any those of `default`. The configuration of a component, a
/// diffusers `config.json`, is used for files whose widths or depths are no known family's; it replaces the one that was given
/// before as a whole. Null clears, what is left out stays. With `If-Match` only if the model did not change since; only the
/// version in the ETag counts, not where the model is resident.
#[utoipa::path(patch, path = "/v1/models/{model}", operation_id = "overrideModel", tag = "models",
    params(("model" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "ETag of the model as it was read")),
    request_body = Overrides,
    responses((status = 200, description = "The model as it is now", body = ModelDetail)))]
pub(crate) async fn override_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    edit: Edit<Correction>,
) -> Result<Response, ApiError> {
    let mut tx = state.begin().await?;
    let found = get_model(&mut tx, &model).await?;
    let row = models::lock(&mut tx, found.id)
        .await?
        .ok_or_else(|| ApiError::not_found(format!("model `{model}` has just left the catalogue")))?;
    tag::must_match_version(&edit.headers, row.version)?;
    let before = overrides_of(&row)?;
    let after = edit.body.applied(before.clone());
    rules::overrides(&after)?;
    if after.variant != before.variant {
        rules::variant(after.variant.as_deref(), &row.format, views::variants(&row.metadata).as_deref())?;
    }
    let row = if after == before {
        row
    } else {
        let stored = serde_json::to_value(&after).map_err(ApiError::defect)?;
        let row = models::set_overrides(&mut *tx, row.id, &stored).await?;
        let other_files = after.variant != before.variant;
        if is_pending(&row, &after) || other_files {
            read_again(&state, &mut tx, &row, other_files).await?;
        }
        row
    };
    tx.commit().await.map_err(DbError::from)?;
    let mut conn = state.connection().await?;
    let detail = detail(&state, &mut conn, row).await?;
    Ok(tag::answer(&HeaderMap::new(), detail.version, &detail))
}

/// Whether the model has yet to be read as the operator says it is.
fn is_pending(row: &ModelRow, said: &Overrides) -> bool {
    let read_as = &row.read_as;
    (&said.model_type, &said.base, &said.variant) != (&read_as.model_type, &read_as.base, &read_as.variant)
}

/// Enqueues the scan that reads a model as it was corrected. What one host reads of the files that all have counts for all; of `other_files`,
/// those of another variant, each living host that has it reads its own. What a host does not do now, the scan that it makes when it starts does.
async fn read_again(state: &AppState, tx: &mut Session, row: &ModelRow, other_files: bool) -> Result<(), ApiError> {
    let view = View::read(state, tx).await?;
    let having = models::hosts_with(&mut *tx, &[row.id]).await?;
    let most = if other_files { usize::MAX } else { 1 };
    for (_, host) in having.into_iter().filter(|(_, host)| view.is_alive(host)).take(most) {
        let args = ScanArgs { root: Some(row.root.clone()), model: Some(row.id) };
        enqueue(tx, NewJob::new(JobSpec::Scan(args), Target::Host(host))).await?;
    }
    Ok(())
}

/// A change of the corrections: a field is left alone, cleared or set.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Correction {
    #[serde(rename = "type", default, deserialize_with = "given")]
    model_type: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    base: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    prediction: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    variant: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    config: Option<Option<Configs>>,
}

/// Configurations by component; null clears one.
type Configs = BTreeMap<String, Option<Map<String, Value>>>;

/// Null is something that was said; only what is absent was not.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Correction {
    fn applied(self, mut to: Overrides) -> Overrides {
        to.model_type = self.model_type.unwrap_or(to.model_type);
        to.base = self.base.unwrap_or(to.base);
        to.prediction = self.prediction.unwrap_or(to.prediction);
        to.variant = self.variant.unwrap_or(to.variant);
        match self.config {
            None => {}
            Some(None) => to.config.clear(),
            Some(Some(configs)) => {
                for (component, config) in configs {
                    match config {
                        Some(config) => to.config.insert(component, config),
                        None => to.config.remove(&component),
                    };
                }
            }
        }
        to
    }
}

fn overrides_of(row: &ModelRow) -> Result<Overrides, ApiError> {
    serde_json::from_value(row.overrides.clone()).map_err(ApiError::defect)
}

/// Reads a model's files again
///
/// A scan of its root, on one host that has it, which reads this model's headers even if its files did not change: for files that
/// were not recognised as what they are, after the rules or the side-cars are better. Marks of its files as corrupt are taken off
/// on all hosts, where the digests of all its components are known: the next read is compared with them.
#[utoipa::path(post, path = "/v1/models/{model}/reidentify", operation_id = "reidentifyModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn reidentify_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { asked, body: _ }: Command<NoBody>,
) -> Result<Response, ApiError> {
    submit(&state, asked, Order::new(Wanted::Reidentify { model, target: Target::Any })).await
}

/// Forgets a model whose files are gone
///
/// It leaves the catalogue with its metadata, its history and its reports. Refused while a host reports its files: a model that is there would be
/// found again by the next scan.
#[utoipa::path(delete, path = "/v1/models/{model}", operation_id = "forgetModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")),
    responses((status = 200, description = "It is forgotten", body = ModelForgotten)))]
pub(crate) async fn forget_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
) -> Result<axum::Json<ModelForgotten>, ApiError> {
    let mut tx = state.begin().await?;
    let row = get_model(&mut tx, &model).await?;
    if !models::forget(&mut tx, row.id).await? {
        let detail = format!("model `{}` is {}, not missing", row.name, row.state);
        return Err(ApiError::conflict(detail).hint("remove its files and scan the root, then it can be forgotten"));
    }
    tx.commit().await.map_err(DbError::from)?;
    Ok(axum::Json(ModelForgotten { id: row.id, name: row.name }))
}

/// Loads a model onto a device
///
/// A job: disk → RAM → device. An equal load that is still active is joined (`Modelyard-Joined: true`).
#[utoipa::path(post, path = "/v1/models/{model}/load", operation_id = "loadModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")), request_body = LoadRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn load_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<LoadRequest>,
) -> Result<Response, ApiError> {
    let keep = Keep { keep_alive: body.keep_alive, protect: body.protect };
    let wanted = Wanted::Load { model, components: body.components, target: body.target, keep };
    let order = Order { priority: body.priority, labels: body.labels, ..Order::new(wanted) };
    submit(&state, asked, order).await
}

/// Unloads a model
///
/// A job for the device that holds it, or a parent with one child for each of several. Components that another model
/// loaded there needs stay, and the result says for whom. Refused while something uses the model there, unless the request
/// wants to wait for the jobs that do.
#[utoipa::path(post, path = "/v1/models/{model}/unload", operation_id = "unloadModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")), request_body = UnloadRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn unload_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<UnloadRequest>,
) -> Result<Response, ApiError> {
    let UnloadRequest { target, components, from_ram, force, wait_for_jobs, priority } = body;
    let wanted = Wanted::Unload { model, components, from_ram, force, wait_for_jobs, target };
    submit(&state, asked, Order { priority, ..Order::new(wanted) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_clears_and_what_is_absent_stays() {
        let before: Overrides = serde_json::from_value(serde_json::json!({
            "type": "vae", "base": "sdxl", "variant": "fp16", "config": { "vae": { "a": 1 }, "unet": { "b": 2 } }
        }))
        .unwrap();
        let applied = |text: &str| serde_json::from_str::<Correction>(text).unwrap().applied(before.clone());
        assert_eq!(applied("{}"), before);
        assert_eq!(applied(r#"{"variant":"ema"}"#).variant.as_deref(), Some("ema"));
        assert_eq!(applied(r#"{"variant":null}"#).variant, None);
        let now = applied(r#"{"type":null,"base":"sd15","config":{"vae":null,"unet":{"c":null}}}"#);
        assert_eq!((now.model_type.as_deref(), now.base.as_deref()), (None, Some("sd15")));
        assert_eq!(serde_json::to_string(&now.config).unwrap(), r#"{"unet":{"c":null}}"#);
        assert!(applied(r#"{"config":null}"#).config.is_empty());
        assert!(serde_json::from_str::<Correction>(r#"{"name":"x"}"#).is_err());
    }
}
