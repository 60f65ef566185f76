//! What an order is about: a model, the components of it that are meant, and the hosts that have it on disk.

use shared::{
    db::{
        Session,
        models::{self, ComponentRow, ModelRow},
    },
    error::ErrorCode,
    ids::ComponentId,
    job::{engine::Role, enqueue::Needs},
};

use crate::{near, problem::ApiError};

/// A model with the components that an order means.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The model.
    pub(crate) model: ModelRow,
    /// The components that are meant.
    pub(crate) components: Vec<ComponentRow>,
    /// Hosts with the model on disk.
    pub(crate) hosts: Vec<String>,
}

impl Subject {
    /// Looks the model up; `kinds` picks components, absent means all.
    ///
    /// # Errors
    /// 404 with near names, 400 naming the kinds that there are.
    pub(crate) async fn read(conn: &mut Session, model: &str, kinds: Option<&[String]>) -> Result<Self, ApiError> {
        let model = get_model(conn, model).await?;
        let all = models::components_of(&mut *conn, &[model.id]).await?;
        let components = picked(&model, all, kinds)?;
        let hosts = models::hosts_with(conn, &[model.id]).await?.into_iter().map(|(_, host)| host).collect();
        Ok(Self { model, components, hosts })
    }

    /// The model can be loaded.
    ///
    /// # Errors
    /// 409 while its files are not there, 415 when it is nothing that can be loaded.
    pub(crate) fn must_be_loadable(&self) -> Result<(), ApiError> {
        let name = &self.model.name;
        if self.model.state != "available" {
            let why = self.model.reason.as_deref().unwrap_or("its files cannot be read");
            return Err(ApiError::conflict(format!("model `{name}` is {}: {why}", self.model.state))
                .hint(hint_of(&self.model.state)));
        }
        if self.components.is_empty() {
            let why = self.model.reason.as_deref().unwrap_or("no components were found in it");
            let problem = ApiError::new(ErrorCode::Unsupported, format!("model `{name}` cannot be loaded: {why}"));
            let said = "if the files are whole and you know what they are, say so: `modelyard models override`";
            return Err(if self.model.model_type == "unknown" { problem.hint(said) } else { problem });
        }
        Ok(())
    }

    /// Bytes of what is meant.
    pub(crate) fn bytes(&self) -> u64 {
        self.needs().bytes()
    }

    /// Without the components that cannot be run alone.
    pub(crate) fn only_what_runs(mut self) -> Self {
        self.components.retain(|row| Role::any_means(&row.kind));
        self
    }

    /// What the placement must know.
    pub(crate) fn needs(&self) -> Needs {
        let bytes_of = |row: &ComponentRow| (row.id, u64::try_from(row.bytes).unwrap_or(0));
        Needs { components: self.components.iter().map(bytes_of).collect() }
    }

    /// One of these components.
    pub(crate) fn means(&self, component: ComponentId) -> bool {
        self.components.iter().any(|row| row.id == component)
    }

    /// The kind of one of these components.
    pub(crate) fn kind_of(&self, component: ComponentId) -> &str {
        self.components.iter().find(|row| row.id == component).map_or("component", |row| &row.kind)
    }
}

fn picked(model: &ModelRow, all: Vec<ComponentRow>, kinds: Option<&[String]>) -> Result<Vec<ComponentRow>, ApiError> {
    let Some(kinds) = kinds else { return Ok(all) };
    if kinds.is_empty() {
        return Err(ApiError::field("/components", "name at least one component, or leave `components` out for all"));
    }
    let there = || all.iter().map(|row| row.kind.clone());
    for (index, kind) in kinds.iter().enumerate() {
        if !there().any(|known| known == *kind) {
            let list = there().collect::<Vec<_>>().join(", ");
            let list = if list.is_empty() { "it has none".to_owned() } else { format!("it has {list}") };
            let detail = format!("model `{}` has no component `{kind}`; {list}", model.name);
            return Err(ApiError::field(format!("/components/{index}"), detail).maybe_hint(near::hint(kind, there())));
        }
    }
    Ok(all.into_iter().filter(|row| kinds.contains(&row.kind)).collect())
}

/// A model by id or name.
///
/// # Errors
/// 404 with near names.
pub(crate) async fn get_model(conn: &mut Session, wanted: &str) -> Result<ModelRow, ApiError> {
    if let Some(model) = models::find(&mut *conn, wanted).await? {
        return Ok(model);
    }
    let names = models::names(conn).await?;
    let hint = match near::hint(wanted, names.iter().cloned()) {
        None if names.is_empty() => Some("the catalogue is empty; run a scan first".to_owned()),
        hint => hint,
    };
    Err(ApiError::not_found(format!("there is no model `{wanted}`")).maybe_hint(hint))
}

/// A component by id.
///
/// # Errors
/// 404.
pub(crate) async fn get_component(conn: &mut Session, id: ComponentId) -> Result<ComponentRow, ApiError> {
    let found = models::component(conn, id).await?;
    found.ok_or_else(|| {
        ApiError::not_found(format!("there is no component `{id}`")).hint("a model's page lists its components")
    })
}

/// What to do about a model that is not available.
pub(super) fn hint_of(state: &str) -> &'static str {
    match state {
        "unreadable" => "see that the disk answers and that the agent may read the files, then scan again",
        _ => "put the files back and scan again",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::Utc;
    use shared::ids::ModelId;

    use super::*;

    /// A model with a `unet` of 80 and a `vae` of 20 bytes on hosts `a` and `b`.
    pub(crate) fn subject() -> Subject {
        let model = ModelRow {
            id: ModelId::generate(),
            name: "m".into(),
            model_type: "checkpoint".into(),
            base: "sdxl".into(),
            format: "safetensors".into(),
            variant: None,
            prediction: None,
            root: "r".into(),
            rel_path: "m.safetensors".into(),
            size_bytes: 100,
            content_digest: None,
            sha256: None,
            payload_sha256: None,
            overrides: serde_json::json!({}),
            read_as: models::ReadAs::default().into(),
            canonical_form: 1,
            state: "available".into(),
            reason: None,
            evidence: serde_json::json!([]),
            metadata: serde_json::json!({}),
            version: 1,
            created_at: Utc::now(),
            updated_at: Utc::now(),
        };
        let component = |kind: &str, bytes| ComponentRow {
            id: ComponentId::generate(),
            model_id: model.id,
            kind: kind.into(),
            bytes,
            param_count: 1,
            tensor_count: 1,
            dtype: "F16".into(),
            digest: None,
        };
        let components = vec![component("unet", 80), component("vae", 20)];
        Subject { components, hosts: vec!["a".into(), "b".into()], model }
    }

    #[test]
    fn unknown_kinds_are_refused_with_those_that_there_are() {
        let subject = subject();
        let kinds = ["vae".to_owned(), "unett".to_owned()];
        let error = picked(&subject.model, subject.components.clone(), Some(&kinds)).unwrap_err();
        let body = error.body();
        assert_eq!(body.errors[0].pointer, "/components/1");
        assert!(body.detail.contains("unet, vae") && body.hint.unwrap().contains("`unet`"));
        assert_eq!(picked(&subject.model, subject.components, Some(&kinds[..1])).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_loaded_says_why() {
        let mut unknown = subject();
        unknown.model.model_type = "unknown".into();
        unknown.components.clear();
        unknown.model.reason = Some("no known keys".into());
        let error = unknown.must_be_loadable().unwrap_err();
        assert!(error.code() == ErrorCode::Unsupported && error.body().detail.contains("no known keys"));
        let mut missing = subject();
        missing.model.state = "missing".into();
        assert_eq!(missing.must_be_loadable().unwrap_err().code(), ErrorCode::Conflict);
    }
}
