//! Pipelines as people read them: lists, one with its stack and devices, what an application would take, differences, history.

use serde_json::Value;
use shared::{
    job::engine::LoraUse,
    pipeline::Standing,
    wire::{PipelineChange, PipelineDeclaration, PipelineDiff, PipelineEvent, PipelineJob, PipelineView},
};

use super::text::{age, bytes, dash, joined};
use crate::{error::CliError, output::Output};

/// Lists them.
pub(super) fn list(rows: &[PipelineView], output: Output) -> Result<(), CliError> {
    let header = ["NAME", "MODEL", "LORAS", "GENERATION", "WHERE", "CHANGED"];
    output.list(rows, &header, "no pipeline is declared", |row| {
        vec![
            row.name.clone(),
            row.declared.model.clone(),
            joined(&row.declared.loras.iter().map(short).collect::<Vec<_>>()),
            row.generation.to_string(),
            joined(&row.devices.iter().map(|on| format!("{} ({})", on.device, word(on.state))).collect::<Vec<_>>()),
            age(row.updated_at),
        ]
    })
}

/// `name:0.8`, `name:0.8:0.5`.
fn short(used: &LoraUse<String>) -> String {
    let text = used.text_encoder_weight.map(|weight| format!(":{weight}")).unwrap_or_default();
    let blocks = if used.blocks.is_empty() { String::new() } else { format!(" ({} blocks)", used.blocks.len()) };
    format!("{}:{}{text}{blocks}", used.lora, used.weight)
}

fn word(state: Standing) -> String {
    serde_json::to_value(state).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Shows one.
pub(super) fn show(view: &PipelineView, output: Output) -> Result<(), CliError> {
    if output.json {
        return output.value(view);
    }
    let PipelineDeclaration { description, model, vae, text_encoders, target, labels, keep_alive, protect, .. } =
        &view.declared;
    let settings = serde_json::to_string(&view.declared.vae_settings)?;
    let encoders: Vec<String> = text_encoders.iter().map(|(kind, model)| format!("{kind}={model}")).collect();
    output.facts(&[
        ("name", format!("{} ({})", view.name, view.id)),
        ("description", description.clone().unwrap_or_default()),
        ("generation", format!("{}, declared {} ago", view.generation, age(view.updated_at))),
        ("model", model.clone()),
        ("vae", vae.clone().unwrap_or_default()),
        ("vae settings", if settings == "{}" { String::new() } else { settings }),
        ("text encoders", encoders.join(", ")),
        ("target", target.to_string()),
        ("labels", labels.join(", ")),
        ("keep alive", keep_alive.map(|keep| format!("{keep} s")).unwrap_or_default()),
        ("protected", if *protect { "yes".to_owned() } else { String::new() }),
        ("job", view.job.as_ref().map(told).unwrap_or_default()),
    ])?;
    let header = ["LORA", "WEIGHT", "TEXT ENCODERS", "BLOCKS"];
    output.section("stack", &view.declared.loras, &header, "no LoRAs", |used| {
        let blocks: Vec<String> = used.blocks.iter().map(|(block, weight)| format!("{block}={weight}")).collect();
        let text = used.text_encoder_weight.unwrap_or(used.weight);
        vec![used.lora.clone(), used.weight.to_string(), text.to_string(), joined(&blocks)]
    })?;
    let header = ["DEVICE", "STATE", "APPLIED", "WANTED", "SINCE", "JOB", "ERROR"];
    output.section("devices", &view.devices, &header, "applied nowhere", |on| {
        let job = on.job.or(on.last_job).map(|job| job.to_string());
        vec![
            on.device.clone(),
            word(on.state),
            on.applied_generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            on.wanted_generation.to_string(),
            on.applied_at.map_or_else(|| "-".to_owned(), age),
            dash(job.as_deref()),
            dash(on.error.as_ref().map(|error| error.message.as_str())),
        ]
    })
}

/// A job with what became of it.
fn told(job: &PipelineJob) -> String {
    let error = job.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
    format!("{} {}{error}", job.id, job.state)
}

/// What an application would take.
pub(super) fn foreseen(result: &Value, output: Output) -> Result<(), CliError> {
    let list = |key: &str| result[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let size = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), bytes);
    let seconds = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"));
    let short = result["short_bytes"].as_u64().filter(|short| *short > 0).map(bytes);
    output.facts(&[
        ("device", text(&result["device"])),
        ("takes about", seconds(&result["seconds"])),
        ("too little room", short.map(|short| format!("{short} are missing whatever is evicted")).unwrap_or_default()),
    ])?;
    output.section(
        "would load",
        &list("loads"),
        &["COMPONENT", "MODEL", "FROM", "BYTES", "TIME"],
        "nothing",
        |one| {
            vec![
                text(&one["kind"]),
                text(&one["model"]),
                text(&one["from"]),
                size(&one["bytes"]),
                seconds(&one["seconds"]),
            ]
        },
    )?;
    let header = ["COMPONENT", "HOW", "TENSORS", "BYTES", "TIME"];
    let variants = list("variants");
    output.section("would compute", &variants, &header, "nothing", |one| {
        let tensors = one["tensors"].as_u64().unwrap_or_default().to_string();
        vec![text(&one["component"]), text(&one["path"]), tensors, size(&one["bytes"]), seconds(&one["seconds"])]
    })?;
    for one in &variants {
        if let Some(condition) = one["condition"].as_str() {
            output.note(format!("`{}` in place of its base only if {condition}", text(&one["component"])));
        }
        if let Some(why) = one["base_stays"].as_str() {
            output.note(format!(
                "`{}` has no room beside its base, and not in its place: {why}",
                text(&one["component"])
            ));
        }
    }
    let header = ["COMPONENT", "BYTES", "TO COME BACK", "FOR"];
    output.section("would evict", &list("evictions"), &header, "nothing", |one| {
        let why = text(&one["why"]).replace('_', " ");
        vec![text(&one["component"]), size(&one["bytes"]), seconds(&one["reload_seconds"]), why]
    })
}

/// Shows what is declared beside what is applied.
pub(super) fn diff(diff: &PipelineDiff, output: Output) -> Result<(), CliError> {
    if output.json {
        return output.value(diff);
    }
    if diff.devices.is_empty() {
        output.note(format!("`{}` is applied nowhere", diff.name));
    }
    for on in &diff.devices {
        let applied = on.applied_generation.map_or_else(|| "nothing".to_owned(), |generation| generation.to_string());
        let title = format!("{} ({}): applied {applied}, declared {}", on.device, word(on.state), diff.generation);
        output.section(&title, &on.changes, &["", "WHAT", "NAME", "APPLIED", "DECLARED"], "no difference", row)?;
    }
    Ok(())
}

fn row(change: &PipelineChange) -> Vec<String> {
    let sign = match change.change.as_str() {
        "added" => "+",
        "removed" => "-",
        _ => "~",
    };
    let value = |side: &Option<Value>| match side {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "-".to_owned(),
    };
    let (what, name) = (change.what.clone(), dash(change.name.as_deref()));
    vec![sign.to_owned(), what, name, value(&change.from), value(&change.to)]
}

/// Shows what was done.
pub(super) fn history(events: &[PipelineEvent], output: Output) -> Result<(), CliError> {
    let header = ["WHEN", "EVENT", "GENERATION", "DEVICE", "SECONDS", "BYTES", "CHANGED", "BY"];
    output.list(events, &header, "nothing was done", |event| {
        let changed: Vec<String> = event.changes.iter().map(brief).collect();
        let error = event.error.as_ref().map(|error| error.message.clone());
        vec![
            age(event.at),
            event.event.clone(),
            event.generation.to_string(),
            dash(event.device.as_deref()),
            event.seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}")),
            event.bytes.map_or_else(|| "-".to_owned(), bytes),
            error.unwrap_or_else(|| joined(&changed)),
            event.job.map(|job| job.to_string()).or_else(|| event.who.clone()).unwrap_or_else(|| "-".to_owned()),
        ]
    })
}

fn brief(change: &PipelineChange) -> String {
    let fields = row(change);
    let name = change.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    format!("{}{}{name}", fields[0], change.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_written_as_it_is_given() {
        let mut used = LoraUse::at("a".to_owned(), 0.8);
        assert_eq!(short(&used), "a:0.8");
        used.text_encoder_weight = Some(0.0);
        used.blocks.insert("mid_block".to_owned(), 0.5);
        assert_eq!(short(&used), "a:0.8:0 (1 blocks)");
        assert_eq!(word(Standing::Applied), "applied");
    }
}
