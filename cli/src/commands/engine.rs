//! What the commands that run models have in common: where the work goes, how a VAE runs, the form of images.

use std::{path::Path, str::FromStr};

use clap::Args;
use shared::{
    job::{
        Target,
        engine::{ImageFormat, Tiles, Tiling, TilingMode, VaeSettings},
    },
    wire::Placing,
};

use crate::args::finite;

/// Where and how soon.
#[derive(Debug, Args)]
pub(super) struct PlacingArgs {
    /// `any`, `host:NAME` or `device:HOST/DEVICE`.
    #[arg(long, group = "place", default_value = "any", hide_default_value = true)]
    target: Target,

    /// This device, e.g. `gpu-07/cuda:1`.
    #[arg(long, group = "place", value_name = "HOST/DEVICE")]
    device: Option<String>,

    /// This host.
    #[arg(long, group = "place", value_name = "NAME")]
    host: Option<String>,

    /// Higher goes first.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    /// Only where this label is; may be given several times.
    #[arg(long = "label")]
    labels: Vec<String>,
}

impl PlacingArgs {
    /// As a request says it.
    pub(super) fn placing(self) -> Placing {
        let named = self.device.map(Target::Device).or(self.host.map(Target::Host));
        Placing { target: named.unwrap_or(self.target), priority: self.priority, labels: self.labels }
    }
}

/// How a VAE runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "How the VAE runs; as the model says when absent")]
pub(super) struct SettingsArgs {
    /// One image of a batch after the other.
    #[arg(long)]
    slicing: bool,

    /// `auto`, `off`, or the side of a tile in pixels with the part that neighbours share: `512` or `512,0.25`.
    #[arg(long, value_name = "TILES")]
    tiling: Option<TilingArg>,

    /// Compute in float32 whatever the weights are stored in.
    #[arg(long)]
    upcast: bool,

    /// Factor between the VAE's latents and the UNet's.
    #[arg(long, value_name = "FACTOR", value_parser = finite)]
    scaling_factor: Option<f64>,

    /// Offset between the VAE's latents and the UNet's.
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true, value_parser = finite)]
    shift_factor: Option<f64>,
}

impl SettingsArgs {
    /// As a request says it.
    pub(super) fn settings(&self) -> VaeSettings {
        VaeSettings {
            slicing: self.slicing.then_some(true),
            tiling: self.tiling.map(|tiling| tiling.0),
            upcast: self.upcast.then_some(true),
            scaling_factor: self.scaling_factor,
            shift_factor: self.shift_factor,
        }
    }
}

/// Tiling as people write it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct TilingArg(Tiling);

impl FromStr for TilingArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no tiling: write `auto`, `off`, `512` or `512,0.25`");
        let tiling = match text {
            "auto" => Tiling::Mode(TilingMode::Auto),
            "off" => Tiling::Mode(TilingMode::Off),
            tiles => {
                let (size, overlap) = tiles.split_once(',').unwrap_or((tiles, "0.25"));
                let size = size.trim().parse().map_err(|_| bad())?;
                Tiling::Tiles(Tiles { size, overlap: overlap.trim().parse().map_err(|_| bad())? })
            }
        };
        Ok(Self(tiling))
    }
}

/// The form of images that a file's ending asks for.
pub(super) fn format_of(to: Option<&Path>) -> ImageFormat {
    let ending = to.and_then(Path::extension).and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    ending.and_then(|ending| ending.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiling_is_written_in_a_word_or_as_tiles() {
        let of = |text: &str| text.parse::<TilingArg>().map(|tiling| tiling.0);
        assert_eq!(of("off"), Ok(Tiling::Mode(TilingMode::Off)));
        assert_eq!(of("512"), Ok(Tiling::Tiles(Tiles { size: 512, overlap: 0.25 })));
        assert_eq!(of("768, 0.5"), Ok(Tiling::Tiles(Tiles { size: 768, overlap: 0.5 })));
        assert!(of("sometimes").unwrap_err().contains("`512,0.25`"));
    }

    #[test]
    fn endings_say_the_form() {
        assert_eq!(format_of(Some(Path::new("a.WebP"))), ImageFormat::Webp);
        assert_eq!(format_of(Some(Path::new("a.jpg"))), ImageFormat::Png);
        assert_eq!(format_of(None), ImageFormat::Png);
    }
}
