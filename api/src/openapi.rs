//! The OpenAPI 3.1 document: what the handlers say, completed with what all of them have in common.

use serde_json::{Map, Value, json};
use shared::wire::{BlendLorasResult, ConvertResult, LoraCheckResult, OptimizeResult, Problem, TokenizeResult};
use utoipa::{ToSchema, openapi::OpenApi};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The finished document.
pub(crate) fn document(generated: OpenApi) -> Value {
    // built from strings and maps, which always encode
    let mut document = serde_json::to_value(generated).unwrap_or_default();
    document["info"] = json!({
        "title": "modelyard",
        "description": "Manages diffusion models on a farm of GPU hosts: what is on disk, what is resident where, and the jobs that change it.",
        "version": env!("CARGO_PKG_VERSION"),
        "license": { "name": "MIT OR Apache-2.0" },
    });
    document["security"] = json!([{}, { "bearer": [] }]);
    document["tags"] = tags();
    document["components"]["securitySchemes"] = json!({ "bearer": { "type": "http", "scheme": "bearer" } });
    // named in texts and answers that no handler returns as its body
    add_schemas::<Problem>(&mut document["components"]["schemas"]);
    add_schemas::<OptimizeResult>(&mut document["components"]["schemas"]);
    add_schemas::<BlendLorasResult>(&mut document["components"]["schemas"]);
    add_schemas::<LoraCheckResult>(&mut document["components"]["schemas"]);
    add_schemas::<ConvertResult>(&mut document["components"]["schemas"]);
    add_schemas::<TokenizeResult>(&mut document["components"]["schemas"]);
    document["components"]["responses"]["Problem"] = json!({
        "description": "What went wrong",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    merge_parts(&mut document["components"]["schemas"]);
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            complete_path(path, item);
        }
    }
    document
}

/// Makes one object of what is composed of several: each part says that it has no other fields, which is true of the whole only.
fn merge_parts(schemas: &mut Value) {
    let Some(all) = schemas.as_object().cloned() else { return };
    let mut used = Vec::new();
    for (name, schema) in &all {
        let Some(parts) = schema["allOf"].as_array() else { continue };
        let part_of = |part: &Value| match part["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
            Some(named) => all.get(named).cloned().unwrap_or_default(),
            None => part.clone(),
        };
        if !parts.iter().all(|part| part_of(part)["additionalProperties"] == false) {
            continue;
        }
        let mut merged = json!({ "type": "object", "properties": {}, "required": [], "additionalProperties": false });
        merged["description"] = schema["description"].clone();
        for part in parts {
            used.extend(part["$ref"].as_str().and_then(|target| target.rsplit('/').next()));
            let part = part_of(part);
            for (field, value) in part["properties"].as_object().into_iter().flatten() {
                merged["properties"][field] = value.clone();
            }
            if let (Some(required), Some(more)) = (merged["required"].as_array_mut(), part["required"].as_array()) {
                required.extend(more.iter().cloned());
            }
        }
        schemas[name.as_str()] = merged;
    }
    if let Some(schemas) = schemas.as_object_mut() {
        // parts stand for nothing alone
        used.into_iter().for_each(|part| _ = schemas.remove(part));
    }
}

fn tags() -> Value {
    json!([
        { "name": "models", "description": "The catalogue" },
        { "name": "status", "description": "What is resident where" },
        { "name": "devices", "description": "Devices" },
        { "name": "hosts", "description": "Hosts" },
        { "name": "components", "description": "Parts of models, equal ones as one" },
        { "name": "cache", "description": "The RAM tier" },
        { "name": "vram", "description": "The VRAM tier" },
        { "name": "benchmarks", "description": "What models cost, measured" },
        { "name": "engine", "description": "Running models" },
        { "name": "pipelines", "description": "Assemblies of models, declared once and applied to devices" },
        { "name": "jobs", "description": "Durable work" },
        { "name": "meta", "description": "The API itself" },
    ])
}

fn add_schemas<T: ToSchema>(schemas: &mut Value) {
    let mut found = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut found);
    for (name, schema) in found {
        schemas[name.as_str()] = serde_json::to_value(schema).unwrap_or_default();
    }
}

fn complete_path(path: &str, item: &mut Value) {
    for method in METHODS {
        if let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) {
            complete_operation(path, method, operation);
        }
    }
}

fn complete_operation(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let accepts_job = operation["responses"].get("202").is_some();
    if accepts_job {
        describe_acceptance(path, operation);
    }
    let mut statuses = vec!["default"];
    if !matches!(path, "/livez" | "/readyz") {
        statuses.extend(["400", "401", "500", "503"]);
    }
    if path.contains('{') || accepts_job {
        statuses.push("404");
    }
    if method != "get" {
        statuses.extend(["413", "415"]);
    }
    if matches!(method, "put" | "patch") {
        statuses.push("412");
    }
    if accepts_job && !path.ends_with("/cancel") {
        statuses.extend(["409", "422", "507"]);
    }
    for status in statuses {
        if operation["responses"].get(status).is_none() {
            operation["responses"][status] = json!({ "$ref": "#/components/responses/Problem" });
        }
    }
}

/// The headers that go with every accepted job, both ways.
fn describe_acceptance(path: &str, operation: &mut Map<String, Value>) {
    let header = |name: &str, about: &str| json!({ "name": name, "in": "header", "required": false, "description": about, "schema": { "type": "string" } });
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(list) = parameters.as_array_mut() {
        list.push(header("Prefer", "`wait=N`: answer when the job has ended, at most N (60) seconds later"));
        if !path.ends_with("/cancel") {
            list.push(header(
                "Idempotency-Key",
                "Up to 255 characters; the same request with the same key gets the first answer",
            ));
            list.push(header("traceparent", "W3C trace context, stored with the job"));
        }
    }
    let text = |about: &str| json!({ "description": about, "schema": { "type": "string" } });
    operation["responses"]["202"]["headers"] = json!({
        "Location": text("The job"),
        "Retry-After": { "description": "Seconds until a look makes sense", "schema": { "type": "integer" } },
        "Preference-Applied": text("The wait that was granted"),
        "Modelyard-Joined": text("`true` when an equal active job does the work"),
        "Idempotent-Replayed": text("`true` when this is the stored answer of an earlier request"),
    });
    if operation["responses"].get("200").is_none() {
        let content = operation["responses"]["202"]["content"].clone();
        operation["responses"]["200"] =
            json!({ "description": "The job ended while the client waited", "content": content });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn operations(document: &Value) -> Vec<(String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let of_path = |(path, item): (&String, &Value)| {
            let path = path.clone();
            let methods: Vec<_> = item.as_object().unwrap().clone().into_iter().collect();
            methods.into_iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        };
        paths.iter().flat_map(of_path).collect()
    }

    #[test]
    fn every_operation_is_named_once_and_describes_its_problems() {
        let document = crate::openapi();
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = BTreeSet::new();
        for (name, operation) in operations(&document) {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no id"));
            assert!(ids.insert(id.to_owned()), "{id} twice");
            assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{name}");
            assert!(operation["responses"]["default"]["$ref"].is_string(), "{name}");
            if operation["responses"].get("202").is_some() {
                assert!(operation["responses"]["202"]["headers"]["Location"].is_object(), "{name}");
            }
        }
    }

    #[test]
    fn lists_declare_their_parameters() {
        let document = crate::openapi();
        let declared = document["paths"]["/v1/models"]["get"]["parameters"].as_array().unwrap();
        let names: Vec<_> = declared.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
        let wanted = "type base format state verdict host q text dtype prediction component tags size_min size_max hash tier sort limit cursor";
        assert_eq!(names, wanted.split(' ').collect::<Vec<_>>());
        assert!(declared.iter().all(|parameter| parameter["in"] == "query" && parameter["required"] == false));
    }

    #[test]
    fn every_reference_resolves() {
        fn walk(root: &Value, value: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                        let pointer = target.trim_start_matches('#');
                        assert!(root.pointer(pointer).is_some(), "{target} leads nowhere");
                    }
                    map.values().for_each(|value| walk(root, value));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(root, value)),
                _ => {}
            }
        }
        let document = crate::openapi();
        walk(&document, &document);
    }

    #[test]
    fn the_surface_is_as_recorded() {
        insta::with_settings!({ snapshot_path => "../tests/snapshots", prepend_module_to_snapshot => false, sort_maps => true }, {
            insta::assert_json_snapshot!("openapi", crate::openapi());
        });
    }
}
