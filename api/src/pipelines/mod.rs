//! Pipelines: looking them up, showing them, and what is written beside the jobs that apply and restore them.

mod changes;
mod record;
mod stack;
mod view;

pub(crate) use changes::changes;
pub(crate) use record::{declared_anew, prepare, record};
pub(crate) use stack::patched;
pub(crate) use view::{Names, declaration, event, view, views};

use shared::{
    db::{
        Session,
        pipelines::{self, PipelineRow},
    },
    ids::PipelineId,
    job::Target,
    pipeline::Declared,
    wire::{FieldError, PipelineDeclaration},
};

use crate::{near, problem::ApiError};

/// Longest name.
const NAME_CHARS: usize = 100;
/// Longest description.
const DESCRIPTION_CHARS: usize = 2000;
/// Most labels, and the longest.
const LABELS: usize = 32;

/// A pipeline by name or id.
///
/// # Errors
/// 404 with near names.
pub(crate) async fn get(conn: &mut Session, wanted: &str) -> Result<PipelineRow, ApiError> {
    let found = if wanted.contains('\0') { None } else { pipelines::find(&mut *conn, wanted).await? };
    match found {
        Some(row) => Ok(row),
        None => Err(absent(conn, wanted).await?),
    }
}

/// As [`get`], locked for a change.
///
/// # Errors
/// As [`get`].
pub(crate) async fn lock(tx: &mut Session, wanted: &str) -> Result<PipelineRow, ApiError> {
    let found = if wanted.contains('\0') { None } else { pipelines::lock(&mut *tx, wanted).await? };
    match found {
        Some(row) => Ok(row),
        None => Err(absent(tx, wanted).await?),
    }
}

/// The pipelines whose history is meant: one by its id, or all that have or had this name.
///
/// # Errors
/// 404 with near names, of removed pipelines, too.
pub(crate) async fn with_history(conn: &mut Session, wanted: &str) -> Result<Vec<PipelineId>, ApiError> {
    let ids = if wanted.contains('\0') { Vec::new() } else { pipelines::named(&mut *conn, wanted).await? };
    if !ids.is_empty() {
        return Ok(ids);
    }
    let mut names = pipelines::names(&mut *conn).await?;
    names.extend(pipelines::removed_names(conn).await?);
    let detail = format!("there is no pipeline `{wanted}`, and nothing is known of one that was removed");
    Err(ApiError::not_found(detail).maybe_hint(near::hint(wanted, names)))
}

async fn absent(conn: &mut Session, wanted: &str) -> Result<ApiError, ApiError> {
    let names = pipelines::names(conn).await?;
    let hint = match near::hint(wanted, names.iter().cloned()) {
        None if names.is_empty() => Some("none is declared; `PUT /v1/pipelines/{name}` declares one".to_owned()),
        hint => hint,
    };
    Ok(ApiError::not_found(format!("there is no pipeline `{wanted}`")).maybe_hint(hint))
}

/// Which declaration it is: a pipeline that was removed and declared again under its name counts from one, too.
pub(crate) fn version_of(row: &PipelineRow) -> String {
    format!("{}-{}", row.id, row.generation)
}

/// The target of a pipeline that is applied nowhere.
///
/// # Errors
/// A stored text of another build.
pub(crate) fn target_of(row: &PipelineRow) -> Result<Target, ApiError> {
    row.target.parse().map_err(ApiError::defect)
}

/// A name that a pipeline may have.
///
/// # Errors
/// 400.
pub(crate) fn check_name(name: &str) -> Result<(), ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !begins || name.len() > NAME_CHARS || !name.chars().all(plain) {
        let detail = format!("`{name}` is no name: 1 to {NAME_CHARS} letters, digits, `.`, `_` and `-`");
        return Err(ApiError::field("name", detail));
    }
    if name.parse::<PipelineId>().is_ok() {
        return Err(ApiError::field("name", format!("`{name}` reads as an id")));
    }
    Ok(())
}

/// What is declared has no fault in itself.
///
/// # Errors
/// 400 with every fault.
pub(crate) fn check(declaration: &PipelineDeclaration) -> Result<(), ApiError> {
    let of_assembly = declaration.assembly().faults().into_iter();
    let mut faults: Vec<FieldError> =
        of_assembly.map(|fault| FieldError { pointer: fault.pointer, detail: fault.detail }).collect();
    let mut add = |pointer: &str, detail: String| faults.push(FieldError { pointer: pointer.to_owned(), detail });
    let description = declaration.description.as_deref().unwrap_or_default();
    if description.chars().count() > DESCRIPTION_CHARS || description.contains('\0') {
        add("/description", format!("longer than {DESCRIPTION_CHARS} characters, or holds a NUL character"));
    }
    let odd = |label: &String| label.is_empty() || label.len() > NAME_CHARS || label.contains('\0');
    if declaration.labels.len() > LABELS || declaration.labels.iter().any(odd) {
        add("/labels", format!("at most {LABELS} labels of 1 to {NAME_CHARS} bytes"));
    }
    if declaration.target.to_string().contains('\0') {
        add("/target", "holds a NUL character".to_owned());
    }
    if faults.is_empty() { Ok(()) } else { Err(ApiError::fields(faults)) }
}

/// The arguments of a stored declaration, with models by id as text.
pub(crate) fn by_id(declared: &Declared) -> shared::job::engine::Assembly<String> {
    let Ok(assembly) =
        declared.assembly.clone().try_with_models(|id| Ok::<_, std::convert::Infallible>(id.to_string()));
    assembly
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_plain_and_no_ids() {
        assert!(["sdxl-anime.v2", "a", "4x_up"].iter().all(|name| check_name(name).is_ok()));
        let long = "a".repeat(NAME_CHARS + 1);
        for name in ["", "-a", "a b", "a/b", "ä", &long, &PipelineId::generate().to_string()] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn every_fault_of_a_declaration_is_named() {
        let declaration: PipelineDeclaration = serde_json::from_value(json!({
            "model": "m", "description": "a\u{0}", "loras": [{ "lora": "l", "weight": 1000 }], "labels": [""],
        }))
        .unwrap();
        let body = check(&declaration).unwrap_err().body();
        let pointers: Vec<&str> = body.errors.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/loras/0/weight", "/description", "/labels"]);
    }
}
