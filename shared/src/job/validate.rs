//! What a `validate` job is asked to look at.

use serde::{Deserialize, Serialize};

use crate::ids::ModelId;

/// How far a `validate` goes. `structure` is part of every level, `architecture` is part of `weights` and `forward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValidateLevel {
    /// Headers, bounds, shards, the parts of a folder and how they fit together. Reads no weights.
    Structure,
    /// Also the tensors against those of the architecture: missing, unexpected, of another shape. Reads no weights.
    Architecture,
    /// The structure, and the files' hashes against the recorded ones.
    Hash,
    /// The architecture, and every number: NaN, infinite, all zero, constant, subnormal, too large for 16 bits.
    #[default]
    Weights,
    /// The architecture, and a small run of each component on a device: what comes out is finite.
    Forward,
}

impl ValidateLevel {
    /// All levels.
    pub const ALL: [Self; 5] = [Self::Structure, Self::Architecture, Self::Hash, Self::Weights, Self::Forward];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Architecture => "architecture",
            Self::Hash => "hash",
            Self::Weights => "weights",
            Self::Forward => "forward",
        }
    }
}

impl std::str::FromStr for ValidateLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|level| level.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is not a level: {}", names()))
    }
}

/// Arguments of `validate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateArgs {
    /// The model.
    pub model: ModelId,
    /// How far to go.
    #[serde(default)]
    pub level: ValidateLevel,
}
