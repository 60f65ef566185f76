//! Which slices and tiles an image is cut into: as the settings say, and finer where the estimate does not fit.

use super::{
    geometry::Architecture,
    settings::{Tiling, VaeSettings},
    tiling::Joining,
};
use crate::error::EngineError;

/// Smallest side of a tile in latents: below it seams cover the picture.
const SMALLEST_TILE: usize = 16;

/// How a run is cut, and what memory it is expected to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// One image at a time.
    pub slicing: bool,
    /// Tiles, where the image is larger than one.
    pub tiling: Option<Tiling>,
    /// Tiles of one slice.
    pub tiles: usize,
    /// Cut finer than the settings ask, because the estimate did not fit.
    pub automatic: bool,
    /// Estimated bytes of a run, beside the weights.
    pub estimated_bytes: u64,
}

/// Plans a run over an input of this size: latents when it decodes, pixels when it encodes.
pub(super) fn plan(
    settings: &VaeSettings,
    architecture: &Architecture,
    (batch, height, width): (usize, usize, usize),
    bytes: &dyn Fn(usize, (usize, usize)) -> u64,
    bound_bytes: Option<u64>,
    decodes: bool,
) -> Result<Plan, EngineError> {
    let fits = |plan: &Plan| bound_bytes.is_none_or(|bound| plan.estimated_bytes <= bound);
    let with = |slicing: bool, tiling: Option<Tiling>, automatic: bool| {
        let slice = if slicing { 1 } else { batch };
        let cut = tiling.map(|tiling| architecture.cut(tiling, decodes));
        // a tiny autoencoder tiles whatever its size, the other one only what is larger than a tile
        let cut = cut.filter(|cut| cut.joining == Joining::Masked || height > cut.input || width > cut.input);
        let (tiles, side) = match &cut {
            Some(cut) => {
                (cut.count(height).saturating_mul(cut.count(width)), (height.min(cut.input), width.min(cut.input)))
            }
            None => (1, (height, width)),
        };
        let estimated_bytes = bytes(slice, side);
        Plan {
            slicing: slicing && batch > 1,
            tiling: tiling.filter(|_| cut.is_some()),
            tiles,
            automatic,
            estimated_bytes,
        }
    };
    if let Some(tiling) = settings.tiling {
        check(tiling, architecture)?;
    }
    let asked = with(settings.slicing, settings.tiling, false);
    if fits(&asked) {
        return Ok(asked);
    }
    let sliced = with(true, settings.tiling, true);
    if fits(&sliced) {
        return Ok(sliced);
    }
    let smallest = SMALLEST_TILE.saturating_mul(architecture.scale());
    let mut tiling = settings.tiling.unwrap_or(architecture.default_tiling());
    loop {
        let tiled = with(true, Some(tiling), true);
        if fits(&tiled) {
            return Ok(tiled);
        }
        let half = tiling.size / 2;
        if half < smallest {
            let (needed_bytes, available_bytes) = (tiled.estimated_bytes, bound_bytes.unwrap_or(0));
            return Err(EngineError::OutOfMemory { needed_bytes, available_bytes });
        }
        tiling.size = half.next_multiple_of(architecture.scale());
    }
}

/// A tile has whole latents, and less overlap than itself.
fn check(tiling: Tiling, architecture: &Architecture) -> Result<(), EngineError> {
    let scale = architecture.scale();
    let wrong = |field: &str, found: String, expected: String| EngineError::Config {
        architecture: architecture.name(),
        field: field.to_owned(),
        found,
        expected,
    };
    if tiling.size < scale {
        return Err(wrong("tiling.size", tiling.size.to_string(), format!("at least {scale} pixels")));
    }
    let latents = (tiling.size / scale) as f32;
    if !(0.0..1.0).contains(&tiling.overlap) || latents * (1.0 - tiling.overlap) < 1.0 {
        return Err(wrong(
            "tiling.overlap",
            tiling.overlap.to_string(),
            "0 to below 1, leaving a latent at least".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::vae;

    fn architecture() -> Architecture {
        let config = serde_json::json!({
            "block_out_channels": [32, 64, 64, 64], "layers_per_block": 1, "sample_size": 512,
            "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
        });
        Architecture::Kl(vae::Config::from_json(&config).unwrap())
    }

    fn planned(settings: VaeSettings, bound: Option<u64>) -> Result<Plan, EngineError> {
        let bytes = |batch: usize, (height, width): (usize, usize)| (batch * height * width) as u64;
        plan(&settings, &architecture(), (2, 100, 64), &bytes, bound, true)
    }

    #[test]
    fn memory_decides_how_finely_an_image_is_cut() {
        let whole = planned(VaeSettings::default(), None).unwrap();
        assert_eq!((whole.slicing, whole.tiling, whole.tiles, whole.automatic), (false, None, 1, false));
        assert_eq!(whole.estimated_bytes, 2 * 100 * 64);
        let sliced = planned(VaeSettings::default(), Some(7_000)).unwrap();
        assert_eq!((sliced.slicing, sliced.tiling, sliced.automatic), (true, None, true));
        let tiled = planned(VaeSettings::default(), Some(5_000)).unwrap();
        assert_eq!(tiled.tiling, Some(Tiling { size: 512, overlap: 0.25 }));
        // 64 latents a tile, every 48 of them one begins
        assert_eq!((tiled.tiles, tiled.estimated_bytes), (3 * 2, 64 * 64));
        let finer = planned(VaeSettings::default(), Some(1_024)).unwrap();
        assert_eq!(finer.tiling.map(|tiling| tiling.size), Some(256));
        assert!(matches!(planned(VaeSettings::default(), Some(100)), Err(EngineError::OutOfMemory { .. })));
    }

    #[test]
    fn tiles_that_leave_nothing_are_refused() {
        for (size, overlap) in [(4, 0.25), (64, 1.0), (64, -0.1), (64, 0.99), (64, f32::NAN)] {
            let settings = VaeSettings { tiling: Some(Tiling { size, overlap }), ..VaeSettings::default() };
            assert!(matches!(planned(settings, None), Err(EngineError::Config { .. })), "{size} {overlap}");
        }
    }
}
