//! What can go wrong while a worker does its jobs, and the closed code of each.

use model_formats::{convert::ConvertError, write::WriteError};
use residency::ResidencyError;
use shared::{
    bytes::ByteSize,
    db::{DbError, models::CORRUPT_HINT},
    error::{Classify, ErrorCode},
    ids::ComponentId,
};

use crate::{device_tier::evict::Refused, judge::ReadComponent, runner::RunnerError};

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The stored arguments cannot be read.
    #[error(transparent)]
    Spec(#[from] shared::job::spec::BadSpec),
    /// A statement failed.
    #[error("the database did not answer")]
    Db(#[from] DbError),
    /// This build of the agent does not do such work.
    #[error("this agent cannot run `{0}` jobs")]
    NoExecutor(shared::job::JobKind),
    /// The model is gone from the catalogue.
    #[error("model {0} is not in the catalogue")]
    NoModel(shared::ids::ModelId),
    /// Nothing on this host's disks is this model.
    #[error("model `{model}` has no files on host `{host}`")]
    NotHere {
        /// The model's name.
        model: String,
        /// This host.
        host: String,
    },
    /// The model has nothing that can be loaded.
    #[error("model `{model}` has no loadable component{}", reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    NothingToLoad {
        /// The model's name.
        model: String,
        /// Why the scan found none.
        reason: Option<String>,
    },
    /// A text cannot be tokenized.
    #[error(transparent)]
    Prompt(#[from] engine::prompt::PromptError),
    /// The model brings no VAE, and this host has none that is known to suit it.
    #[error("model `{model}` has no VAE, and host `{host}` has none that is known to be for `{base}`")]
    NoVae {
        /// The model's name.
        model: String,
        /// Its family.
        base: String,
        /// This host.
        host: String,
    },
    /// The model lacks a part that the work needs.
    #[error("model `{model}` has no {part}")]
    NoPart {
        /// The model's name.
        model: String,
        /// The part.
        part: &'static str,
    },
    /// The files are not the ones that the scan saw.
    #[error("`{path}` changed since it was scanned: {what}")]
    Changed {
        /// The file.
        path: String,
        /// What is different.
        what: String,
    },
    /// The headers are not those that the scan read, of which the identity of the file may say nothing.
    #[error("`{path}` had a component `{component}` when it was scanned, and has none now: {reason}")]
    NoComponent {
        /// The first file of the model.
        path: String,
        /// Kind of the component.
        component: String,
        /// What is wrong with the headers.
        reason: String,
    },
    /// What was read is not what is registered. The files are marked with the end of the job.
    #[error("{paths} on host `{host}` {} read with digest `{}`, and `{expected}` is registered", if read.files.len() == 1 { "was" } else { "were" }, read.digest)]
    OtherBytes {
        /// The files, quoted.
        paths: String,
        /// This host.
        host: String,
        /// What is registered.
        expected: String,
        /// What was read.
        read: Box<ReadComponent>,
    },
    /// The file was read before, and its bytes were not the registered ones.
    #[error("`{path}` is corrupt on host `{host}`: it was read with digest `{actual}`, and `{expected}` is registered")]
    CorruptFile {
        /// The file.
        path: String,
        /// This host.
        host: String,
        /// What is registered.
        expected: String,
        /// What was read.
        actual: String,
    },
    /// Another variant of a folder was chosen, and this host's scan has not followed.
    #[error("another variant of model `{model}` was chosen, and host `{host}` has not scanned its files since")]
    OtherVariant {
        /// The model's name.
        model: String,
        /// This host.
        host: String,
    },
    /// The host's last scan could not read the files.
    #[error("host `{host}` could not read its files of model `{model}` when it last scanned them")]
    Unread {
        /// The model's name.
        model: String,
        /// This host.
        host: String,
    },
    /// A header could not be read.
    #[error("cannot read the header of `{path}`")]
    Format {
        /// The model's path.
        path: String,
        /// Why.
        #[source]
        source: model_formats::FormatError,
    },
    /// The file of a LoRA cannot be applied to anything.
    #[error("LoRA `{lora}` cannot be applied")]
    Lora {
        /// The model's name.
        lora: String,
        /// What is wrong with it.
        #[source]
        source: engine::lora::LoraError,
    },
    /// What stands beside a LoRA's factors cannot be applied.
    #[error("LoRA `{lora}` cannot be applied: its settings are not known")]
    LoraSettings {
        /// The model's name.
        lora: String,
        /// What is wrong with them.
        #[source]
        source: crate::managers::lora::SettingsError,
    },
    /// A LoRA is for another base.
    #[error("LoRA `{lora}` is not for model `{base}`: {reason}")]
    LoraRefused {
        /// The LoRA's name.
        lora: String,
        /// The model's name.
        base: String,
        /// Why.
        reason: String,
    },
    /// Text encoders of other models do not belong before the model's UNet.
    #[error("model `{model}` cannot take these text encoders: {reason}")]
    EncodersMisfit {
        /// The model's name.
        model: String,
        /// Which widths differ.
        reason: String,
    },
    /// A weight is for a block that the UNet does not have.
    #[error("LoRA `{lora}` has a weight for `{block}`, and the UNet has no module there")]
    UnknownBlock {
        /// The LoRA's name.
        lora: String,
        /// The block.
        block: String,
        /// The block that is most like it.
        nearest: Option<String>,
    },
    /// A stack of LoRAs cannot be one LoRA.
    #[error("the LoRAs were not blended")]
    Blend(#[from] engine::lora::blend::BlendError),
    /// A model was not converted.
    #[error("it was not converted")]
    Convert(#[from] ConvertError),
    /// A side-car or copy was not written.
    #[error("it was not written")]
    Write(#[from] WriteError),
    /// People said something else of the model than what was to be written.
    #[error("what people say of `{model}` was changed since it was asked to be written")]
    MetadataChanged {
        /// The model's name.
        model: String,
    },
    /// A model of several files has no single header.
    #[error("model `{model}` is not one file on this host, so no copy of it was written")]
    NotCopied {
        /// The model's name.
        model: String,
    },
    /// Headers could not be read in time.
    #[error("`{path}` could not be read within {seconds} s: its disk or server does not answer")]
    Stalled {
        /// The model's place.
        path: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The RAM tier refused or failed.
    #[error("the RAM tier could not do it")]
    Residency(#[from] ResidencyError),
    /// The device's runner refused or failed.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// A copy on a device has to stay.
    #[error(transparent)]
    Stays(Refused),
    /// The device has no room, whatever is evicted.
    #[error(
        "device `{device}` has {} for weights, the model needs {}: {} are missing",
        ByteSize(*capacity_bytes), ByteSize(*needed_bytes), ByteSize(needed_bytes.saturating_sub(*capacity_bytes))
    )]
    TooBig {
        /// The device.
        device: String,
        /// Bytes of the components asked for.
        needed_bytes: u64,
        /// Bytes of the device.
        capacity_bytes: u64,
    },
    /// A run needs more memory than the device has beside the weights that take part in it.
    #[error(
        "the run needs {} for itself, and device `{device}` has {} in all, {} of which are the weights that take part",
        ByteSize(*needed_bytes), ByteSize(*capacity_bytes), ByteSize(*weights_bytes)
    )]
    NeverFits {
        /// The device.
        device: String,
        /// Bytes that the run needs beside weights.
        needed_bytes: u64,
        /// Bytes of the device.
        capacity_bytes: u64,
        /// Bytes of the components that take part.
        weights_bytes: u64,
    },
    /// A job of the device lane names a device that this agent does not run.
    #[error("this host runs no device `{0}`")]
    NoDevice(String),
    /// A root that this host does not have.
    #[error("host `{host}` has no root `{root}`")]
    NoRoot {
        /// This host.
        host: String,
        /// The name asked for.
        root: String,
    },
    /// What the job works on is not there.
    #[error("{0} is not there")]
    NoInput(String),
    /// What the job works on cannot be worked on.
    #[error("{input} cannot be worked on: {why}")]
    BadInput {
        /// The input.
        input: String,
        /// Why not.
        why: String,
    },
    /// What the job leaves cannot be kept.
    #[error("{0}")]
    BadArtifacts(String),
    /// No root could be read.
    #[error("no model root could be read: {0}")]
    RootsMissing(String),
    /// A copy on a device that nothing uses stays where it is all the same.
    #[error("`{component}` stays on `{device}`: {why}")]
    Kept {
        /// Kind of the component.
        component: String,
        /// The device.
        device: String,
        /// Why.
        why: &'static str,
    },
    /// Components that are in use or kept stay in RAM; what could go has gone.
    #[error("{first}{}{}{}", more_stay(*count), gone.iter().map(|gone| format!("; {gone}")).collect::<String>(), loads_ended(ended_loads))]
    InUse {
        /// How many.
        count: usize,
        /// The first refusal.
        first: String,
        /// What has gone all the same, by place.
        gone: Vec<Gone>,
        /// Components whose loads were ended for it.
        ended_loads: Vec<ComponentId>,
    },
    /// Asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The work panicked.
    #[error("the work panicked: {0}")]
    Panicked(String),
    /// The system answered with an error.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
}

/// What left a place in work that failed all the same.
#[derive(Debug)]
pub struct Gone {
    /// `RAM`, or the device.
    pub place: String,
    /// The components, by their present ids.
    pub components: Vec<ComponentId>,
    /// What came back.
    pub freed_bytes: u64,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<String> = self.components.iter().map(ToString::to_string).collect();
        write!(f, "{} left {} ({}): {}", ids.len(), self.place, ByteSize(self.freed_bytes), ids.join(", "))
    }
}

/// The loads that were ended all the same.
fn loads_ended(components: &[ComponentId]) -> String {
    let ids: Vec<String> = components.iter().map(ToString::to_string).collect();
    if ids.is_empty() { String::new() } else { format!("; loads that were cancelled: {}", ids.join(", ")) }
}

/// Those beside the first that is named.
fn more_stay(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        2 => ", and 1 more stays in RAM".to_owned(),
        count => format!(", and {} more stay in RAM", count - 1),
    }
}

impl Classify for WorkError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Spec(_)
            | Self::BadInput { .. }
            | Self::BadArtifacts(_)
            | Self::LoraRefused { .. }
            | Self::EncodersMisfit { .. }
            | Self::UnknownBlock { .. } => ErrorCode::InvalidArgument,
            Self::Db(error) => error.code(),
            Self::NoModel(_)
            | Self::NotHere { .. }
            | Self::NoRoot { .. }
            | Self::NoInput(_)
            | Self::RootsMissing(_) => ErrorCode::NotFound,
            // room for a run that never fits does not come: waiting, as for other memory, would be for ever
            Self::NothingToLoad { .. }
            | Self::NoPart { .. }
            | Self::NoVae { .. }
            | Self::NoExecutor(_)
            | Self::NeverFits { .. } => ErrorCode::Unsupported,
            Self::Changed { .. } | Self::NoComponent { .. } | Self::OtherBytes { .. } | Self::CorruptFile { .. } => {
                ErrorCode::Corrupt
            }
            Self::Format { source, .. } => format_code(source),
            Self::Lora { source, .. } => source.code(),
            Self::LoraSettings { source, .. } => source.code(),
            Self::Blend(error) => error.code(),
            Self::Prompt(error) => error.code(),
            Self::Convert(error) => convert_code(error),
            Self::Write(error) => write_code(error),
            Self::MetadataChanged { .. } => ErrorCode::Precondition,
            Self::NotCopied { .. } => ErrorCode::Unsupported,
            Self::Residency(error) => residency_code(error),
            Self::Runner(error) => error.code(),
            Self::TooBig { .. } => ErrorCode::InsufficientCapacity,
            Self::NoDevice(_) | Self::Panicked(_) | Self::System { .. } => ErrorCode::Internal,
            Self::InUse { .. } | Self::Stays(_) | Self::Kept { .. } => ErrorCode::Conflict,
            Self::OtherVariant { .. } | Self::Unread { .. } => ErrorCode::Unavailable,
            Self::Stalled { .. } => ErrorCode::Timeout,
            Self::Cancelled => ErrorCode::Cancelled,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Changed { .. } | Self::Residency(ResidencyError::Changed(_)) => {
                Some("a scan of its root is asked for: try again after it; if nobody replaced the file, check the disk".into())
            }
            Self::Residency(ResidencyError::DigestMismatch { .. }) => {
                Some("try again; if nobody replaced the file, check the disk".into())
            }
            Self::NoComponent { .. } => {
                Some("if somebody replaced the file, scan its root; if not, put a good file in its place and check the disk".into())
            }
            Self::OtherBytes { .. } | Self::CorruptFile { .. } => Some(CORRUPT_HINT.into()),
            Self::TooBig { .. } => Some("load fewer components, a smaller variant, or use a larger device".into()),
            Self::NeverFits { .. } => {
                Some("ask for smaller or fewer images, let the VAE work in tiles, or use a larger device".into())
            }
            Self::Residency(ResidencyError::NoRoom(shortage)) if shortage.needed_bytes > shortage.capacity_bytes => {
                Some("raise --ram-budget of the host's agent, or load fewer components".into())
            }
            Self::Stalled { .. } | Self::Residency(ResidencyError::Stalled { .. }) => {
                Some("look after the disk or the file server; loads from it go on once it answers".into())
            }
            Self::Residency(ResidencyError::Pressure(_) | ResidencyError::Stuck { .. }) => {
                Some("free memory on the host; it is tried again when there is some".into())
            }
            Self::Stays(Refused::Protected { .. }) => Some("unprotect it, or unload it with `force`".into()),
            Self::Stays(_) | Self::InUse { .. } | Self::Residency(ResidencyError::Leased { .. }) => {
                Some("wait for the jobs that use it, or cancel them".into())
            }
            Self::Write(WriteError::IsSource { .. }) | Self::Convert(ConvertError::Write(WriteError::IsSource { .. })) => {
                Some("give another path: a model's own files are only read".into())
            }
            Self::Write(WriteError::Exists { .. }) | Self::Convert(ConvertError::Write(WriteError::Exists { .. })) => {
                Some("give another path, or `overwrite` if it was written by such a job before".into())
            }
            Self::LoraRefused { .. } => {
                Some("`loras check` shows which of its modules a model has; choose a LoRA of the model's family, or correct `base` of what is taken for another one".into())
            }
            Self::EncodersMisfit { .. } => Some("take text encoders of the model's own family".into()),
            Self::Convert(ConvertError::NotNumbers { .. }) => {
                Some("`models validate` shows where they are; `allow_nan` takes them all the same".into())
            }
            Self::Convert(ConvertError::Overflow { .. }) => {
                Some("`keep` leaves every weight its type; values of this size are seldom meant: `models validate` shows them".into())
            }
            Self::Convert(ConvertError::Types { .. }) => Some("`diffusers` keeps these tensors apart".into()),
            Self::Convert(ConvertError::Unknown { .. } | ConvertError::NoOriginalName { .. }) => {
                Some("`same` keeps all names; or correct the model's `base`".into())
            }
            Self::Write(WriteError::ReadOnly { .. })
            | Self::Convert(ConvertError::Write(WriteError::ReadOnly { .. })) => {
                Some("let the agent write there, or give a path in a folder where it may".into())
            }
            Self::UnknownBlock { nearest, .. } => nearest.as_ref().map(|nearest| format!("did you mean `{nearest}`?")),
            Self::NoVae { .. } => Some("name one with `vae`, or correct the `base` of one that the host has".into()),
            Self::OtherVariant { .. } => Some("the scan is on its way; it is tried again after that".into()),
            Self::Unread { .. } => Some("see that the disk answers and that the agent may read the files, then scan again".into()),
            Self::MetadataChanged { .. } => Some("read the metadata again".into()),
            Self::RootsMissing(_) => Some("mount the folder or correct --root of the host's agent".into()),
            Self::Runner(error) => error.hint(),
            _ => None,
        }
    }
}

impl WorkError {
    /// The host's RAM has no room now, which ends when others let go of some.
    pub(crate) fn is_shortage_of_ram(&self) -> bool {
        match self {
            Self::Residency(ResidencyError::NoRoom(shortage)) => shortage.needed_bytes <= shortage.capacity_bytes,
            Self::Residency(ResidencyError::Pressure(_)) => true,
            _ => false,
        }
    }
}

impl From<Refused> for WorkError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Runner(error) => Self::Runner(error),
            stays => Self::Stays(stays),
        }
    }
}

fn write_code(error: &WriteError) -> ErrorCode {
    match error {
        WriteError::BadPath { .. } => ErrorCode::InvalidArgument,
        WriteError::NoFolder { .. } => ErrorCode::NotFound,
        WriteError::Exists { .. }
        | WriteError::NotOurs { .. }
        | WriteError::Displaced { .. }
        | WriteError::IsSource { .. } => ErrorCode::Conflict,
        WriteError::ReadOnly { .. } | WriteError::HeaderTooLarge { .. } => ErrorCode::Unsupported,
        WriteError::NoSpace { .. } => ErrorCode::InsufficientCapacity,
        WriteError::OtherBytes { .. } => ErrorCode::Corrupt,
        WriteError::Format(error) => format_code(error),
        WriteError::Stopped => ErrorCode::Cancelled,
        _ => ErrorCode::Unavailable,
    }
}

fn convert_code(error: &ConvertError) -> ErrorCode {
    match error {
        ConvertError::Layout { .. }
        | ConvertError::NoPart { .. }
        | ConvertError::NoOriginalName { .. }
        | ConvertError::Unknown { .. }
        | ConvertError::Dtype { .. }
        | ConvertError::Types { .. }
        | ConvertError::Graph { .. }
        | ConvertError::Overflow { .. }
        | ConvertError::NoAverage => ErrorCode::Unsupported,
        ConvertError::BadAverage { .. } | ConvertError::NotNumbers { .. } | ConvertError::NotAsWritten { .. } => {
            ErrorCode::Corrupt
        }
        ConvertError::Change { .. } => ErrorCode::InvalidArgument,
        ConvertError::Write(error) => write_code(error),
        ConvertError::Format(error) => format_code(error),
        _ => ErrorCode::Unavailable,
    }
}

fn format_code(error: &model_formats::FormatError) -> ErrorCode {
    use model_formats::ErrorKind;
    match error.kind() {
        ErrorKind::Missing => ErrorCode::NotFound,
        ErrorKind::Unreadable => ErrorCode::Unavailable,
        ErrorKind::Corrupt => ErrorCode::Corrupt,
        ErrorKind::Unsupported => ErrorCode::Unsupported,
        ErrorKind::Unsafe | ErrorKind::UnsafeFormat => ErrorCode::UnsafeFormat,
    }
}

fn residency_code(error: &ResidencyError) -> ErrorCode {
    match error {
        ResidencyError::BadRequest { .. } | ResidencyError::Aborted { .. } | ResidencyError::Thread { .. } => {
            ErrorCode::Internal
        }
        ResidencyError::Missing { .. } | ResidencyError::NotResident { .. } => ErrorCode::NotFound,
        ResidencyError::NotRegular { .. } => ErrorCode::Unsupported,
        ResidencyError::OutOfBounds { .. }
        | ResidencyError::Changed(_)
        | ResidencyError::ShortRead { .. }
        | ResidencyError::DigestMismatch { .. } => ErrorCode::Corrupt,
        ResidencyError::Unreadable { .. } | ResidencyError::Io { .. } => ErrorCode::Unavailable,
        ResidencyError::Memory { .. } | ResidencyError::NoRoom(_) | ResidencyError::Pressure(_) => {
            ErrorCode::InsufficientCapacity
        }
        ResidencyError::Stalled { .. } | ResidencyError::Stuck { .. } => ErrorCode::Timeout,
        ResidencyError::Cancelled { .. } => ErrorCode::Cancelled,
        ResidencyError::Leased { .. } | ResidencyError::Protected { .. } | ResidencyError::Loading { .. } => {
            ErrorCode::Conflict
        }
    }
}
