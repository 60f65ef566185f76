//! Changes of a stack of LoRAs: which leave, which change, which come.

use shared::{
    job::engine::LoraUse,
    wire::{LoraChange, LorasPatch},
};

use crate::{near, problem::ApiError};

/// The stack after the patch. `is` says whether a name or id that the patch uses means a LoRA of the stack.
///
/// # Errors
/// 400 that points at what is not in the stack, or comes to it twice.
pub(crate) fn patched(
    stack: Vec<LoraUse<String>>,
    patch: LorasPatch,
    is: impl Fn(&str, &str) -> bool,
) -> Result<Vec<LoraUse<String>>, ApiError> {
    let LorasPatch { set, add, remove, apply: _ } = patch;
    let mut stack = stack;
    let absent = |pointer: String, wanted: &str, stack: &[LoraUse<String>]| {
        let names = stack.iter().map(|used| used.lora.clone());
        ApiError::field(pointer, format!("`{wanted}` is not in the stack"))
            .maybe_hint(near::hint(wanted, names).or_else(|| Some("`add` puts a LoRA into the stack".to_owned())))
    };
    for (index, wanted) in remove.iter().enumerate() {
        let before = stack.len();
        stack.retain(|used| !is(wanted, &used.lora));
        if stack.len() == before {
            return Err(absent(format!("/remove/{index}"), wanted, &stack));
        }
    }
    for (wanted, change) in set {
        match stack.iter_mut().find(|used| is(&wanted, &used.lora)) {
            Some(used) => changed(used, change),
            None => {
                let pointer = format!("/set/{}", wanted.replace('~', "~0").replace('/', "~1"));
                return Err(absent(pointer, &wanted, &stack));
            }
        }
    }
    for (index, used) in add.into_iter().enumerate() {
        if stack.iter().any(|there| is(&used.lora, &there.lora)) {
            let detail = format!("`{}` is in the stack already", used.lora);
            return Err(ApiError::field(format!("/add/{index}"), detail).hint("`set` changes its weight"));
        }
        stack.push(used);
    }
    Ok(stack)
}

fn changed(used: &mut LoraUse<String>, change: LoraChange) {
    match change {
        LoraChange::Weight(weight) => used.weight = weight,
        LoraChange::Fields(fields) => {
            used.weight = fields.weight.unwrap_or(used.weight);
            used.text_encoder_weight = fields.text_encoder_weight.unwrap_or(used.text_encoder_weight);
            if let Some(blocks) = fields.blocks {
                used.blocks = blocks;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(patch: serde_json::Value) -> Result<Vec<(String, f64)>, ApiError> {
        let stack = vec![LoraUse::at("a".to_owned(), 1.0), LoraUse::at("b".to_owned(), 0.5)];
        let patch = serde_json::from_value(patch).unwrap();
        let stack = patched(stack, patch, |wanted, there| wanted == there)?;
        Ok(stack.into_iter().map(|used| (used.lora, used.weight)).collect())
    }

    #[test]
    fn loras_leave_change_and_come() {
        let patch =
            json!({ "remove": ["a"], "set": { "b": { "weight": 0.25 } }, "add": [{ "lora": "c", "weight": -1 }] });
        assert_eq!(after(patch).unwrap(), [("b".to_owned(), 0.25), ("c".to_owned(), -1.0)]);
        assert_eq!(after(json!({ "set": { "a": 0 } })).unwrap()[0], ("a".to_owned(), 0.0));
        // a weight of its own in the text encoders comes and goes; what is not said stays
        let mut own = vec![LoraUse { text_encoder_weight: Some(0.25), ..LoraUse::at("a".to_owned(), 1.0) }];
        for (change, text) in [
            (json!(0.5), Some(0.25)),
            (json!({ "weight": 0.5 }), Some(0.25)),
            (json!({ "text_encoder_weight": null }), None),
            (json!({ "text_encoder_weight": 0.75 }), Some(0.75)),
        ] {
            let patch = serde_json::from_value(json!({ "set": { "a": change } })).unwrap();
            own = patched(own, patch, |wanted, there| wanted == there).unwrap();
            assert_eq!(own[0].text_encoder_weight, text, "{change}");
        }
        // what left may come again
        assert_eq!(after(json!({ "remove": ["a"], "add": [{ "lora": "a" }] })).unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_there_is_pointed_at_with_what_is() {
        let pointer = |patch| after(patch).unwrap_err().body().errors[0].pointer.clone();
        assert_eq!(pointer(json!({ "remove": ["c"] })), "/remove/0");
        assert_eq!(pointer(json!({ "set": { "a/b": 1 } })), "/set/a~1b");
        assert_eq!(pointer(json!({ "add": [{ "lora": "b" }] })), "/add/0");
        assert!(serde_json::from_value::<LorasPatch>(json!({ "set": { "a": "much" } })).is_err());
    }
}
