//! The models that take part in one piece of work: each with the components that its role takes, and all of them as one.

use std::collections::{HashMap, HashSet};

use shared::{
    db::{Session, models::ComponentRow},
    error::ErrorCode,
    ids::ModelId,
    job::engine::{ENCODER_KINDS, Role, TakingPart, stand_in},
};

use super::Subject;
use crate::problem::ApiError;

/// Looks the models up, reduced to what their roles take; without the first one's text encoders of the `replaced` kinds.
///
/// # Errors
/// 404 for a model that is not there; 409 and 415 for one that cannot do it; 400 for a LoRA that is named twice.
pub(super) async fn look_up(
    conn: &mut Session,
    parts: Vec<TakingPart<'_, String>>,
    replaced: &[String],
) -> Result<Vec<Subject>, ApiError> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut loras: HashMap<ModelId, String> = HashMap::new();
    for (pointer, model, role) in parts {
        let subject = Subject::read(conn, model, None).await?;
        let first = subjects.is_empty();
        if first {
            must_have_places(&subject, replaced)?;
        }
        let brings_none = first && !subject.components.iter().any(|row| ENCODER_KINDS.contains(&row.kind.as_str()));
        let mut subject = taking_part(subject, role, brings_none && !replaced.is_empty())?;
        if let Some(kind) = pointer.strip_prefix("/text_encoders/") {
            subject = standing_in(subject, kind, &pointer)?;
        }
        if role == Role::Lora
            && pointer.starts_with("/loras/")
            && let Some(before) = loras.insert(subject.model.id, pointer.to_string())
        {
            let detail = format!("`{}` is in the stack already, at `{before}`", subject.model.name);
            return Err(ApiError::field(pointer, detail).hint("name each LoRA once, with all of its weight"));
        }
        subjects.push(subject);
    }
    if let Some(first) = subjects.first_mut() {
        without_replaced(&mut first.components, replaced);
    }
    Ok(subjects)
}

/// The model with those of its components that the role takes.
///
/// # Errors
/// 409 while its files are not there; 415 when it has no component for a part of the role.
fn taking_part(mut subject: Subject, role: Role, encoders_named: bool) -> Result<Subject, ApiError> {
    subject.must_be_loadable()?;
    // a model without VAE takes one of its family on the host that runs it, which the host knows
    let brings_vae = subject.components.iter().any(|row| Role::VaeDecoder.means(&row.kind));
    let role = if role == Role::Pipeline && !brings_vae { Role::WithoutVae } else { role };
    for (part, kinds) in role.groups() {
        // what another model stands in for need not be there
        let stood_in_for = encoders_named && kinds.iter().all(|kind| ENCODER_KINDS.contains(kind));
        if !stood_in_for && !subject.components.iter().any(|row| kinds.contains(&row.kind.as_str())) {
            let there = subject.components.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>().join(", ");
            let detail = format!("model `{}` has no {part}; it has {there}", subject.model.name);
            return Err(ApiError::new(ErrorCode::Unsupported, detail));
        }
    }
    subject.components.retain(|row| role.means(&row.kind));
    Ok(subject)
}

/// Where the model has text encoders, those that are named take the places of some of them.
fn must_have_places(subject: &Subject, replaced: &[String]) -> Result<(), ApiError> {
    let kinds = subject.components.iter().map(|row| row.kind.as_str());
    let own: Vec<&str> = kinds.filter(|kind| ENCODER_KINDS.contains(kind)).collect();
    match replaced.iter().find(|kind| !own.is_empty() && !own.contains(&kind.as_str())) {
        Some(kind) => {
            let (model, own) = (&subject.model.name, own.join(", "));
            let detail = format!("model `{model}` has no `{kind}` to be replaced; it has {own}");
            Err(ApiError::field(format!("/text_encoders/{kind}"), detail))
        }
        None => Ok(()),
    }
}

/// Only the text encoder that takes the place of the one of this kind.
fn standing_in(mut subject: Subject, kind: &str, pointer: &str) -> Result<Subject, ApiError> {
    let kinds: Vec<String> = subject.components.iter().map(|row| row.kind.clone()).collect();
    let Some(one) = stand_in(kind, kinds.iter().map(String::as_str)) else {
        let detail = format!("model `{}` has {}, none of which is a `{kind}`", subject.model.name, kinds.join(" and "));
        return Err(ApiError::field(pointer, detail));
    };
    subject.components.retain(|row| row.kind == one);
    Ok(subject)
}

pub(super) fn without_replaced(components: &mut Vec<ComponentRow>, replaced: &[String]) {
    components.retain(|row| !replaced.contains(&row.kind));
}

/// The models as one: all components, and the hosts that have them all.
///
/// # Errors
/// 409 when no host has them all.
pub(super) fn together(subjects: Vec<Subject>) -> Result<Option<Subject>, ApiError> {
    let mut subjects = subjects.into_iter();
    subjects.next().map(|first| with(first, subjects)).transpose()
}

/// The first model and others as one.
///
/// # Errors
/// As [`together`].
pub(super) fn with(mut all: Subject, others: impl IntoIterator<Item = Subject>) -> Result<Subject, ApiError> {
    for other in others {
        let had_hosts = !all.hosts.is_empty() && !other.hosts.is_empty();
        all.hosts.retain(|host| other.hosts.contains(host));
        if had_hosts && all.hosts.is_empty() {
            let detail = format!("no host has both `{}` and `{}` on its disk", all.model.name, other.model.name);
            return Err(ApiError::conflict(detail));
        }
        let known: HashSet<_> = all.components.iter().map(|row| row.id).collect();
        all.components.extend(other.components.into_iter().filter(|row| !known.contains(&row.id)));
    }
    Ok(all)
}

/// The ids of the models, in order, for arguments that name them otherwise.
pub(super) fn ids(subjects: &[Subject]) -> impl FnMut(String) -> Result<ModelId, ApiError> + use<> {
    let mut ids = subjects.iter().map(|subject| subject.model.id).collect::<Vec<_>>().into_iter();
    move |_| ids.next().ok_or_else(|| ApiError::new(ErrorCode::Internal, "a model of the request was not looked up"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::subject::tests::subject;

    #[test]
    fn only_what_takes_part_is_needed_and_what_lacks_is_named() {
        let decoding = taking_part(subject(), Role::VaeDecoder, false).unwrap();
        assert_eq!(decoding.components.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["vae"]);
        let error = taking_part(subject(), Role::Pipeline, false).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.body().detail.contains("has no text encoder; it has unet, vae"), "{}", error.body().detail);
    }

    #[test]
    fn models_that_work_together_lie_on_one_disk() {
        let mut other = subject();
        other.hosts = vec!["b".into(), "c".into()];
        let both = together(vec![subject(), other.clone()]).unwrap().unwrap();
        assert_eq!((both.hosts, both.components.len()), (vec!["b".to_owned()], 4));
        other.hosts = vec!["c".into()];
        assert_eq!(together(vec![subject(), other]).unwrap_err().code(), ErrorCode::Conflict);
    }

    #[test]
    fn an_encoder_that_takes_a_place_is_loaded_and_the_replaced_one_is_not() {
        let encoders = |kinds: [&str; 2]| {
            let mut of = subject();
            of.components.iter_mut().zip(kinds).for_each(|(row, kind)| row.kind = kind.into());
            of
        };
        let both = || encoders(["text_encoder", "text_encoder_2"]);
        let second = standing_in(both(), "text_encoder_2", "/text_encoders/text_encoder_2").unwrap();
        assert_eq!((second.components.len(), second.components[0].kind.as_str()), (1, "text_encoder_2"));
        let error = standing_in(both(), "text_encoder_3", "/text_encoders/text_encoder_3").unwrap_err();
        assert_eq!(error.body().errors[0].pointer, "/text_encoders/text_encoder_3");
        assert!(must_have_places(&both(), &["text_encoder".to_owned()]).is_ok());
        let error = must_have_places(&both(), &["text_encoder_3".to_owned()]).unwrap_err();
        assert_eq!(error.body().errors[0].pointer, "/text_encoders/text_encoder_3");
        let mut base = both().components;
        without_replaced(&mut base, &["text_encoder".to_owned()]);
        assert_eq!(base.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["text_encoder_2"]);
    }
}
