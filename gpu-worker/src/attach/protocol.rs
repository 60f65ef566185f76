//! What a program and the agent say to each other.

use residency::PlacedTensor;
use serde::{Deserialize, Serialize};
use shared::{error::ErrorBody, ids::ComponentId};

use crate::runner::DeviceTensor;

/// Longest request in bytes.
pub(super) const REQUEST_MAX: usize = 64 << 10;
/// Longest wait for a load, in seconds.
pub(super) const WAIT_MAX_SECONDS: f64 = 3600.0;

/// What a program asks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// The weights of one component.
    Attach(Wanted),
    /// An end of one lease; the others stay.
    Release {
        /// As the answer named it.
        lease: u64,
    },
}

/// A component that a program wants.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Model by id or name.
    pub(super) model: String,
    /// Kind of the component; may be left out when the model has only one.
    #[serde(default)]
    pub(super) component: Option<String>,
    /// Where the weights are wanted.
    #[serde(default)]
    pub(super) tier: Tier,
    /// Which device, for `vram`; any of this host when absent.
    #[serde(default)]
    pub(super) device: Option<String>,
    /// Load it if it is not resident.
    #[serde(default = "yes")]
    pub(super) load: bool,
    /// How long to wait for such a load.
    #[serde(default = "ten_minutes")]
    pub(super) wait_seconds: f64,
}

fn yes() -> bool {
    true
}

fn ten_minutes() -> f64 {
    600.0
}

/// A tier of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tier {
    /// Host memory.
    #[default]
    Ram,
    /// Device memory.
    Vram,
}

/// What the agent answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer<'a> {
    /// The weights; for a memory file its descriptor comes with the frame.
    Attached(Attached<'a>),
    /// The lease is over.
    Released {
        /// Which.
        lease: u64,
    },
    /// No.
    Error(Refusal),
}

/// A component in sealed memory, or in memory of a CUDA device.
#[derive(Debug, Serialize)]
pub(super) struct Attached<'a> {
    /// Number of the lease on this connection.
    pub(super) lease: u64,
    /// The model's name.
    pub(super) model: &'a str,
    /// The component.
    pub(super) id: ComponentId,
    /// Its kind.
    pub(super) component: &'a str,
    /// Digest of its tensors.
    pub(super) digest: String,
    /// Whether it was resident already.
    pub(super) resident: bool,
    /// Where it is.
    pub(super) tier: Tier,
    /// On which device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<&'a str>,
    /// What opens the memory of a CUDA device; there is no descriptor then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cuda: Option<CudaMemory<'a>>,
    /// Where it begins in the memory file.
    pub(super) offset: u64,
    /// Bytes that it occupies there.
    pub(super) bytes: u64,
    /// Its tensors, offsets relative to its begin.
    pub(super) tensors: Tensors<'a>,
}

/// Tensors in either tier, a list for each property: reading five long lists takes a program a third of the time that
/// reading hundreds of small objects takes, and leaves its collector of garbage nothing to look through.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tensors<'a> {
    names: Vec<&'a str>,
    dtypes: Vec<&'a str>,
    /// Dimensions, separated by commas; empty for a scalar.
    shapes: Vec<String>,
    offsets: Vec<u64>,
    /// Bytes of each.
    lens: Vec<u64>,
}

impl<'a> Tensors<'a> {
    fn push(&mut self, name: &'a str, dtype: &'a str, shape: &[u64], offset: u64, len: u64) {
        self.names.push(name);
        self.dtypes.push(dtype);
        self.shapes.push(shape.iter().map(u64::to_string).collect::<Vec<_>>().join(","));
        self.offsets.push(offset);
        self.lens.push(len);
    }
}

impl<'a> From<&'a [PlacedTensor]> for Tensors<'a> {
    fn from(tensors: &'a [PlacedTensor]) -> Self {
        let mut lists = Self::default();
        tensors.iter().for_each(|t| lists.push(&t.name, &t.dtype, &t.shape, t.offset, t.len));
        lists
    }
}

impl<'a> From<&'a [DeviceTensor]> for Tensors<'a> {
    fn from(tensors: &'a [DeviceTensor]) -> Self {
        let mut lists = Self::default();
        tensors.iter().for_each(|t| lists.push(&t.name, &t.dtype, &t.shape, t.offset, t.len));
        lists
    }
}

/// Memory of a CUDA device.
#[derive(Debug, Serialize)]
pub(super) struct CudaMemory<'a> {
    /// The device's UUID.
    pub(super) uuid: Option<&'a str>,
    /// The driver's handle, as bytes. The weights begin at `offset` of what it opens.
    pub(super) handle: &'a [u8],
}

/// Why not.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    /// A code of the farm, or `forbidden`.
    code: String,
    /// One sentence.
    message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl From<ErrorBody> for Refusal {
    fn from(error: ErrorBody) -> Self {
        Self { code: error.code.as_str().to_owned(), message: error.message, hint: error.hint }
    }
}

impl Refusal {
    /// A program of a user that may not attach.
    pub(super) fn forbidden(user: u32) -> Self {
        Self {
            code: "forbidden".to_owned(),
            message: format!("programs of user {user} may not attach to this host's weights"),
            hint: Some(format!("start the agent with `--attach-user {user}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_told_as_lists() {
        let tensor = |name: &str, shape: &[u64], offset, len| PlacedTensor {
            name: name.to_owned(),
            dtype: "F16".to_owned(),
            shape: shape.to_vec(),
            offset,
            len,
        };
        let tensors = [tensor("a", &[2, 3], 0, 12), tensor("scale", &[], 256, 2)];
        let told = serde_json::to_value(Tensors::from(&tensors[..])).unwrap();
        let expected = serde_json::json!({
            "names": ["a", "scale"], "dtypes": ["F16", "F16"], "shapes": ["2,3", ""], "offsets": [0, 256], "lens": [12, 2],
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn requests_have_defaults_and_no_unknown_fields() {
        let request: Request = serde_json::from_str(r#"{"attach":{"model":"m"}}"#).unwrap();
        let Request::Attach(wanted) = request else { panic!("not an attach") };
        assert_eq!((wanted.component, wanted.tier, wanted.load), (None, Tier::Ram, true));
        assert!(serde_json::from_str::<Request>(r#"{"attach":{"model":"m","devise":1}}"#).is_err());
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"release":{"lease":3}}"#).unwrap(),
            Request::Release { lease: 3 }
        );
    }
}
