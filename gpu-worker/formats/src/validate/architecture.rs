//! The tensors of each component against those that its architecture has.

use serde_json::Value;

use super::{Finding, Severity};
use crate::{
    architecture::{Difference, compare, expected},
    canonical::canonicalise,
    inspection::{Component, Inspection},
    onnx,
};

/// Compares every component with its architecture's table. `configs` are the operator's `config.json`s by component, which
/// go before those of the folder. A component without a table is named as not compared.
#[must_use]
pub fn architecture(inspection: &Inspection, configs: Option<&Value>) -> Vec<Finding> {
    let of = |component: &Component| {
        let kind = component.kind.as_str();
        let config = configs.and_then(|configs| configs.get(kind)).or_else(|| inspection.config(kind));
        compared(inspection, component, config)
    };
    inspection.components.iter().flat_map(of).collect()
}

fn compared(inspection: &Inspection, component: &Component, config: Option<&Value>) -> Vec<Finding> {
    let kind = component.kind.as_str();
    if onnx::graph_file(inspection, kind).is_some() {
        let message =
            format!("the tensors of `{kind}` were not compared: it is an ONNX graph, which says itself what it takes");
        return vec![Finding::new(Severity::Info, "no_architecture_table", message).of(kind)];
    }
    let canonical = canonicalise(component.kind, inspection.base, &component.tensors);
    let Some(table) = expected(component.kind, inspection.base, config, &canonical) else {
        let message = format!("the tensors of `{kind}` were not compared: there is no table of its architecture");
        return vec![Finding::new(Severity::Info, "no_architecture_table", message).of(kind)];
    };
    compare(&table, &canonical).into_iter().map(|difference| finding(table.class, difference).of(kind)).collect()
}

fn finding(class: &str, difference: Difference) -> Finding {
    match difference {
        Difference::Missing { name, expected } => {
            Finding::new(Severity::Error, "missing_tensor", format!("{class} has a tensor that is not there"))
                .tensor(&name)
                .but(shape(&expected), "nothing")
        }
        Difference::WrongShape { name, expected, found } => {
            Finding::new(Severity::Error, "wrong_shape", format!("{class} has this tensor in another shape"))
                .tensor(&name)
                .but(shape(&expected), shape(&found))
        }
        Difference::Unexpected { name, found, nearest } => {
            let near = nearest.map(|nearest| format!("; `{nearest}` is missing")).unwrap_or_default();
            let message = format!("{class} has no such tensor{near}");
            Finding::new(Severity::Warning, "unexpected_tensor", message)
                .tensor(&name)
                .but("nothing", found.as_deref().map_or_else(|| "a tensor without a canonical name".to_owned(), shape))
        }
    }
}

fn shape(shape: &[u64]) -> String {
    format!("{shape:?}")
}
