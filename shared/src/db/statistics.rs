//! Statistics of a model's tensors, as a validation of its weights counted them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::DbError;
use crate::ids::{ModelId, ValidationId};

/// What the numbers of one tensor are like. Stored as a list of its fields in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct TensorStatistics {
    /// The component; none for tensors that belong to none.
    pub component: Option<String>,
    /// Name in the file.
    pub tensor: String,
    /// Element type in the file.
    pub dtype: String,
    /// Number of elements.
    pub elements: u64,
    /// Elements that are no numbers.
    pub nan: u64,
    /// Elements that are infinite.
    pub infinite: u64,
    /// Elements that are zero.
    pub zero: u64,
    /// Elements below the smallest normal number of the type.
    pub subnormal: u64,
    /// Mean of the finite elements; absent where there is none, or where it is beyond 64-bit floats.
    pub mean: Option<f64>,
    /// Their standard deviation.
    pub std: Option<f64>,
    /// The smallest of them.
    pub min: Option<f64>,
    /// The greatest of them.
    pub max: Option<f64>,
}

type Stored = (Option<String>, String, String, [u64; 5], [Option<f64>; 4]);

impl From<Stored> for TensorStatistics {
    fn from((component, tensor, dtype, counts, moments): Stored) -> Self {
        let [elements, nan, infinite, zero, subnormal] = counts;
        let [mean, std, min, max] = moments;
        Self { component, tensor, dtype, elements, nan, infinite, zero, subnormal, mean, std, min, max }
    }
}

impl From<TensorStatistics> for Stored {
    fn from(of: TensorStatistics) -> Self {
        let counts = [of.elements, of.nan, of.infinite, of.zero, of.subnormal];
        // what is not finite has no number in JSON
        let moments = [of.mean, of.std, of.min, of.max].map(|value| value.filter(|value| value.is_finite()));
        (of.component, of.tensor, of.dtype, counts, moments)
    }
}

/// Which tensors to list.
#[derive(Debug, Clone, Default)]
pub struct StatisticsFilter {
    /// Of this component.
    pub component: Option<String>,
    /// With this text in the name, in any case.
    pub text: Option<String>,
    /// After this one, by its number from 1.
    pub after: i64,
}

/// Stores the statistics of a report, a list in the order of the files.
///
/// # Errors
/// Database errors.
pub async fn record(db: impl PgExecutor<'_>, validation: ValidationId, statistics: &Value) -> Result<(), DbError> {
    sqlx::query(
        "insert into validation_statistics (validation_id, number, component, tensor, facts)
         select $1, t.number, t.facts ->> 0, t.facts ->> 1, t.facts
         from jsonb_array_elements($2) with ordinality as t (facts, number)",
    )
    .bind(validation)
    .bind(statistics)
    .execute(db)
    .await?;
    Ok(())
}

/// Drops the statistics of a model's reports from a host but this one's.
///
/// # Errors
/// Database errors.
pub async fn keep_only(
    tx: &mut PgConnection,
    (model, host): (ModelId, &str),
    validation: ValidationId,
) -> Result<(), DbError> {
    sqlx::query(
        "delete from validation_statistics s using validations v
         where v.id = s.validation_id and v.model_id = $1 and v.host = $2 and v.id <> $3",
    )
    .bind(model)
    .bind(host)
    .bind(validation)
    .execute(&mut *tx)
    .await?;
    // what the release before this one stored
    sqlx::query(
        "update validations set statistics = null
         where model_id = $1 and host = $2 and id <> $3 and statistics is not null",
    )
    .bind(model)
    .bind(host)
    .bind(validation)
    .execute(tx)
    .await?;
    Ok(())
}

/// Statistics of a report with their numbers from 1, in the order of the files; one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list(
    db: impl PgExecutor<'_>,
    validation: ValidationId,
    filter: &StatisticsFilter,
    limit: i64,
) -> Result<Vec<(i64, TensorStatistics)>, DbError> {
    let rows: Vec<(i64, Value)> = sqlx::query_as(
        "select number, facts from validation_statistics
         where validation_id = $1 and number > $2 and ($3::text is null or component = $3)
           and ($4::text is null or position(lower($4) in lower(tensor)) > 0)
         order by number limit $5",
    )
    .bind(validation)
    .bind(filter.after)
    .bind(&filter.component)
    .bind(&filter.text)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(number, tensor)| {
            let tensor = serde_json::from_value(tensor)
                .map_err(|error| DbError::BadRow(format!("statistics {number} of {validation}: {error}")))?;
            Ok((number, tensor))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_come_back_as_they_were_and_what_is_no_number_is_absent() {
        let mut of = TensorStatistics {
            component: None,
            tensor: "a.b".into(),
            dtype: "F64".into(),
            elements: u64::MAX,
            nan: 1,
            infinite: 2,
            zero: 3,
            subnormal: 4,
            mean: Some(-0.1),
            std: Some(f64::INFINITY),
            min: Some(f64::MIN),
            max: Some(5e-324),
        };
        let stored = serde_json::to_string(&of).unwrap();
        of.std = None;
        assert_eq!(serde_json::from_str::<TensorStatistics>(&stored).unwrap(), of);
    }
}
