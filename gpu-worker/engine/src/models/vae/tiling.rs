//! Tiles with overlap, cut and joined exactly as diffusers does for each kind of autoencoder.

use super::images::Planes;
use crate::error::EngineError;

/// How neighbours are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joining {
    /// AutoencoderKL: the edge of a finished neighbour fades into the tile; what lies beyond the next tile's beginning
    /// is cut off.
    Blended,
    /// AutoencoderTiny: a tile is laid over what is there through a mask that grows from its upper and left edge.
    Masked,
}

/// A cut into tiles, with sizes in the input and in the output of the graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    /// Side of a tile in the input.
    pub(super) input: usize,
    /// Distance between the beginnings of two tiles in the input.
    stride: usize,
    /// Side of a tile's shared edge in the output.
    blend: usize,
    /// What is kept of a tile in the output.
    kept: usize,
    pub(super) joining: Joining,
    /// Output per input along a side, and whether it grows.
    scale: (usize, bool),
}

impl Cut {
    /// A cut into tiles of `latent` latents a side, `scale` pixels each, for a decoder (which takes latents) or an encoder.
    ///
    /// Everything is counted in latents: where an overlap is no whole number of them, diffusers' sizes in latents and in
    /// pixels disagree and shift the picture; these do not.
    pub(super) fn new(latent: usize, scale: usize, overlap: f32, joining: Joining, decodes: bool) -> Self {
        let part = |factor: f64| (latent as f64 * factor) as usize;
        let overlap = f64::from(overlap);
        let stride = match joining {
            Joining::Blended => part(1.0 - overlap),
            Joining::Masked => latent.saturating_sub(part(overlap)),
        };
        let stride = stride.clamp(1, latent.max(1));
        let (input, output) = if decodes { (1, scale) } else { (scale, 1) };
        Self {
            input: latent * input,
            stride: stride * input,
            blend: (latent - stride) * output,
            kept: stride * output,
            joining,
            scale: (scale, decodes),
        }
    }

    /// Tiles along a side.
    pub(super) fn count(&self, side: usize) -> usize {
        side.div_ceil(self.stride)
    }

    fn starts(&self, side: usize) -> impl Iterator<Item = usize> + use<> {
        (0..side).step_by(self.stride)
    }

    fn scaled(&self, side: usize) -> usize {
        let (factor, grows) = self.scale;
        if grows { side.saturating_mul(factor) } else { side / factor.max(1) }
    }
}

/// Runs every tile through `run` and joins the results.
pub(super) fn tiled(
    whole: &Planes,
    cut: &Cut,
    run: &mut dyn FnMut(Planes) -> Result<Planes, EngineError>,
) -> Result<Planes, EngineError> {
    match cut.joining {
        Joining::Blended => blended(whole, cut, run),
        Joining::Masked => masked(whole, cut, run),
    }
}

fn blended(
    whole: &Planes,
    cut: &Cut,
    run: &mut dyn FnMut(Planes) -> Result<Planes, EngineError>,
) -> Result<Planes, EngineError> {
    let mut above: Vec<Planes> = Vec::new();
    let mut canvas: Option<Planes> = None;
    for (row, top) in cut.starts(whole.height).enumerate() {
        let mut tiles: Vec<Planes> = Vec::new();
        for (column, left) in cut.starts(whole.width).enumerate() {
            let mut tile = run(whole.crop((top, left), (cut.input, cut.input)))?;
            if let Some(neighbour) = above.get(column) {
                blend_down(neighbour, &mut tile, cut.blend);
            }
            if let Some(neighbour) = tiles.last() {
                blend_right(neighbour, &mut tile, cut.blend);
            }
            let canvas = canvas.get_or_insert_with(|| {
                Planes::zeros(tile.batch, tile.channels, cut.scaled(whole.height), cut.scaled(whole.width))
            });
            lay(canvas, &tile.crop((0, 0), (cut.kept, cut.kept)), (row * cut.kept, column * cut.kept));
            tiles.push(tile);
        }
        above = tiles;
    }
    canvas.ok_or_else(empty)
}

/// The lower edge of `above` fades into the upper edge of `tile`.
fn blend_down(above: &Planes, tile: &mut Planes, extent: usize) {
    let extent = extent.min(above.height).min(tile.height);
    let (height, width) = (tile.height.max(1), tile.width.max(1));
    for (at, row) in tile.data.chunks_mut(width).enumerate() {
        let (plane, y) = (at / height, at % height);
        if y < extent {
            let weight = y as f32 / extent as f32;
            for (value, other) in row.iter_mut().zip(above.row(plane, above.height - extent + y)) {
                *value = other * (1.0 - weight) + *value * weight;
            }
        }
    }
}

/// The right edge of `left` fades into the left edge of `tile`.
fn blend_right(left: &Planes, tile: &mut Planes, extent: usize) {
    let extent = extent.min(left.width).min(tile.width);
    let (height, width) = (tile.height.max(1), tile.width.max(1));
    for (at, row) in tile.data.chunks_mut(width).enumerate() {
        let other = left.row(at / height, at % height);
        let edge = other.get(other.len().saturating_sub(extent)..).unwrap_or_default();
        for (x, (value, other)) in row.iter_mut().zip(edge).enumerate() {
            let weight = x as f32 / extent as f32;
            *value = other * (1.0 - weight) + *value * weight;
        }
    }
}

/// Puts a tile where it belongs, as far as the canvas goes.
fn lay(canvas: &mut Planes, tile: &Planes, (top, left): (usize, usize)) {
    let (height, width) = (canvas.height.max(1), canvas.width.max(1));
    for (at, row) in canvas.data.chunks_mut(width).enumerate() {
        let (plane, y) = (at / height, at % height);
        if (top..top + tile.height).contains(&y) {
            let target = row.get_mut(left..).unwrap_or_default();
            for (value, new) in target.iter_mut().zip(tile.row(plane, y - top)) {
                *value = *new;
            }
        }
    }
}

fn masked(
    whole: &Planes,
    cut: &Cut,
    run: &mut dyn FnMut(Planes) -> Result<Planes, EngineError>,
) -> Result<Planes, EngineError> {
    let mut canvas: Option<Planes> = None;
    for top in cut.starts(whole.height) {
        for left in cut.starts(whole.width) {
            let tile = run(whole.crop((top, left), (cut.input, cut.input)))?;
            let canvas = canvas.get_or_insert_with(|| {
                Planes::zeros(tile.batch, tile.channels, cut.scaled(whole.height), cut.scaled(whole.width))
            });
            let weight = |at: usize, begin: usize| {
                // the first tile of a row or column has nothing to fade into, and an edge of one value no room to
                if begin == 0 || cut.blend < 2 { 1.0 } else { (at as f32 / (cut.blend as f32 - 1.0)).clamp(0.0, 1.0) }
            };
            let (y0, x0) = (cut.scaled(top), cut.scaled(left));
            let (height, width) = (canvas.height.max(1), canvas.width.max(1));
            for (at, row) in canvas.data.chunks_mut(width).enumerate() {
                let (plane, y) = (at / height, at % height);
                if !(y0..y0 + tile.height).contains(&y) {
                    continue;
                }
                let target = row.get_mut(x0..).unwrap_or_default();
                for (x, (value, new)) in target.iter_mut().zip(tile.row(plane, y - y0)).enumerate() {
                    let mask = weight(y - y0, top) * weight(x, left);
                    *value = mask * new + (1.0 - mask) * *value;
                }
            }
        }
    }
    canvas.ok_or_else(empty)
}

fn empty() -> EngineError {
    EngineError::Input {
        name: "sample".to_owned(),
        found: "nothing to tile".to_owned(),
        expected: "at least one pixel".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a decoder without neighbours would do: every value becomes a square of itself.
    fn grown(planes: &Planes, scale: usize) -> Planes {
        let mut grown = Planes::zeros(planes.batch, planes.channels, planes.height * scale, planes.width * scale);
        let (height, width) = (grown.height, grown.width);
        for (at, row) in grown.data.chunks_mut(width).enumerate() {
            let from = planes.row(at / height, at % height / scale);
            row.iter_mut().enumerate().for_each(|(x, value)| *value = from[x / scale]);
        }
        grown
    }

    fn numbered(height: usize, width: usize) -> Planes {
        let mut planes = Planes::zeros(2, 1, height, width);
        planes.data.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32);
        planes
    }

    proptest! {
        #[test]
        fn tiles_of_a_decoder_without_neighbours_join_to_the_whole(
            (height, width) in (1_usize..40, 1_usize..40),
            latent in 1_usize..20,
            overlap in 0.0_f32..0.9,
            is_masked: bool,
        ) {
            let joining = if is_masked { Joining::Masked } else { Joining::Blended };
            let (whole, scale) = (numbered(height, width), 2);
            let cut = Cut::new(latent, scale, overlap, joining, true);
            let mut runs = 0;
            let joined = tiled(&whole, &cut, &mut |tile| {
                runs += 1;
                Ok(grown(&tile, scale))
            });
            let (joined, expected) = (joined.unwrap(), grown(&whole, scale));
            prop_assert_eq!(runs, cut.count(height) * cut.count(width));
            prop_assert_eq!(joined.shape(), expected.shape());
            for (found, expected) in joined.data.iter().zip(&expected.data) {
                prop_assert!((found - expected).abs() < 0.01, "{found} for {expected}");
            }
        }
    }
}
