//! The tensors of a model.

use axum::{
    extract::{OriginalUri, State},
    response::Response,
};
use serde::Deserialize;
use shared::{
    db::{
        Session,
        models::{self, ListedTensor, ModelRow, TensorFilter},
    },
    wire::{Page, TensorView},
};

use super::{page_size, paged, without_nul};
use crate::{
    cursor::Position,
    extract::{Path, Query},
    near,
    plan::get_model,
    problem::ApiError,
    state::AppState,
};

/// Which tensors.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TensorsQuery {
    /// Of this component: `unet`, `vae`, `text_encoder`, …
    component: Option<String>,
    /// With this text in the name in the file or in a canonical one.
    name: Option<String>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the tensors of a model's components
///
/// In the order of its files, each with its name there and in diffusers or transformers, its shape and where its bytes are. They
/// are listed once the model was hashed, which follows a scan in the background.
#[utoipa::path(get, path = "/v1/models/{model}/tensors", operation_id = "listTensors", tag = "models",
    params(("model" = String, Path, description = "Id or name"), TensorsQuery),
    responses((status = 200, description = "One page", body = Page<TensorView>)))]
pub(crate) async fn list_tensors(
    State(state): State<AppState>,
    Path(model): Path<String>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<TensorsQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    without_nul([("component", &query.component), ("name", &query.name)])?;
    let mut conn = state.connection().await?;
    let row = get_model(&mut conn, &model).await?;
    can_list(&mut conn, &row, query.component.as_deref()).await?;
    let mut filter = TensorFilter { kind: query.component, text: query.name, after: None };
    // numbers are those of this reading of the files
    let binding = format!("tensors {} {} {filter:?}", row.id, row.version);
    if let Some(cursor) = &query.cursor {
        let Position { value, id } = state.cursors.read(&binding, cursor)?;
        filter.after = Some((id, value.parse().map_err(ApiError::defect)?));
    }
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = models::list_tensors(&mut *conn, row.id, &filter, more).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| has_more) {
        Some((kind, number, _)) => {
            Some(state.cursors.issue(&binding, Position { value: number.to_string(), id: kind.clone() })?)
        }
        None => None,
    };
    Ok(paged(&uri, rows.into_iter().map(view).collect(), next))
}

/// Refuses what is not there, and what is not known yet.
async fn can_list(conn: &mut Session, row: &ModelRow, component: Option<&str>) -> Result<(), ApiError> {
    let kinds: Vec<String> =
        models::components_of(&mut *conn, &[row.id]).await?.into_iter().map(|component| component.kind).collect();
    if let Some(wanted) = component
        && !kinds.iter().any(|kind| kind == wanted)
    {
        let problem = ApiError::not_found(format!("model `{}` has no component `{wanted}`", row.name));
        return Err(problem.maybe_hint(near::hint(wanted, kinds)));
    }
    let unlisted = models::without_tensors(&mut *conn, row.id).await?;
    if unlisted.iter().any(|kind| component.is_none_or(|wanted| wanted == kind)) {
        return Err(ApiError::conflict(format!("the files of model `{}` were not read yet", row.name))
            .hint("`modelyard models hash` or a job of kind `hash` reads them"));
    }
    Ok(())
}

fn view((component, _, row): ListedTensor) -> TensorView {
    TensorView {
        component,
        name: row.name,
        canonical: row.canonical,
        dtype: row.dtype,
        shape: row.shape,
        file: row.file,
        begin: row.begin,
        end: row.end,
    }
}
