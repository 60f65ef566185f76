//! How long each component takes onto the device: from RAM, and from a disk whose pages are not in memory.

use std::{fs::File, sync::Arc, time::Instant};

use model_formats::Inspection;
use residency::Reason;
use rustix::fs::{Advice, fadvise};
use shared::{
    job::{BenchmarkArgs, Keep},
    measure::Summary,
    wire::{BenchmarkResult, LoadMeasure, Series, Skipped},
};

use super::{
    super::{
        cache_remove::{self, Manner},
        model::{self, Wanted, unsigned},
        place,
    },
    alone, is_about_the_case,
};
use crate::{
    context::{Agent, Device},
    device_tier::evict,
    error::WorkError,
    runner::DeviceResident,
    running::Attempt,
};

/// Measures the loads of all components into the result; those of components that have to stay where they are, are left out.
pub(super) async fn measure(
    agent: &Arc<Agent>,
    attempt: &Attempt,
    device: &Device,
    (wanted, args): (&Wanted, &BenchmarkArgs),
    result: &mut BenchmarkResult,
) -> Result<(), WorkError> {
    if args.loads == 0 || args.pipeline_steps.is_some() {
        return Ok(());
    }
    let inspection = model::inspect(agent, attempt, wanted).await?;
    for at in 0..wanted.components.len() {
        let Some(part) = alone(wanted, at) else { continue };
        let loads = Loads { agent, attempt, device, part, inspection: &inspection, count: args.loads };
        match loads.all(args.cold).await {
            Ok(measured) => result.loads.push(measured),
            Err(error) if is_about_the_case(&error) => {
                let what = format!("load ({})", loads.kind());
                result.skipped.push(Skipped { what, reason: shared::error::chain(&error) });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Loads<'a> {
    agent: &'a Arc<Agent>,
    attempt: &'a Attempt,
    device: &'a Device,
    /// The model with this component alone.
    part: Wanted,
    inspection: &'a Inspection,
    count: u32,
}

impl Loads<'_> {
    fn kind(&self) -> &str {
        self.part.components.first().map_or("", |row| &row.kind)
    }

    async fn all(&self, cold: bool) -> Result<LoadMeasure, WorkError> {
        let was_there = !self.copies().is_empty();
        let measured = self.both(cold).await;
        if measured.is_err() && was_there && self.copies().is_empty() {
            // what was there before is there after; a cancel comes first
            self.timed().await?;
        }
        measured
    }

    async fn both(&self, cold: bool) -> Result<LoadMeasure, WorkError> {
        let cold = if cold { Some(self.series(true).await?) } else { None };
        // the first warm load finds the bytes in RAM, whatever was there before
        self.timed().await?;
        let warm = Some(self.series(false).await?);
        let bytes = self.part.components.first().map_or(0, |row| unsigned(row.bytes));
        Ok(LoadMeasure { component: self.kind().to_owned(), bytes, cold, warm })
    }

    async fn series(&self, cold: bool) -> Result<Series, WorkError> {
        let mut seconds = Vec::new();
        for _ in 0..self.count {
            self.take_off().await?;
            if cold {
                self.out_of_memory().await?;
            }
            seconds.push(self.timed().await?);
        }
        let nothing = || WorkError::System {
            what: "measuring loads".into(),
            source: std::io::Error::other("no load took time that can be told"),
        };
        Ok(Series { summary: Summary::of(&seconds).ok_or_else(nothing)?, seconds })
    }

    /// Seconds of a load, beginning when the headers are known.
    async fn timed(&self) -> Result<f64, WorkError> {
        let begun = Instant::now();
        let what = (&self.part, self.inspection);
        place::ensure(self.agent, self.attempt, self.device, what, Keep::default()).await?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Its copies on the device.
    fn copies(&self) -> Vec<DeviceResident> {
        let mut copies = self.device.resident();
        copies.retain(|copy| {
            let component = self.agent.aliases.now(copy.component);
            self.part.components.iter().any(|row| row.id == component)
        });
        copies
    }

    /// Off the device; refused while somebody uses or protects it, or what is noted of it would be lost.
    async fn take_off(&self) -> Result<(), WorkError> {
        for copy in self.copies() {
            let noted = self.device.tier.noted(&copy);
            let kept = |why| WorkError::Kept { component: self.kind().to_owned(), device: self.device.id.clone(), why };
            if noted.models.iter().any(|model| *model != self.part.model.id) {
                return Err(kept("another model that is loaded there needs it"));
            }
            if noted.expires_in.is_some() {
                return Err(kept("it was loaded for a time, which another load would not know"));
            }
            evict::take(self.agent, self.device, copy.component, self.attempt.why(Reason::Requested), false).await?;
        }
        Ok(())
    }

    /// Out of RAM and out of the page cache.
    async fn out_of_memory(&self) -> Result<(), WorkError> {
        let ids: Vec<_> = self.part.components.iter().map(|row| row.id).collect();
        cache_remove::evict((self.agent, self.attempt), &ids, Manner::default()).await?;
        let paths: Vec<_> = self.inspection.files.iter().map(|file| file.path.clone()).collect();
        let dropped = model::blocking("dropping pages of files", move || {
            paths.iter().try_for_each(|path| {
                let file = File::open(path)?;
                Ok::<_, std::io::Error>(fadvise(&file, 0, None, Advice::DontNeed)?)
            })
        });
        dropped.await?.map_err(|source| WorkError::System { what: "dropping pages of files".into(), source })
    }
}
