//! Lists and searches of models: from parameters or a body to a filter, and pages that follow one reading of the text.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use serde::{Deserialize, Serialize};
use shared::{
    db::{
        Session,
        models::{self, ComponentRow, ListedModel, MOST_WORDS, ModelFilter, ModelSort, Reading},
    },
    ids::{ComponentId, ModelId},
    wire::{ModelPage, SearchRequest},
};

use super::{linked, list_of, page_size};
use crate::{
    cursor::Position,
    extract::{Command, NoParameters, Query},
    merge::View,
    problem::ApiError,
    state::AppState,
    views,
};

const STATES: [&str; 3] = ["available", "missing", "unreadable"];
const VERDICTS: [&str; 6] = ["ok", "degraded", "invalid", "unsafe", "stale", "none"];
const TIERS: [&str; 2] = ["ram", "vram"];
const TEXT_CHARS: usize = 500;
const HASH_DIGITS: std::ops::RangeInclusive<usize> = 8..=64;
/// Most values of one list.
const VALUES: usize = 100;

/// Which models, in which order.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ModelsQuery {
    /// Types, separated by commas: `checkpoint`, `vae`, `lora`, …
    #[serde(rename = "type")]
    model_type: Option<String>,
    /// Bases, separated by commas: `sd15`, `sdxl`, …
    base: Option<String>,
    /// Formats, separated by commas: `safetensors`, `diffusers`, …
    format: Option<String>,
    /// States, separated by commas: `available`, `missing`, `unreadable`.
    state: Option<String>,
    /// Verdicts of the last validation, separated by commas: `ok`, `degraded`, `invalid`, `unsafe`; `stale` where the files are
    /// others by now, `none` where there was none.
    verdict: Option<String>,
    /// On the disk of this host.
    host: Option<String>,
    /// Part of the name, any case; of one or two characters, its beginning.
    q: Option<String>,
    /// Words of the name, title, tags, trigger words, description or path: each begins a word there, or is near to one.
    text: Option<String>,
    /// Dtypes of the weights, separated by commas: `fp16`, …
    dtype: Option<String>,
    /// Prediction types, separated by commas.
    prediction: Option<String>,
    /// With a component of one of these kinds, separated by commas.
    component: Option<String>,
    /// With all of these tags, separated by commas; any case.
    tags: Option<String>,
    /// Least bytes on disk.
    size_min: Option<u64>,
    /// Most bytes on disk.
    size_max: Option<u64>,
    /// A hash, or at least its first 8 digits: SHA-256 of the file (AutoV2 is its first 10) or of the payload, or BLAKE3.
    hash: Option<String>,
    /// With a component ready in this tier: `ram` or `vram`.
    tier: Option<String>,
    /// `rank` (with `text` only, the best first), `name`, `size`, `created` or `updated`; `-` in front reverses. Absent: `rank`
    /// with `text`, else `name`.
    sort: Option<String>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl ModelsQuery {
    fn request(self) -> Result<SearchRequest, ApiError> {
        let list = |name, text: Option<String>| list_of(name, text.as_deref(), &[]).map(Option::unwrap_or_default);
        Ok(SearchRequest {
            types: list("type", self.model_type)?,
            bases: list("base", self.base)?,
            formats: list("format", self.format)?,
            dtypes: list("dtype", self.dtype)?,
            predictions: list("prediction", self.prediction)?,
            states: list("state", self.state)?,
            verdicts: list("verdict", self.verdict)?,
            components: list("component", self.component)?,
            tags: list("tags", self.tags)?,
            text: self.text,
            name: self.q,
            size_min: self.size_min,
            size_max: self.size_max,
            hash: self.hash,
            host: self.host,
            tier: self.tier,
            sort: self.sort,
            limit: self.limit,
            cursor: self.cursor,
        })
    }
}

/// A list that is asked for: everything but its page.
#[derive(Debug, Default)]
pub(super) struct Question {
    filter: ModelFilter,
    text: Option<String>,
}

impl Question {
    /// Checks a request; `at` begins the names of its fields.
    ///
    /// # Errors
    /// A 400 problem that names the field.
    pub(super) fn of(request: SearchRequest, at: &str) -> Result<Self, ApiError> {
        check(&request, at)?;
        let (sort, descending) = sort_of(request.sort.as_deref(), request.text.is_some(), at)?;
        let some = |values: Vec<String>| (!values.is_empty()).then_some(values);
        let bytes = |size: Option<u64>| size.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        let filter = ModelFilter {
            types: some(request.types),
            bases: some(request.bases),
            formats: some(request.formats),
            variants: some(request.dtypes),
            predictions: some(request.predictions),
            states: some(request.states),
            verdicts: some(request.verdicts),
            components: some(request.components),
            tags: request.tags.iter().map(|tag| tag.to_lowercase()).collect(),
            host: request.host,
            name_contains: request.name.filter(|part| !part.is_empty()),
            resident: request.tier,
            size_min: bytes(request.size_min),
            size_max: bytes(request.size_max),
            hash: request.hash.map(|hash| hash.to_ascii_lowercase()),
            sort,
            descending,
            ..ModelFilter::default()
        };
        Ok(Self { filter, text: request.text })
    }
}

fn check(request: &SearchRequest, at: &str) -> Result<(), ApiError> {
    let refuse = |name: &str, detail: String| Err(ApiError::field(format!("{at}{name}"), detail));
    let lists = [
        ("type", &request.types),
        ("base", &request.bases),
        ("format", &request.formats),
        ("dtype", &request.dtypes),
        ("prediction", &request.predictions),
        ("state", &request.states),
        ("verdict", &request.verdicts),
        ("component", &request.components),
        ("tags", &request.tags),
    ];
    for (name, values) in lists {
        if values.len() > VALUES {
            return refuse(name, format!("more than {VALUES} values"));
        }
        if values.iter().any(|value| value.contains('\0')) {
            return refuse(name, "holds a NUL character".to_owned());
        }
    }
    for (name, text) in [("host", &request.host), ("name", &request.name), ("text", &request.text)] {
        if text.as_ref().is_some_and(|text| text.contains('\0') || text.chars().count() > TEXT_CHARS) {
            return refuse(name, format!("longer than {TEXT_CHARS} characters, or with a NUL character"));
        }
    }
    if let Some(state) = request.states.iter().find(|state| !STATES.contains(&state.as_str())) {
        return refuse("state", format!("`{state}` is not one of {}", STATES.join(", ")));
    }
    if let Some(verdict) = request.verdicts.iter().find(|verdict| !VERDICTS.contains(&verdict.as_str())) {
        return refuse("verdict", format!("`{verdict}` is not one of {}", VERDICTS.join(", ")));
    }
    if let Some(tier) = request.tier.as_ref().filter(|tier| !TIERS.contains(&tier.as_str())) {
        return refuse("tier", format!("`{tier}` is not one of {}", TIERS.join(", ")));
    }
    if let Some(hash) = &request.hash
        && !(HASH_DIGITS.contains(&hash.len()) && hash.bytes().all(|digit| digit.is_ascii_hexdigit()))
    {
        return refuse("hash", "a hash is given by 8 to 64 hexadecimal digits".to_owned());
    }
    if let Some(text) = &request.text {
        let words = models::words_of(text).len();
        if !(1..=MOST_WORDS).contains(&words) {
            return refuse("text", format!("holds {words} words: 1 to {MOST_WORDS} can be looked for"));
        }
    }
    Ok(())
}

/// The key and whether it descends; the best rank comes first.
fn sort_of(text: Option<&str>, searches_text: bool, at: &str) -> Result<(ModelSort, bool), ApiError> {
    let text = text.unwrap_or(if searches_text { "rank" } else { "name" });
    let (name, reversed) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
    match name {
        "name" => Ok((ModelSort::Name, reversed)),
        "size" => Ok((ModelSort::Size, reversed)),
        "created" => Ok((ModelSort::Created, reversed)),
        "updated" => Ok((ModelSort::Updated, reversed)),
        "rank" if searches_text => Ok((ModelSort::Rank, !reversed)),
        "rank" => Err(ApiError::field(format!("{at}sort"), "only what a text finds has a rank")),
        _ => Err(ApiError::field(
            format!("{at}sort"),
            format!("`{text}` is not one of rank, name, size, created, updated, with or without `-`"),
        )),
    }
}

/// Where a page begins and how the text was read, as a cursor keeps it.
#[derive(Serialize, Deserialize)]
struct Resume {
    value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reading: Option<Reading>,
}

/// One keyset page of models and the cursor of the next.
pub(super) async fn page_of_models(
    state: &AppState,
    conn: &mut Session,
    question: Question,
    limit: usize,
    cursor: Option<&str>,
) -> Result<(Vec<ListedModel>, Option<String>), ApiError> {
    let Question { mut filter, text } = question;
    // the number is that of the form of `Resume`
    let binding = format!("models 2 {text:?} {filter:?}");
    match cursor {
        Some(cursor) => {
            let Position { value, id } = state.cursors.read(&binding, cursor)?;
            let resume: Resume = serde_json::from_str(&value).map_err(ApiError::defect)?;
            filter.after = Some((resume.value, id.parse().map_err(ApiError::defect)?));
            filter.text = resume.reading;
        }
        None => {
            if let Some(text) = &text {
                filter.text = models::understand(conn, text).await?;
            }
        }
    }
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = models::list(conn, &filter, more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next) {
        Some(last) => {
            let resume = Resume { value: filter.key_of(last), reading: filter.text };
            let value = serde_json::to_string(&resume).map_err(ApiError::defect)?;
            Some(state.cursors.issue(&binding, Position { value, id: last.id.to_string() })?)
        }
        None => None,
    };
    Ok((rows, next))
}

/// A page with residency.
///
/// # Errors
/// A 400 problem of the cursor; database errors.
pub(super) async fn summaries(
    state: &AppState,
    question: Question,
    limit: usize,
    cursor: Option<&str>,
) -> Result<ModelPage, ApiError> {
    let mut conn = state.connection().await?;
    let is_text = question.text.is_some();
    let (rows, next_cursor) = page_of_models(state, &mut conn, question, limit, cursor).await?;
    let ids: Vec<ModelId> = rows.iter().map(|row| row.id).collect();
    let components = models::component_ids_of(&mut *conn, &ids).await?;
    let view = View::read(state, &mut conn).await?;
    let summary = |row: ListedModel| {
        let parts: Vec<ComponentId> =
            components.iter().filter(|(model, _)| *model == row.id).map(|(_, component)| *component).collect();
        let residency = views::residency(&view, &parts);
        views::model(row, residency)
    };
    let items = rows.into_iter().map(summary).collect();
    let due = if is_text { models::due_texts(&mut *conn).await? } else { 0 };
    Ok(ModelPage { items, next_cursor, indexing: Some(due).filter(|due| *due > 0) })
}

/// The components of one model among these.
pub(super) fn ids_of(components: &[ComponentRow], model: ModelId) -> Vec<ComponentId> {
    components.iter().filter(|row| row.model_id == model).map(|row| row.id).collect()
}

/// Lists models
///
/// What the last scans found on disk, with where parts of each model are resident.
#[utoipa::path(get, path = "/v1/models", operation_id = "listModels", tag = "models", params(ModelsQuery),
    responses((status = 200, description = "One page", body = ModelPage)))]
pub(crate) async fn list_models(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ModelsQuery>,
) -> Result<Response, ApiError> {
    let request = query.request()?;
    let (limit, cursor) = (page_size(request.limit)?, request.cursor.clone());
    let page = summaries(&state, Question::of(request, "")?, limit, cursor.as_deref()).await?;
    let cursor = page.next_cursor.clone();
    Ok(linked(&uri, cursor.as_deref(), page))
}

/// Searches models
///
/// The filters of the list as a body. Every word of `text` must begin a word of the model's name, title, tags, trigger words,
/// description or path; a word of three letters or more that begins none in the whole catalogue counts for the words that are near to it. The rank says
/// how well a model fits: words of the name and title weigh most, those of a description least. A text that more than 500 models
/// hold is too common to rank: those come by name. Models that were listed a moment ago are found when their texts are made;
/// `indexing` says how many still wait for that.
#[utoipa::path(post, path = "/v1/models/search", operation_id = "searchModels", tag = "models", request_body = SearchRequest,
    responses((status = 200, description = "One page; the next one is asked for by the same search with its cursor",
        body = ModelPage)))]
pub(crate) async fn search_models(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, .. }: Command<SearchRequest>,
) -> Result<Json<ModelPage>, ApiError> {
    let limit = page_size(body.limit)?;
    let cursor = body.cursor.clone();
    Ok(Json(summaries(&state, Question::of(body, "/")?, limit, cursor.as_deref()).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: SearchRequest) -> String {
        Question::of(request, "/").unwrap_err().body().errors[0].pointer.clone()
    }

    #[test]
    fn sort_keys_are_a_closed_set() {
        assert_eq!(sort_of(Some("-size"), false, "").unwrap(), (ModelSort::Size, true));
        assert_eq!(sort_of(None, true, "").unwrap(), (ModelSort::Rank, true));
        assert_eq!(sort_of(None, false, "").unwrap(), (ModelSort::Name, false));
        assert!(sort_of(Some("rank"), false, "").is_err());
        assert!(sort_of(Some("name; drop table models"), false, "").is_err());
    }

    #[test]
    fn what_cannot_be_looked_for_is_named() {
        let request = SearchRequest::default;
        assert_eq!(refused(SearchRequest { text: Some("--".into()), ..request() }), "/text");
        let long = (0..17).map(|word| word.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(refused(SearchRequest { text: Some(long), ..request() }), "/text");
        assert_eq!(refused(SearchRequest { hash: Some("0123abc".into()), ..request() }), "/hash");
        assert_eq!(refused(SearchRequest { hash: Some("0123abcx".into()), ..request() }), "/hash");
        assert_eq!(refused(SearchRequest { states: vec!["gone".into()], ..request() }), "/state");
        assert_eq!(refused(SearchRequest { verdicts: vec!["fine".into()], ..request() }), "/verdict");
        assert_eq!(refused(SearchRequest { tags: vec!["a\0".into()], ..request() }), "/tags");
        assert_eq!(refused(SearchRequest { tier: Some("disk".into()), ..request() }), "/tier");
    }
}
