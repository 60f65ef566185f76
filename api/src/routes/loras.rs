//! LoRAs: which there are with what their files say of them, and several made one.

use axum::{
    extract::{OriginalUri, State},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::{
    db::models::{self, LoraRow},
    error::ErrorCode,
    ids::ModelId,
    job::engine::EngineArgs,
    wire::{BlendLorasRequest, JobView, LoraDetail, LoraFacts, LoraView, Page, SearchRequest},
};

use super::{
    engine::order,
    list_of,
    models::detail,
    page_size, paged,
    search::{Question, summaries},
};
use crate::{
    extract::{Command, NoParameters, Path, Query},
    plan::get_model,
    problem::ApiError,
    state::AppState,
    submit::submit,
    tag,
};

/// The type of models that this family is about.
const TYPE: &str = "lora";

/// Which LoRAs, in which order.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LorasQuery {
    /// Bases, separated by commas: `sd15`, `sdxl`, …
    base: Option<String>,
    /// Part of the name, any case; of one or two characters, its beginning.
    q: Option<String>,
    /// Words of the name, title, tags, trigger words, description or path: each begins a word there, or is near to one.
    text: Option<String>,
    /// With all of these tags, separated by commas; any case.
    tags: Option<String>,
    /// On the disk of this host.
    host: Option<String>,
    /// Ready in this tier: `ram` or `vram`.
    tier: Option<String>,
    /// `rank` (with `text` only, the best first), `name`, `size`, `created` or `updated`; `-` in front reverses.
    sort: Option<String>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists LoRAs
///
/// With what each file says of it: flavour, ranks, modules, words that trigger it.
#[utoipa::path(get, path = "/v1/loras", operation_id = "listLoras", tag = "engine", params(LorasQuery),
    responses((status = 200, description = "One page", body = Page<LoraView>)))]
pub(crate) async fn list_loras(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<LorasQuery>,
) -> Result<Response, ApiError> {
    let list = |name, text: Option<String>| list_of(name, text.as_deref(), &[]).map(Option::unwrap_or_default);
    let request = SearchRequest {
        types: vec![TYPE.to_owned()],
        bases: list("base", query.base)?,
        tags: list("tags", query.tags)?,
        name: query.q,
        text: query.text,
        host: query.host,
        tier: query.tier,
        sort: query.sort,
        ..SearchRequest::default()
    };
    let limit = page_size(query.limit)?;
    let page = summaries(&state, Question::of(request, "")?, limit, query.cursor.as_deref()).await?;
    let ids: Vec<ModelId> = page.items.iter().map(|model| model.id).collect();
    let mut rows = models::lora_facts(&mut *state.connection().await?, &ids).await?;
    let items = page.items.into_iter().map(|summary| {
        let at = rows.iter().position(|row| row.id == summary.id);
        let (facts, trigger_words) = facts(at.map(|at| rows.swap_remove(at)));
        LoraView { summary, facts, trigger_words }
    });
    let items: Vec<LoraView> = items.collect();
    Ok(paged(&uri, items, page.next_cursor))
}

/// Shows a LoRA
///
/// As a model, with what its file says of the LoRA. The ETag changes with the row and with the residency.
#[utoipa::path(get, path = "/v1/loras/{lora}", operation_id = "getLora", tag = "engine",
    params(("lora" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The LoRA", body = LoraDetail), (status = 304, description = "Unchanged")))]
pub(crate) async fn get_lora(
    State(state): State<AppState>,
    Path(lora): Path<String>,
    _: NoParameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = state.connection().await?;
    let row = get_model(&mut conn, &lora).await?;
    let found = models::lora_facts(&mut *conn, &[row.id]).await?.pop();
    let model = detail(&state, &mut conn, row).await?;
    if model.summary.model_type != TYPE {
        let detail = format!("`{}` is a {}, no LoRA", model.summary.name, model.summary.model_type);
        return Err(ApiError::new(ErrorCode::Unsupported, detail));
    }
    let (facts, trigger_words) = facts(found);
    let version = model.version;
    Ok(tag::answer(&headers, version, &LoraDetail { model, facts, trigger_words }))
}

fn facts(row: Option<LoraRow>) -> (LoraFacts, Vec<String>) {
    let Some(LoraRow { facts, trigger_words, network, .. }) = row else { return Default::default() };
    let fact = |name: &str| facts.as_ref().and_then(|facts| facts.get(name));
    let number = |name: &str| fact(name).and_then(Value::as_u64);
    let texts = |value: Option<&Value>| -> Vec<String> {
        let list = value.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let of_trainer = |name: &str| network.as_ref().and_then(|network| network.get(name)).and_then(Value::as_f64);
    let of_file = LoraFacts {
        flavour: fact("flavour").and_then(Value::as_str).map(str::to_owned),
        flavours: texts(fact("flavours")),
        modules: number("modules"),
        rank_min: number("rank_min"),
        rank_max: number("rank_max"),
        network_dim: of_trainer("dim"),
        network_alpha: of_trainer("alpha"),
    };
    (of_file, texts(trigger_words.as_ref()))
}

/// Blends LoRAs
///
/// A job of a host that has them all: the stack is written down as one LoRA below a root of that host and catalogued by the scan
/// that follows. Without `rank` and `energy` it is the exact sum, whose ranks add; with one of them each module is cut to its
/// leading directions. Its result (`BlendLorasResult`) says how far the file is off the exact sum.
#[utoipa::path(post, path = "/v1/loras/blend", operation_id = "blendLoras", tag = "engine", request_body = BlendLorasRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn blend_loras(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<Map<String, Value>>,
) -> Result<Response, ApiError> {
    submit(&state, asked, order(body, EngineArgs::BlendLoras)?).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_not_observed_is_not_said() {
        let row = |facts: Value| LoraRow {
            id: ModelId::generate(),
            facts: Some(facts),
            trigger_words: Some(json!(["cat", 3])),
            network: Some(json!({ "dim": 8.0, "alpha": null })),
        };
        let (of_file, words) =
            facts(Some(row(json!({ "flavour": "lora", "flavours": ["lora"], "modules": 4, "rank_max": 8 }))));
        assert_eq!((of_file.flavour.as_deref(), of_file.modules, of_file.rank_min), (Some("lora"), Some(4), None));
        assert_eq!((of_file.network_dim, of_file.network_alpha, words), (Some(8.0), None, vec!["cat".to_owned()]));
        assert_eq!(facts(None), Default::default());
    }
}
