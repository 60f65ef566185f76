//! The kinds of jobs, and where each runs.

use serde::{Deserialize, Serialize};

/// Where a kind runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// In a slot of a device.
    Device,
    /// In a slot of a host, beside its devices.
    Host,
    /// Nowhere: it ends when its children have ended.
    Fanout,
}

impl Lane {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Host => "host",
            Self::Fanout => "fanout",
        }
    }
}

/// The closed set of job kinds of this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Bring the catalogue up to date with a root.
    Scan,
    /// Disk → RAM → device.
    Load,
    /// Free a model's device memory, optionally its RAM too.
    Unload,
    /// Disk → RAM.
    CacheAdd,
    /// Free RAM.
    CacheRemove,
    /// Say how long what is in RAM stays there.
    CacheKeep,
    /// Hash the files of models that have no hashes yet.
    Hash,
    /// Look for what is wrong with a model.
    Validate,
    /// Write what is known of a model into a side-car or a copy.
    MetadataWrite,
    /// Make a model of another layout or type, with another VAE or LoRAs baked in.
    Convert,
    /// Give memory back until a goal is reached.
    Optimize,
    /// Latents to images.
    VaeDecode,
    /// An image to latents.
    VaeEncode,
    /// Prompts to embeddings.
    EncodeText,
    /// One prediction of a UNet.
    UnetStep,
    /// Texts to token ids and back.
    Tokenize,
    /// A prompt to images.
    Generate,
    /// Measure a model.
    Benchmark,
    /// What a LoRA would do to a base.
    LoraCheck,
    /// A stack of LoRAs to one.
    BlendLoras,
    /// Make a pipeline ready on a device.
    ApplyPipeline,
    /// Run the parts of a pipeline's base as they are again.
    RestorePipeline,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 22] = [
        Self::Scan,
        Self::Load,
        Self::Unload,
        Self::CacheAdd,
        Self::CacheRemove,
        Self::CacheKeep,
        Self::Hash,
        Self::Validate,
        Self::MetadataWrite,
        Self::Convert,
        Self::Optimize,
        Self::VaeDecode,
        Self::VaeEncode,
        Self::EncodeText,
        Self::UnetStep,
        Self::Tokenize,
        Self::Generate,
        Self::Benchmark,
        Self::LoraCheck,
        Self::BlendLoras,
        Self::ApplyPipeline,
        Self::RestorePipeline,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Load => "load",
            Self::Unload => "unload",
            Self::CacheAdd => "cache_add",
            Self::CacheRemove => "cache_remove",
            Self::CacheKeep => "cache_keep",
            Self::Hash => "hash",
            Self::Validate => "validate",
            Self::MetadataWrite => "metadata_write",
            Self::Convert => "convert",
            Self::Optimize => "optimize",
            Self::VaeDecode => "vae_decode",
            Self::VaeEncode => "vae_encode",
            Self::EncodeText => "encode_text",
            Self::UnetStep => "unet_step",
            Self::Tokenize => "tokenize",
            Self::Generate => "generate",
            Self::Benchmark => "benchmark",
            Self::LoraCheck => "lora_check",
            Self::BlendLoras => "blend_loras",
            Self::ApplyPipeline => "apply_pipeline",
            Self::RestorePipeline => "restore_pipeline",
        }
    }

    /// Where jobs of this kind run, but for those that [`super::JobSpec::lane`] knows better.
    pub fn usual_lane(self) -> Lane {
        match self {
            Self::Load
            | Self::Unload
            | Self::VaeDecode
            | Self::VaeEncode
            | Self::EncodeText
            | Self::UnetStep
            | Self::Generate
            | Self::Benchmark
            | Self::ApplyPipeline
            | Self::RestorePipeline => Lane::Device,
            Self::Scan
            | Self::CacheAdd
            | Self::CacheRemove
            | Self::CacheKeep
            | Self::Hash
            | Self::Validate
            | Self::MetadataWrite
            | Self::Convert
            | Self::Optimize
            | Self::Tokenize
            | Self::LoraCheck
            | Self::BlendLoras => Lane::Host,
        }
    }

    /// True when a model's weights have to be in the memory of the place, or are brought there: those that the job's needs
    /// name, which are none for a validation that runs nothing.
    pub fn needs_weights(self) -> bool {
        match self {
            Self::Load
            | Self::CacheAdd
            | Self::VaeDecode
            | Self::VaeEncode
            | Self::EncodeText
            | Self::UnetStep
            | Self::Generate
            | Self::Benchmark
            | Self::ApplyPipeline
            | Self::Validate => true,
            Self::Scan
            | Self::Unload
            | Self::CacheRemove
            | Self::CacheKeep
            | Self::Hash
            | Self::MetadataWrite
            | Self::Convert
            | Self::Optimize
            | Self::Tokenize
            | Self::LoraCheck
            | Self::BlendLoras
            | Self::RestorePipeline => false,
        }
    }
}

impl std::fmt::Display for JobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for JobKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| format!("`{text}` is not a job kind"))
    }
}
