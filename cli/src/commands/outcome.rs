//! What a job's result says beyond that it succeeded: what stayed and for whom, what came back.

use serde::Deserialize;
use serde_json::Value;
use shared::{
    bytes::ByteSize,
    wire::{ConvertResult, LoraMisfit, LoraWithoutEffect, OptimizeResult},
};

use super::{convert, memory};

/// Lines for a person; none when the result holds nothing of the kind.
pub(super) fn notes(result: &Value) -> Vec<String> {
    if let Ok(plan) = OptimizeResult::deserialize(result) {
        return memory::notes(&plan);
    }
    if let Ok(converted) = ConvertResult::deserialize(result) {
        return convert::notes(&converted);
    }
    let mut notes = Vec::new();
    for part in list(result, "stays") {
        let for_whom: Vec<&str> = list(part, "needed_by").filter_map(Value::as_str).collect();
        notes.push(format!("{} stays: {} loaded there too", text(part, "kind"), all_of(&for_whom)));
    }
    if let Some(bytes) = result["freed_bytes"].as_u64() {
        notes.push(format!("{} came back", ByteSize(bytes)));
    }
    for component in list(result, "cancelled_loads").filter_map(Value::as_str) {
        notes.push(format!("the load of {component} was cancelled"));
    }
    for child in list(result, "children") {
        let why = child["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
        let bytes = child["bytes"].as_u64().map(|bytes| format!(", {}", ByteSize(bytes))).unwrap_or_default();
        notes.push(format!("{}: {}{bytes}{why}", text(child, "place"), text(child, "state")));
    }
    notes.extend(of_loras(result));
    for out in list(result, "left_out") {
        notes.push(format!("left out: {} {}", text(out, "place"), text(out, "reason")));
    }
    notes
}

/// LoRAs that did nothing, or only in part.
fn of_loras(result: &Value) -> impl Iterator<Item = String> {
    let idle: Vec<LoraWithoutEffect> = all(result, "loras_without_effect");
    let misfits: Vec<LoraMisfit> = all(result, "lora_misfits");
    idle.into_iter().map(|one| without_effect(&one)).chain(misfits.into_iter().flat_map(|one| misfit(&one)))
}

/// What did nothing, in a line.
pub(super) fn without_effect(idle: &LoraWithoutEffect) -> String {
    format!("`{}` changes nothing: {}", idle.lora, idle.why)
}

/// What does not belong to the model, a line for each reason.
pub(super) fn misfit(misfit: &LoraMisfit) -> Vec<String> {
    let LoraMisfit { lora, unmatched, examples, others, other_examples } = misfit;
    let unmatched = (*unmatched > 0).then(|| {
        format!("`{lora}` has {unmatched} modules that the model does not have, among them {}", examples.join(", "))
    });
    let no_modules = (*others > 0).then(|| {
        let examples = other_examples.join(", ");
        format!("`{lora}` has {others} tensors that belong to no module and are not used, among them {examples}")
    });
    unmatched.into_iter().chain(no_modules).collect()
}

fn all<T: serde::de::DeserializeOwned>(value: &Value, key: &str) -> Vec<T> {
    list(value, key).filter_map(|one| T::deserialize(one).ok()).collect()
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// `a is`, `a and b are`, `a, b and c are`.
fn all_of(names: &[&str]) -> String {
    match names {
        [] => "another model is".to_owned(),
        [one] => format!("{one} is"),
        [first @ .., last] => format!("{} and {last} are", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_said_with_whom_it_stays_for() {
        let stays = |names: &[&str]| serde_json::json!({ "stays": [{ "kind": "vae", "needed_by": names }] });
        assert_eq!(notes(&stays(&["b"])), ["vae stays: b is loaded there too"]);
        assert_eq!(notes(&stays(&["a", "b", "c"])), ["vae stays: a, b and c are loaded there too"]);
        assert_eq!(notes(&serde_json::json!({ "freed_bytes": 0 })), ["0 B came back"]);
        assert!(notes(&serde_json::json!({ "bytes": 5 })).is_empty());
    }

    #[test]
    fn loras_that_do_not_belong_are_told_by_name() {
        let result = serde_json::json!({
            "loras_without_effect": [{ "lora": "a", "why": "alpha 0" }],
            "lora_misfits": [{ "lora": "b", "unmatched": 2, "examples": ["x", "y"], "others": 1, "other_examples": ["z"] }],
        });
        let expected = [
            "`a` changes nothing: alpha 0",
            "`b` has 2 modules that the model does not have, among them x, y",
            "`b` has 1 tensors that belong to no module and are not used, among them z",
        ];
        assert_eq!(notes(&result), expected);
    }

    #[test]
    fn places_are_listed_with_what_became_of_them() {
        let result = serde_json::json!({
            "children": [{ "place": "a/cpu:0", "state": "succeeded", "bytes": 2048 }, { "place": "b/cpu:0", "state": "failed", "error": "gone" }],
            "left_out": [{ "place": "c/cpu:0", "reason": "has only 1.0 KiB" }],
        });
        let expected = ["a/cpu:0: succeeded, 2.0 KiB", "b/cpu:0: failed: gone", "left out: c/cpu:0 has only 1.0 KiB"];
        assert_eq!(notes(&result), expected);
    }
}
