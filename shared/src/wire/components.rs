//! Components over all models on the wire.

use serde::{Deserialize, Serialize};

use super::{ComponentView, ResidentComponent, Staleness};
use crate::ids::ModelId;

/// A component with the models that contain it and where it is resident.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SharedComponent {
    /// What it is.
    #[serde(flatten)]
    pub component: ComponentView,
    /// The models that contain it, by name.
    pub models: Vec<PartOf>,
    /// Bytes on disk of all its copies but one.
    pub spare_bytes: u64,
    /// Its copies in RAM and on devices.
    pub resident: Vec<ResidentComponent>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// A model that contains a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PartOf {
    /// Model.
    pub id: ModelId,
    /// Its name.
    pub name: String,
    /// The part that the component plays in it.
    pub kind: String,
}
