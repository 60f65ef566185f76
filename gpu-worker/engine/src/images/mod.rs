//! Pictures: RGB of 8 bits between a file's bytes and a model's sample in [-1, 1].
//!
//! PNG and WebP (lossless) out, with the parameters that made them; PNG, JPEG and WebP in, within limits that a decompression bomb does
//! not pass. Rounding and range are those of diffusers' `VaeImageProcessor`.

mod decode;
mod encode;
mod exif;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use shared::error::{Classify, ErrorCode};
use thiserror::Error;

pub use self::{
    decode::{ImageLimits, decode, png_texts},
    encode::{encode_png, encode_webp},
};

/// Formats that pictures are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// PNG with its parameters as text chunks.
    #[default]
    Png,
    /// Lossless WebP with its parameters as an EXIF comment.
    Webp,
}

/// What can be wrong with a picture.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Bytes of none of the formats that are read.
    #[error("the image is none of PNG, JPEG, WebP")]
    UnknownFormat,
    /// A file that is damaged.
    #[error("the image is damaged: {reason}")]
    Malformed {
        /// What the reader said.
        reason: String,
    },
    /// More pixels than may be decoded.
    #[error("the image has {width}×{height} pixels; at most {max_pixels} and {max_side} a side are taken")]
    TooLarge {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Most pixels.
        max_pixels: u64,
        /// Longest side.
        max_side: u32,
    },
    /// More bytes than may be read.
    #[error("the image file has {bytes} bytes; at most {limit} are read")]
    TooManyBytes {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A sample that is no batch of RGB pictures.
    #[error(
        "{values} values of shape {shape:?} are no pictures: [count, 3, height, width] is needed, no side above 16384"
    )]
    Shape {
        /// Its shape.
        shape: Vec<usize>,
        /// Its length.
        values: usize,
    },
    /// A picture that could not be written.
    #[error("the image cannot be written: {reason}")]
    Encode {
        /// What the writer said.
        reason: String,
    },
}

impl Classify for ImageError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownFormat => ErrorCode::Unsupported,
            Self::Malformed { .. } => ErrorCode::Corrupt,
            Self::TooLarge { .. } | Self::TooManyBytes { .. } | Self::Shape { .. } => ErrorCode::InvalidArgument,
            Self::Encode { .. } => ErrorCode::Internal,
        }
    }
}

/// Longest side that is written.
pub(crate) const SIDE_LIMIT: usize = 16_384;

/// A picture: rows of RGB, 8 bits each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of `pixels`, three bytes each.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when there are not `width * height * 3` of them, or none.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, ImageError> {
        let wrong = || ImageError::Shape { shape: vec![1, 3, height as usize, width as usize], values: pixels.len() };
        let sides = 1..=SIDE_LIMIT;
        let (columns, rows) = (width as usize, height as usize);
        if !sides.contains(&columns) || !sides.contains(&rows) || columns * rows * 3 != pixels.len() {
            return Err(wrong());
        }
        Ok(Self { width, height, pixels })
    }

    /// The pictures of a sample `[count, 3, height, width]` in [-1, 1]; values outside are clipped.
    ///
    /// # Errors
    /// [`ImageError::Shape`] for any other shape.
    pub fn from_sample(shape: &[usize], sample: &[f32]) -> Result<Vec<Self>, ImageError> {
        let wrong = || ImageError::Shape { shape: shape.to_vec(), values: sample.len() };
        let &[count, 3, rows, columns] = shape else { return Err(wrong()) };
        let sides = 1..=SIDE_LIMIT;
        let area = rows
            .checked_mul(columns)
            .filter(|_| sides.contains(&rows) && sides.contains(&columns))
            .ok_or_else(wrong)?;
        if count.checked_mul(area * 3) != Some(sample.len()) {
            return Err(wrong());
        }
        let pictures = sample.chunks_exact(area * 3).map(|planes| {
            let (red, rest) = planes.split_at(area);
            let (green, blue) = rest.split_at(area);
            let pixels =
                red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [byte(*r), byte(*g), byte(*b)]).collect();
            // both sides are below the limit, which fits
            Self { width: columns as u32, height: rows as u32, pixels }
        });
        Ok(pictures.collect())
    }

    /// The picture as a sample `[1, 3, height, width]` in [-1, 1].
    #[must_use]
    pub fn to_sample(&self) -> Vec<f32> {
        let plane = |channel: usize| {
            self.pixels.iter().skip(channel).step_by(3).map(|byte| 2.0 * (f32::from(*byte) / 255.0) - 1.0)
        };
        plane(0).chain(plane(1)).chain(plane(2)).collect()
    }

    /// Pixels in a row.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Red, green and blue of each pixel, row by row.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The picture as a file of `format`, with `parameters` in it.
    ///
    /// # Errors
    /// [`ImageError::Encode`] with the writer's words.
    pub fn encode(&self, format: ImageFormat, parameters: Option<&str>) -> Result<Vec<u8>, ImageError> {
        match format {
            ImageFormat::Png => encode_png(self, parameters.map(|text| ("parameters", text)).as_slice()),
            ImageFormat::Webp => encode_webp(self, parameters),
        }
    }
}

/// From [-1, 1] to 0..=255, as numpy rounds; what is no number is 0.
fn byte(value: f32) -> u8 {
    ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}
