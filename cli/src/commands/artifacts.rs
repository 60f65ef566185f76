//! What jobs leave: listing it, and saving it as files.

use std::path::{Path, PathBuf};

use clap::Args;
use shared::{
    bytes::ByteSize,
    error::ErrorCode,
    ids::JobId,
    wire::{ArtifactView, JobView, Page},
};

use super::text::age;
use crate::{args::WaitArgs, client::Client, error::CliError, follow, output::Output};

/// Options of `jobs artifacts`.
#[derive(Debug, Args)]
pub struct ArtifactsArgs {
    /// Id.
    job: JobId,

    /// Get this one.
    #[arg(long, value_name = "NAME")]
    get: Option<String>,

    /// Where to; `-` for standard output, a file of the artifact's name when absent.
    #[arg(short, long, value_name = "FILE", requires = "get")]
    output: Option<PathBuf>,
}

/// Lists artifacts, or gets one.
pub(super) async fn run(args: ArtifactsArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let all = of(client, args.job).await?;
    let Some(name) = &args.get else {
        return output.list(&all, &["NAME", "TYPE", "SIZE", "AGE", "NOTE"], "no artifacts", |artifact| {
            vec![
                artifact.name.clone(),
                artifact.media_type.clone(),
                ByteSize(artifact.bytes).to_string(),
                age(artifact.created_at),
                if artifact.preview { "preview".to_owned() } else { String::new() },
            ]
        });
    };
    let artifact = all.iter().find(|artifact| artifact.name == *name).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|artifact| artifact.name.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        CliError::failed(ErrorCode::NotFound, format!("job {} has no artifact `{name}`; it has {there}", args.job))
    })?;
    match args.output {
        Some(to) if to == Path::new("-") => client.download(args.job, artifact, &mut std::io::stdout()).await,
        to => {
            let to = to.unwrap_or_else(|| PathBuf::from(name));
            save(client, args.job, artifact, &to).await?;
            said(output, artifact, &to);
            Ok(())
        }
    }
}

async fn of(client: &Client, job: JobId) -> Result<Vec<ArtifactView>, CliError> {
    Ok(client.get::<Page<ArtifactView>>(&format!("/v1/jobs/{job}/artifacts"), &[]).await?.items)
}

/// Writes beside the place first, so that what is there is whole.
async fn save(client: &Client, job: JobId, artifact: &ArtifactView, to: &Path) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::failed(ErrorCode::InvalidArgument, format!("cannot write {}: {error}", to.display()))
    };
    let name = to.file_name().ok_or_else(|| CliError::Usage(format!("{} names no file", to.display())))?;
    let beside = to.with_file_name(format!(".{}.{job}.part", name.to_string_lossy()));
    let mut file = std::fs::File::create(&beside).map_err(failed)?;
    let written = match client.download(job, artifact, &mut file).await {
        Ok(()) => std::fs::rename(&beside, to).map_err(failed),
        Err(error) => Err(error),
    };
    if written.is_err() {
        // the error that is told is the one that matters
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn said(output: Output, artifact: &ArtifactView, to: &Path) {
    output.note(format!("saved {} ({})", to.display(), ByteSize(artifact.bytes)));
}

/// Waits for a job that was just accepted and saves what it left to `to`, if that is given.
pub(super) async fn collect(
    client: &Client,
    output: Output,
    job: JobView,
    label: &str,
    (wait, to): (WaitArgs, Option<&Path>),
) -> Result<(), CliError> {
    if wait.no_wait {
        return super::settle(client, output, job, label, wait).await;
    }
    let job = match job.state.is_terminal() {
        true => job,
        false => follow::follow(client, output, &job, label, wait.timeout).await?,
    };
    super::tell(output, &job);
    let left: Vec<ArtifactView> = of(client, job.id).await?.into_iter().filter(|artifact| !artifact.preview).collect();
    let mut files = Vec::new();
    match to {
        Some(to) if to == Path::new("-") => {
            let [only] = left.as_slice() else {
                return Err(CliError::Usage(format!(
                    "{} artifacts do not fit standard output; name a file",
                    left.len()
                )));
            };
            return client.download(job.id, only, &mut std::io::stdout()).await;
        }
        Some(to) => {
            let names: Vec<&str> = left.iter().map(|artifact| artifact.name.as_str()).collect();
            for (artifact, file) in left.iter().zip(destinations(to, &names)) {
                save(client, job.id, artifact, &file).await?;
                said(output, artifact, &file);
                files.push(file);
            }
        }
        None => left.iter().for_each(|artifact| {
            let size = ByteSize(artifact.bytes);
            output.note(format!("left {} ({size}): modelyard jobs artifacts {} --get {0}", artifact.name, job.id));
        }),
    }
    if output.json {
        let mut shown = serde_json::to_value(&job)?;
        shown["files"] = serde_json::to_value(&files)?;
        return output.value(&shown);
    }
    if to.is_none() { output.line(job.id) } else { files.iter().try_for_each(|file| output.line(file.display())) }
}

/// Where each artifact goes: a single one to the file itself; several images get their number, others their name, before the
/// ending.
fn destinations(to: &Path, names: &[&str]) -> Vec<PathBuf> {
    let stem = to.file_stem().unwrap_or_default().to_string_lossy();
    let images = names.iter().filter(|name| name.starts_with("image-")).count();
    let place = |name: &&str| match name.strip_prefix("image-").and_then(|rest| rest.split_once('.')) {
        Some(_) if images == 1 => to.to_path_buf(),
        Some((number, ending)) => to.with_file_name(format!("{stem}-{number}.{ending}")),
        None if names.len() == 1 => to.to_path_buf(),
        None => to.with_file_name(format!("{stem}-{name}")),
    };
    names.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_the_file_and_several_are_beside_it() {
        let of = |names: &[&str]| {
            let files = destinations(Path::new("out/cat.png"), names);
            files.into_iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(&["image-0.png"]), ["out/cat.png"]);
        assert_eq!(of(&["latents.safetensors"]), ["out/cat.png"]);
        assert_eq!(of(&["image-0.png", "image-1.png"]), ["out/cat-0.png", "out/cat-1.png"]);
        assert_eq!(of(&["image-0.png", "latents.safetensors"]), ["out/cat.png", "out/cat-latents.safetensors"]);
        assert!(of(&[]).is_empty());
    }
}
