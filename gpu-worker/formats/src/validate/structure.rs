//! The structure of a model: can its headers be read, are all its parts there, and do they fit together?

use std::path::Path;

use serde_json::Value;

use super::{Finding, Severity, UNSAFE_FILE, links, shards};
use crate::{
    correction::Correction,
    diffusers::variants,
    error::{ErrorKind, FormatError},
    inspect::inspect_all,
    inspection::{Evidence, Inspection},
    text::shown,
    vocab::{Format, ModelType},
};

/// Inspects the model at `path`, as a correction says it is, and says what is wrong with its structure. Without an inspection the path could not be
/// opened for a reason that the findings give.
///
/// # Errors
/// [`FormatError`] of kind `Missing` or `Unreadable`: nothing can be said about the model now.
pub fn structure(path: &Path, correction: Correction) -> Result<(Option<Inspection>, Vec<Finding>), FormatError> {
    let inspection = match inspect_all(path, &correction) {
        Ok(inspection) => inspection,
        Err(error) => {
            return match error.kind() {
                ErrorKind::Missing | ErrorKind::Unreadable => Err(error),
                kind => Ok((None, vec![refusal(kind.as_str(), error.full_text())])),
            };
        }
    };
    let mut findings = refused(&inspection);
    findings.extend(no_variant(&inspection));
    findings.extend(parts(&inspection));
    findings.extend(tokenizer(&inspection));
    if findings.is_empty() {
        findings.extend(not_recognised(&inspection));
    }
    findings.extend(ignored(&inspection));
    findings.extend(empty_tensors(&inspection));
    findings.extend(links::check(path, &inspection));
    findings.extend(shards::check(&inspection));
    findings.extend(other_variants(&inspection));
    Ok((Some(inspection), findings))
}

/// A file whose content was refused, by the class of the error.
fn refusal(class: &str, text: String) -> Finding {
    let code = match class {
        "unsafe" | "unsafe_format" => UNSAFE_FILE,
        "unsupported" => "unsupported_format",
        "missing" => "missing_part",
        _ => "corrupt_file",
    };
    // what this version cannot read may be whole
    let severity = if class == "unsupported" { Severity::Warning } else { Severity::Error };
    Finding::new(severity, code, text)
}

fn matching<'i>(inspection: &'i Inspection, rule: &'static str) -> impl Iterator<Item = &'i Evidence> {
    inspection.evidence.iter().filter(move |evidence| evidence.rule == rule)
}

fn refused(inspection: &Inspection) -> Vec<Finding> {
    let reason = || inspection.reason.clone().unwrap_or_else(|| "its content was refused".to_owned());
    matching(inspection, "file.refused").map(|evidence| refusal(&evidence.matched, reason())).collect()
}

/// Parts of a folder that are named by its index and missing or damaged.
fn parts(inspection: &Inspection) -> Vec<Finding> {
    let reason = inspection.reason.as_deref().unwrap_or_default();
    let of = |evidence: &Evidence| {
        let name = &evidence.matched;
        let begin = format!("{name}: ");
        let text = reason.split("; ").find(|part| part.starts_with(&begin));
        let text = text.map_or_else(|| format!("`{}` cannot be used", shown(name)), str::to_owned);
        let class = evidence.value.as_str().unwrap_or_default();
        match class {
            "missing" => Finding::new(Severity::Error, "missing_part", text).of(name),
            class => {
                let mut finding = refusal(class, text).of(name);
                // the folder promises this part: what cannot be read of it is not there
                finding.severity = Severity::Error;
                finding
            }
        }
    };
    matching(inspection, "diffusers.problem").map(of).collect()
}

/// The variant that somebody chose is not there.
fn no_variant(inspection: &Inspection) -> Vec<Finding> {
    let of = |evidence: &Evidence| {
        let has: Vec<&str> = evidence.value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let message =
            format!("the folder has no weights of the variant `{}` that was chosen", shown(&evidence.matched));
        let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
        Finding::new(Severity::Error, "missing_variant", message).but(&evidence.matched, has)
    };
    matching(inspection, "diffusers.no_variant").map(of).collect()
}

/// Weights of variants that are not read and could not be: nobody misses them until they are chosen.
fn other_variants(inspection: &Inspection) -> Vec<Finding> {
    let of = |(component, variant, files, problem): (&str, &str, Vec<&str>, &str)| {
        let files = files.iter().map(|file| format!("`{}`", shown(file))).collect::<Vec<_>>().join(", ");
        let message = format!(
            "the variant `{}`, which is not the one that is read, is broken: {files}: {problem}",
            shown(variant)
        );
        Finding::new(Severity::Warning, "broken_variant", message).of(component)
    };
    variants::problems(inspection).into_iter().map(of).collect()
}

/// Files of a tokenizer that cannot be read, of a folder of its own or beside weights.
fn tokenizer(inspection: &Inspection) -> Vec<Finding> {
    let problems = inspection.metadata.get("tokenizer").and_then(|found| found.get("problems"));
    let problems = problems.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    problems.map(|problem| Finding::new(Severity::Error, "corrupt_file", problem.to_owned()).of("tokenizer")).collect()
}

/// What is here cannot be loaded. Tokenizers never are, and of some formats no more is promised than to tell what they hold.
fn not_recognised(inspection: &Inspection) -> Option<Finding> {
    let is_known = inspection.model_type != ModelType::Unknown;
    if is_known && (!inspection.components.is_empty() || inspection.model_type == ModelType::Tokenizer) {
        return None;
    }
    let why = inspection.reason.clone().unwrap_or_else(|| "no known component in it".to_owned());
    Some(match inspection.format {
        Format::Gguf if is_known => Finding::new(Severity::Info, "not_loaded", why),
        _ => Finding::new(Severity::Warning, "not_recognised", why),
    })
}

/// Tensors that belong to no component.
fn ignored(inspection: &Inspection) -> Option<Finding> {
    let facts = inspection.metadata.get("facts")?;
    let count = facts.get("ignored_tensors").and_then(Value::as_u64).filter(|count| *count > 0)?;
    let bytes = facts.get("ignored_bytes").and_then(Value::as_u64).unwrap_or(0);
    let message = format!("{count} tensors ({bytes} bytes) belong to no component and are not loaded");
    (inspection.model_type != ModelType::Unknown).then(|| Finding::new(Severity::Info, "unused_tensors", message))
}

fn empty_tensors(inspection: &Inspection) -> Vec<Finding> {
    let all = inspection.components.iter().flat_map(|part| part.tensors.iter().map(move |tensor| (part, tensor)));
    all.filter(|(_, tensor)| tensor.elements() == 0)
        .map(|(part, tensor)| {
            Finding::new(Severity::Info, "empty_tensor", "a tensor without elements")
                .of(part.kind.as_str())
                .tensor(&tensor.name)
        })
        .collect()
}
