//! Data that a command hands to a job: a file of this machine, which is uploaded, or what the farm has already.

use std::{path::PathBuf, str::FromStr};

use shared::{
    bytes::ByteSize,
    ids::UploadId,
    job::engine::{ArtifactRef, Input},
};

use crate::{client::Client, error::CliError, output::Output};

/// How inputs are written, for help texts.
pub(super) const FORMS: &str = "a file, `root:NAME/PATH` of the host, `artifact:JOB/NAME` or `upload:ID`";

/// An input as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputArg(Source);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Local(PathBuf),
    Farm(Input),
}

impl FromStr for InputArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no input: write {FORMS}");
        let farm = |input| Ok(Self(Source::Farm(input)));
        match text.split_once(':') {
            Some(("upload", id)) => farm(Input::Upload { upload: id.parse::<UploadId>().map_err(|_| bad())? }),
            Some(("root", rest)) => {
                let (root, path) = rest.split_once('/').ok_or_else(bad)?;
                farm(Input::File { root: root.to_owned(), path: path.to_owned() })
            }
            Some(("artifact", rest)) => {
                let (job, name) = rest.split_once('/').ok_or_else(bad)?;
                let artifact = ArtifactRef { job: job.parse().map_err(|_| bad())?, name: name.to_owned() };
                farm(Input::Artifact { artifact })
            }
            _ if text.is_empty() => Err(bad()),
            _ => Ok(Self(Source::Local(PathBuf::from(text)))),
        }
    }
}

impl InputArg {
    /// The input of a request; a file of this machine is uploaded.
    pub(super) async fn resolve(self, client: &Client, output: Output) -> Result<Input, CliError> {
        match self.0 {
            Source::Farm(input) => Ok(input),
            Source::Local(path) => {
                let upload = client.upload(&path).await?;
                output.note(format!("uploaded {} ({}) as {}", path.display(), ByteSize(upload.bytes), upload.id));
                Ok(Input::Upload { upload: upload.id })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::ids::JobId;

    use super::*;

    #[test]
    fn four_forms_are_told_apart() {
        let of = |text: &str| text.parse::<InputArg>().map(|input| input.0);
        assert_eq!(of("a/b.png"), Ok(Source::Local("a/b.png".into())));
        assert_eq!(of("C:x.png"), Ok(Source::Local("C:x.png".into())), "another colon is a part of a name");
        let file = Input::File { root: "main".into(), path: "in/a.png".into() };
        assert_eq!(of("root:main/in/a.png"), Ok(Source::Farm(file)));
        let (job, upload) = (JobId::generate(), UploadId::generate());
        let artifact = ArtifactRef { job, name: "latents.safetensors".into() };
        assert_eq!(of(&format!("artifact:{job}/latents.safetensors")), Ok(Source::Farm(Input::Artifact { artifact })));
        assert_eq!(of(&format!("upload:{upload}")), Ok(Source::Farm(Input::Upload { upload })));
        for text in ["", "upload:x", "root:main", "artifact:x/y"] {
            assert!(of(text).unwrap_err().contains("root:NAME/PATH"), "{text}");
        }
    }
}
