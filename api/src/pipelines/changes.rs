//! What differs between two declarations, as people name the models.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use shared::{
    job::engine::LoraUse,
    pipeline::Declared,
    wire::{PipelineChange, PipelineDeclaration},
};

use super::view::Names;

/// What leads from one declaration to the other. Nothing leads from or to what is not there.
pub(crate) fn changes(from: Option<&Declared>, to: Option<&Declared>, names: &Names) -> Vec<PipelineChange> {
    let named = |declared: Option<&Declared>| declared.map(|declared| names.declaration(declared));
    let (from, to) = (named(from), named(to));
    let mut all = Vec::new();
    single(&mut all, "model", &from, &to, |of| Some(of.model.clone()));
    single(&mut all, "vae", &from, &to, |of| of.vae.clone());
    single(&mut all, "vae_settings", &from, &to, |of| {
        Some(of.vae_settings.clone()).filter(|settings| *settings != Default::default())
    });
    keyed(&mut all, "text_encoder", &from, &to, |of| of.text_encoders.clone());
    keyed(&mut all, "lora", &from, &to, |of| of.loras.iter().map(|used| (used.lora.clone(), plain(used))).collect());
    single(&mut all, "keep_alive", &from, &to, |of| of.keep_alive);
    single(&mut all, "protect", &from, &to, |of| of.protect.then_some(true));
    all
}

/// A LoRA's use without its name, which stands beside it.
fn plain(used: &LoraUse<String>) -> Value {
    let mut value = serde_json::to_value(used).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("lora");
    }
    value
}

type Side = Option<PipelineDeclaration>;

fn single<T: Serialize + PartialEq>(
    all: &mut Vec<PipelineChange>,
    what: &str,
    from: &Side,
    to: &Side,
    part: impl Fn(&PipelineDeclaration) -> Option<T>,
) {
    let (from, to) = (from.as_ref().and_then(&part), to.as_ref().and_then(&part));
    all.extend(change(what, None, from.as_ref(), to.as_ref()));
}

fn keyed<T: Serialize + PartialEq>(
    all: &mut Vec<PipelineChange>,
    what: &str,
    from: &Side,
    to: &Side,
    part: impl Fn(&PipelineDeclaration) -> BTreeMap<String, T>,
) {
    let (from, to) = (from.as_ref().map(&part).unwrap_or_default(), to.as_ref().map(&part).unwrap_or_default());
    let mut keys: Vec<&String> = from.keys().chain(to.keys()).collect();
    keys.sort();
    keys.dedup();
    all.extend(keys.into_iter().filter_map(|key| change(what, Some(key), from.get(key), to.get(key))));
}

fn change<T: Serialize + PartialEq>(
    what: &str,
    name: Option<&String>,
    from: Option<&T>,
    to: Option<&T>,
) -> Option<PipelineChange> {
    let change = match (from, to) {
        (None, None) => return None,
        (Some(from), Some(to)) if from == to => return None,
        (None, Some(_)) => "added",
        (Some(_), None) => "removed",
        (Some(_), Some(_)) => "changed",
    };
    let json = |value: Option<&T>| value.and_then(|value| serde_json::to_value(value).ok());
    Some(PipelineChange {
        what: what.to_owned(),
        change: change.to_owned(),
        name: name.cloned(),
        from: json(from),
        to: json(to),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::{
        ids::ModelId,
        job::engine::{Assembly, LoraUse},
    };

    use super::*;

    #[test]
    fn what_came_went_and_changed_is_told_apart() {
        let [base, vae, a, b, c] = [(); 5].map(|()| ModelId::generate());
        let named = [(base, "base"), (vae, "vae"), (a, "a"), (b, "b"), (c, "c")];
        let names = Names::of(named.map(|(id, name)| (id, name.to_owned())).to_vec());
        let mut before = Declared { assembly: Assembly::of(base), keep_alive: None, protect: false };
        before.assembly.loras = vec![LoraUse::at(a, 1.0), LoraUse::at(b, 0.5)];
        let mut after = before.clone();
        after.assembly.vae = Some(vae);
        after.assembly.loras = vec![LoraUse::at(c, 1.0), LoraUse::at(b, 0.25)];
        let told: Vec<(String, String, Option<String>)> = changes(Some(&before), Some(&after), &names)
            .into_iter()
            .map(|change| (change.what, change.change, change.name))
            .collect();
        let told: Vec<(&str, &str, Option<&str>)> =
            told.iter().map(|(what, change, name)| (what.as_str(), change.as_str(), name.as_deref())).collect();
        let expected = [
            ("vae", "added", None),
            ("lora", "removed", Some("a")),
            ("lora", "changed", Some("b")),
            ("lora", "added", Some("c")),
        ];
        assert_eq!(told, expected);
        let all = changes(Some(&before), Some(&after), &names);
        assert_eq!((&all[2].from, &all[2].to), (&Some(json!({"weight": 0.5})), &Some(json!({"weight": 0.25}))));
        assert_eq!(changes(Some(&before), Some(&before), &names), []);
        assert_eq!(changes(None, Some(&before), &names).len(), 3, "the model and two LoRAs come");
    }
}
