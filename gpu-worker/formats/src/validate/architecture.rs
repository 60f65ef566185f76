//! The tensors of each component against those that its architecture has.

use super::{Finding, Severity};
use crate::inspection::{Component, Inspection};

/// Compares every component with its architecture's table. A component without a table is named as not compared.
#[must_use]
pub fn architecture(inspection: &Inspection) -> Vec<Finding> {
    inspection.components.iter().map(not_compared).collect()
}

fn not_compared(component: &Component) -> Finding {
    let message = format!(
        "the tensors of `{}` were not compared: there is no table of its architecture",
        component.kind.as_str()
    );
    Finding::new(Severity::Info, "no_architecture_table", message).of(component.kind.as_str())
}
