//! Lists of models: filters, order, and what a list shows of a model.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::text::Reading;
use crate::ids::ModelId;

/// What to list; absent or empty means any.
#[derive(Debug, Clone, Default)]
pub struct ModelFilter {
    /// Types, as the operator says or as detected.
    pub types: Option<Vec<String>>,
    /// Bases, as the operator says or as detected.
    pub bases: Option<Vec<String>>,
    /// Formats.
    pub formats: Option<Vec<String>>,
    /// Dtypes of the weights.
    pub variants: Option<Vec<String>>,
    /// Prediction types.
    pub predictions: Option<Vec<String>>,
    /// States.
    pub states: Option<Vec<String>>,
    /// Verdicts of the last validation: `ok`, `degraded`, `invalid`, `unsafe` of the files that are there, `stale` for one of
    /// other files, `none` without any.
    pub verdicts: Option<Vec<String>>,
    /// On this host's disk.
    pub host: Option<String>,
    /// Part of the name, any case; of one or two characters, its beginning.
    pub name_contains: Option<String>,
    /// With a component ready in this tier (`ram`, `vram`) of some host whose agent's lease is valid.
    pub resident: Option<String>,
    /// With a component of one of these kinds.
    pub components: Option<Vec<String>>,
    /// With all of these tags, in lower case.
    pub tags: Vec<String>,
    /// Least bytes on disk.
    pub size_min: Option<i64>,
    /// Most bytes on disk.
    pub size_max: Option<i64>,
    /// Beginning of a hash in lower-case hex: SHA-256 of the file or of its payload, or BLAKE3.
    pub hash: Option<String>,
    /// Words that it must hold.
    pub text: Option<Reading>,
    /// Sort key.
    pub sort: ModelSort,
    /// Reverse the order.
    pub descending: bool,
    /// The last row of the page before: (sort value as text, id).
    pub after: Option<(String, ModelId)>,
}

impl ModelFilter {
    /// The row's value of the key that orders this list as text, for [`ModelFilter::after`].
    pub fn key_of(&self, row: &ListedModel) -> String {
        self.order().0.value(row)
    }

    /// The order in effect: what is too many to rank comes by name.
    pub(super) fn order(&self) -> (ModelSort, bool) {
        let unranked = self.text.as_ref().is_none_or(|text| !text.ranked);
        if self.sort == ModelSort::Rank && unranked { (ModelSort::Name, false) } else { (self.sort, self.descending) }
    }
}

/// Sort keys of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelSort {
    /// By name.
    #[default]
    Name,
    /// By bytes on disk.
    Size,
    /// By first sighting.
    Created,
    /// By last change.
    Updated,
    /// By how well the text fits; needs a text, and descending has the best first.
    Rank,
}

impl ModelSort {
    /// The row's value of this key as text, for a cursor. Text order is not value order; the cursor is compared after a cast.
    fn value(self, row: &ListedModel) -> String {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        match self {
            Self::Name => row.name.clone(),
            Self::Size => row.size_bytes.to_string(),
            Self::Created => time(row.created_at),
            Self::Updated => time(row.updated_at),
            Self::Rank => row.rank.unwrap_or(0.0).to_string(),
        }
    }

    /// Column and type.
    pub(super) fn column(self) -> (&'static str, &'static str) {
        match self {
            Self::Name => ("name", "text"),
            Self::Size => ("size_bytes", "bigint"),
            Self::Created => ("created_at", "timestamptz"),
            Self::Updated => ("updated_at", "timestamptz"),
            Self::Rank => ("rank", "float8"),
        }
    }
}

/// A model as lists show it: type, base and prediction as the operator says, else as detected.
#[derive(Debug, Clone, FromRow)]
pub struct ListedModel {
    /// Id.
    #[sqlx(rename = "model_id")]
    pub id: ModelId,
    /// Unique name.
    pub name: String,
    /// Title of people, else of files.
    pub title: Option<String>,
    /// Type.
    #[sqlx(rename = "type")]
    pub model_type: String,
    /// Base.
    pub base: String,
    /// Format.
    pub format: String,
    /// Dtype of the weights.
    pub variant: Option<String>,
    /// Prediction type.
    pub prediction: Option<String>,
    /// Bytes on disk.
    pub size_bytes: i64,
    /// `available`, `missing`, `unreadable`.
    pub state: String,
    /// Why it is unknown or not available.
    pub reason: Option<String>,
    /// Tags of people and files, in lower case.
    pub tags: Vec<String>,
    /// First seen.
    pub created_at: DateTime<Utc>,
    /// Last changed, by a scan or by people.
    pub updated_at: DateTime<Utc>,
    /// Verdict of the last validation of any host, if there was one.
    pub verdict: Option<String>,
    /// The files that it looked at are others by now.
    pub verdict_stale: bool,
    /// How well the text fits; none without a text, or where the text is too common to rank.
    pub rank: Option<f64>,
}
