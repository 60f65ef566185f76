//! What the numbers of a tensor say about it.

use super::{
    Finding, Severity,
    stats::{Moments, Stats},
};
use crate::inspection::{Component, TensorFacts};

/// The smallest magnitude that rounds to infinity in 16 bits.
const F16_OVERFLOW: f64 = 65520.0;
/// Names of parameters that are zero or constant in many good models: offsets, scales, and what training starts from zero.
const OFTEN_CONSTANT: &[&str] = &[".bias", ".lora_up.weight", ".lora_B.weight", ".alpha", "_embedding"];
/// A matrix of fewer elements says nothing about its spread.
const FEW: u64 = 64;
/// No trained matrix spreads further or less, nor is its mean further from zero, in spreads.
const WIDEST: f64 = 1e3;
const NARROWEST: f64 = 1e-9;
const FARTHEST: f64 = 1e3;

/// Constant tensors that are normal where they are: counted, not listed.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    tensors: u64,
}

impl Quiet {
    /// How many there were.
    pub(super) fn finding(&self) -> Option<Finding> {
        let message = format!("{} biases, norms and other offsets are constant, as in a fresh model", self.tensors);
        (self.tensors > 0).then(|| Finding::new(Severity::Info, "constant_offsets", message))
    }
}

/// The findings about one tensor. What is wrong with one that nothing loads is only worth a warning.
pub(super) fn judge(
    component: Option<&Component>,
    tensor: &TensorFacts,
    stats: &Stats,
    quiet: &mut Quiet,
) -> Vec<Finding> {
    let moments = stats.moments();
    let of = |severity: Severity, code, message: String| {
        let severity = if component.is_none() { severity.min(Severity::Warning) } else { severity };
        let numbers = moments.map(|moments| format!(" ({moments})")).unwrap_or_default();
        let finding = Finding::new(severity, code, format!("{message}{numbers}")).tensor(&tensor.name);
        component.map_or_else(|| finding.clone(), |component| finding.clone().of(component.kind.as_str()))
    };
    let count = |part: u64| format!("{part} of {} elements", stats.elements);
    let mut findings = Vec::new();
    if stats.nan > 0 {
        findings.push(of(Severity::Error, "nan", format!("{} are not numbers", count(stats.nan))).but(0, stats.nan));
    }
    if stats.infinite > 0 {
        let message = format!("{} are infinite", count(stats.infinite));
        findings.push(of(Severity::Error, "infinite", message).but(0, stats.infinite));
    }
    if stats.is_constant() && stats.nan == 0 && stats.infinite == 0 {
        findings.extend(constant(tensor, stats, quiet).map(|(code, message)| of(Severity::Warning, code, message)));
    }
    if stats.subnormal > stats.elements.saturating_sub(stats.zero) / 2 && stats.subnormal > 0 && stats.elements > 1 {
        let message = format!(
            "{} are subnormal: the type is too narrow for them, or the bytes are damaged",
            count(stats.subnormal)
        );
        findings.push(of(Severity::Warning, "subnormal", message));
    }
    let largest = stats.largest(tensor.dtype);
    if largest >= F16_OVERFLOW {
        let message = format!("magnitudes up to {largest:.6e} become infinite in 16-bit floats");
        findings.push(of(Severity::Warning, "fp16_overflow", message).but("below 65520", format!("{largest:.6e}")));
    }
    findings.extend(degenerate(tensor, stats, moments).map(|message| of(Severity::Warning, "degenerate", message)));
    findings
}

/// A spread that no training gives to a matrix; a constant has none and is another finding.
fn degenerate(tensor: &TensorFacts, stats: &Stats, moments: Option<Moments>) -> Option<String> {
    let Moments { mean, std, .. } = moments.filter(|_| tensor.shape.len() >= 2 && stats.elements >= FEW)?;
    let scaled = tensor.dtype.bits() < 16;
    if stats.is_constant() || std == 0.0 {
        return None;
    }
    if std > WIDEST {
        Some(format!("a spread of {std:.3e} is beyond that of any trained weight"))
    } else if std < NARROWEST && !scaled {
        Some(format!("a spread of {std:.3e} is as good as none"))
    } else {
        (mean.abs() > FARTHEST * std).then(|| format!("all elements are within {std:.3e} of {mean:.6e}"))
    }
}

/// Norms are one-dimensional; their scales and offsets start out constant.
fn constant(tensor: &TensorFacts, stats: &Stats, quiet: &mut Quiet) -> Option<(&'static str, String)> {
    if tensor.shape.len() < 2 || OFTEN_CONSTANT.iter().any(|ending| tensor.name.ends_with(ending)) {
        quiet.tensors = quiet.tensors.saturating_add(1);
        return None;
    }
    if stats.zero == stats.elements {
        return Some(("all_zero", "every element is zero".to_owned()));
    }
    Some(("constant", format!("every element has the magnitude {:.6e}", stats.largest(tensor.dtype))))
}
