//! What the engine of a runner is asked to do: the words between an executor and the models.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use engine::{
    measure::{Amount, Operation},
    tokenize::{ClipTokenizer, TokenizeError, TokenizerSettings},
};
use model_formats::{
    FileFacts, FormatError, Inspection,
    onnx::{self, Detached},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{
    ids::ModelId,
    job::engine::{EncoderOutput, GenerateArgs, ImageFormat, LatentSample, VaeSettings},
};

/// Name of the safetensors payload that a run takes: latents, inputs of a UNet, first noise.
pub const TENSORS: &str = "tensors";
/// Name of the payload of an image.
pub const IMAGE: &str = "image";

/// A run. Parts are named by their slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Work {
    /// Latents (`latents` in [`TENSORS`]) to images.
    VaeDecode {
        /// The VAE.
        vae: PartFacts,
        /// As the request says.
        settings: VaeSettings,
        /// What is left.
        format: ImageFormat,
        /// Bytes that the job's artifacts may have.
        limit_bytes: u64,
    },
    /// An image ([`IMAGE`], or `image` in [`TENSORS`]) to latents.
    VaeEncode {
        /// The VAE.
        vae: PartFacts,
        /// As the request says.
        settings: VaeSettings,
        /// What of the distribution.
        sample: LatentSample,
        /// Of a sample.
        seed: u64,
    },
    /// Prompts to states.
    EncodeText {
        /// In the order of the model.
        encoders: Vec<EncoderFacts>,
        /// As the request says.
        text: TextWork,
    },
    /// One prediction: `sample`, `timestep`, `encoder_hidden_states` and for SDXL `text_embeds`, `time_ids` in [`TENSORS`].
    UnetStep {
        /// The UNet.
        unet: PartFacts,
        /// Inputs are pairs, which it combines.
        guidance_scale: Option<f64>,
    },
    /// The smallest run of a part, to see whether its results are numbers.
    Forward {
        /// The part.
        part: PartFacts,
    },
    /// One run of a part on made-up inputs, timed.
    Measure {
        /// The part.
        part: PartFacts,
        /// What is run.
        operation: Operation,
        /// How much at once.
        amount: Amount,
        /// How a VAE runs.
        settings: VaeSettings,
        /// With graphs compiled anew, as after a start.
        fresh: bool,
    },
    /// A prompt to images; first noise as `noise` in [`TENSORS`].
    Generate(Box<GenerateWork>),
}

/// A prompt with all that makes images of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateWork {
    /// In the order of the model.
    pub encoders: Vec<EncoderFacts>,
    /// The UNet.
    pub unet: PartFacts,
    /// The model's own VAE, or that of another.
    pub vae: PartFacts,
    /// The tiny autoencoder that decodes previews.
    pub preview: Option<PartFacts>,
    /// The model's `scheduler_config.json`.
    pub scheduler: Option<Value>,
    /// What the UNet predicts, where the operator or the files say it.
    pub prediction: Option<String>,
    /// Whether an empty negative prompt has states of zeros, where the model says it.
    pub zero_empty_negative: Option<bool>,
    /// The model's name, for the images' parameters.
    pub model: String,
    /// The beginning of its hash; empty while it is not known.
    pub hash: String,
    /// The LoRAs that are applied, for the images' parameters.
    pub loras: Vec<LoraTold>,
    /// As the request says.
    pub args: GenerateArgs<ModelId>,
    /// Bytes that the job's artifacts may have.
    pub limit_bytes: u64,
    /// With graphs compiled anew, as after a start.
    pub fresh: bool,
}

/// A LoRA of a stack, as people are told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraTold {
    /// Its name.
    pub name: String,
    /// The beginning of its hash as people write it beside the name; empty while it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// Its weight.
    pub weight: f64,
    /// That of text encoders, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_weight: Option<f64>,
    /// Factors by block.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<String, f64>,
}

impl std::fmt::Display for LoraTold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.weight)?;
        if let Some(weight) = self.text_encoder_weight {
            write!(f, ":{weight}")?;
        }
        for (block, weight) in &self.blocks {
            write!(f, " {block}={weight}")?;
        }
        Ok(())
    }
}

/// What is known of a part beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartFacts {
    /// Names it among the run's parts.
    pub slot: String,
    /// Its kind in the catalogue.
    pub kind: String,
    /// The family, as detected or corrected by the operator; none while it is unknown.
    pub base: Option<String>,
    /// The operator's or the folder's `config.json`.
    pub config: Option<Value>,
    /// The ONNX graph that the part is, where it brings one.
    pub graph: Option<GraphFile>,
}

/// A user's ONNX graph with the files of its part, as they were when headers were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphFile {
    graph: SeenFile,
    beside: Vec<SeenFile>,
}

/// A file by what tells it from another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenFile {
    path: PathBuf,
    rel_path: String,
    size: u64,
    mtime_ns: i64,
    inode: u64,
    dev: u64,
}

impl SeenFile {
    fn of(file: &FileFacts) -> Self {
        let FileFacts { path, rel_path, size, mtime_ns, inode, dev } = file.clone();
        Self { path, rel_path, size, mtime_ns, inode, dev }
    }

    fn facts(&self) -> FileFacts {
        let Self { path, rel_path, size, mtime_ns, inode, dev } = self.clone();
        FileFacts { path, rel_path, size, mtime_ns, inode, dev }
    }
}

impl GraphFile {
    /// Of a model's part of this kind, where it is a graph.
    pub fn of(inspection: &Inspection, kind: &str) -> Option<Self> {
        let graph = onnx::graph_file(inspection, kind)?;
        let below = format!("{kind}/");
        let beside = inspection.files.iter().filter(|file| *file != graph && file.rel_path.starts_with(&below));
        Some(Self { graph: SeenFile::of(graph), beside: beside.map(SeenFile::of).collect() })
    }

    /// The graph without its large weights.
    ///
    /// # Errors
    /// When one of its files is another by now, or it is no sound ONNX model.
    pub fn detach(&self) -> Result<Detached, FormatError> {
        let beside: Vec<FileFacts> = self.beside.iter().map(SeenFile::facts).collect();
        onnx::detach(&self.graph.facts(), &beside)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.graph.path
    }
}

/// A text encoder with its tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderFacts {
    /// The encoder.
    pub part: PartFacts,
    /// Where its tokens come from.
    pub tokenizer: TokenizerSource,
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerSource {
    /// A folder of the model.
    Folder {
        /// Where it is.
        path: PathBuf,
    },
    /// The CLIP vocabulary that comes with us.
    Shipped {
        /// Whether it pads with id 0, as second encoders do.
        pads_with_zero: bool,
    },
}

impl TokenizerSource {
    /// Opens it. A second or third opening of one folder costs as much as the first: some tenths of a second.
    ///
    /// # Errors
    /// [`TokenizeError`] that names the file and what is wrong with it.
    pub fn open(&self) -> Result<ClipTokenizer, TokenizeError> {
        match self {
            Self::Folder { path } => ClipTokenizer::open(path),
            Self::Shipped { pads_with_zero: true } => ClipTokenizer::shipped(&TokenizerSettings::padded_with_zero()),
            Self::Shipped { pads_with_zero: false } => ClipTokenizer::shipped(&TokenizerSettings::default()),
        }
    }
}

/// What is made of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextWork {
    /// One row each.
    pub prompts: Vec<String>,
    /// Encoded to as many chunks.
    pub negative: Option<String>,
    /// Layers left out beyond what the family leaves out.
    pub clip_skip: u32,
    /// Parentheses are weights.
    pub weights: bool,
    /// Longest prompt.
    pub max_chunks: u32,
    /// What is left; all that there is when empty.
    pub outputs: Vec<EncoderOutput>,
}
