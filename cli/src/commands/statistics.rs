//! `modelyard models validate --tensors`: what the numbers of each tensor are like.

use shared::{
    error::ErrorCode,
    ids::ValidationId,
    wire::{TensorStatisticsView, ValidationSummary},
};

use super::text::dash;
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Of the newest report that has them; `model` as a segment of a path.
///
/// # Errors
/// When no report has them.
pub(super) async fn newest(model: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let reports: Vec<ValidationSummary> = client.list(&format!("/v1/models/{model}/validations"), &[], None).await?;
    let newest = reports.iter().find(|report| report.statistics > 0);
    let none = "no validation of level `weights` is kept; `models validate` makes one";
    let newest = newest.ok_or_else(|| CliError::failed(ErrorCode::NotFound, none))?;
    if newest.stale {
        output.note("the files are others by now: `models validate` looks at them again");
    }
    show(model, &newest.id, client, output).await
}

/// Of this report.
///
/// # Errors
/// As the client.
pub(super) async fn show(model: &str, id: &ValidationId, client: &Client, output: Output) -> Result<(), CliError> {
    let path = format!("/v1/models/{model}/validations/{}/tensors", segment(&id.to_string()));
    let tensors: Vec<TensorStatisticsView> = client.list(&path, &[], None).await?;
    let header =
        ["COMPONENT", "TENSOR", "DTYPE", "ELEMENTS", "MEAN", "STD", "MIN", "MAX", "NAN", "INF", "ZERO", "OF FP16"];
    output.list(&tensors, &header, "no tensors of numbers", row)
}

fn row(tensor: &TensorStatisticsView) -> Vec<String> {
    let number = |value: Option<f64>| dash(value.map(|value| format!("{value:.3e}")).as_deref());
    vec![
        dash(tensor.component.as_deref()),
        tensor.tensor.clone(),
        tensor.dtype.clone(),
        tensor.elements.to_string(),
        number(tensor.mean),
        number(tensor.std),
        number(tensor.min),
        number(tensor.max),
        tensor.nan.to_string(),
        tensor.infinite.to_string(),
        tensor.zero.to_string(),
        dash(tensor.of_fp16_range.map(|share| format!("{:.2} %", share * 100.0)).as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_finite_element_has_no_moments() {
        let mut tensor = TensorStatisticsView {
            component: None,
            tensor: "a.weight".into(),
            dtype: "F32".into(),
            elements: 2,
            nan: 2,
            infinite: 0,
            zero: 0,
            subnormal: 0,
            mean: None,
            std: None,
            min: None,
            max: None,
            absmax: None,
            of_fp16_range: None,
        };
        assert_eq!(row(&tensor)[..5], ["-", "a.weight", "F32", "2", "-"].map(str::to_owned));
        (tensor.mean, tensor.of_fp16_range) = (Some(-0.5), Some(1.25));
        assert_eq!((row(&tensor)[4].as_str(), row(&tensor)[11].as_str()), ("-5.000e-1", "125.00 %"));
    }
}
