//! Files to pictures, within limits.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::{ImageError, Picture};

/// What a file may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of the file.
    pub max_bytes: usize,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Pixels in all.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_side: 8192, max_pixels: 8192 * 4096 }
    }
}

/// The picture in a PNG, JPEG or WebP; turned as its EXIF orientation says, without its transparency (as Pillow's `convert("RGB")`).
///
/// The format is judged by the bytes, the size by the header, before memory is taken for pixels.
///
/// # Errors
/// [`ImageError`]: unknown format, damage, or beyond `limits`.
pub fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Picture, ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| malformed(&error))?;
    if reader.format().is_none() {
        return Err(ImageError::UnknownFormat);
    }
    let mut allowed = Limits::default();
    // 16-bit RGBA and as much again for a decoder's own buffers
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    let ImageLimits { max_side, max_pixels, .. } = limits;
    if width.max(height) > max_side || u64::from(width) * u64::from(height) > max_pixels {
        return Err(ImageError::TooLarge { width, height, max_pixels, max_side });
    }
    let orientation = decoder.orientation().map_err(|error| malformed(&error))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| malformed(&error))?;
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    Picture::new(image.width(), image.height(), image.into_raw())
}

/// The text chunks of a PNG: keyword and text.
///
/// # Errors
/// [`ImageError::Malformed`] when it is no PNG or its chunks are damaged.
pub fn png_texts(bytes: &[u8]) -> Result<Vec<(String, String)>, ImageError> {
    let decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: 1 << 20 });
    let reader = decoder.read_info().map_err(|error| malformed(&error))?;
    let info = reader.info();
    let mut texts: Vec<(String, String)> =
        info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone())).collect();
    for chunk in &info.utf8_text {
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(|error| malformed(&error))?));
    }
    Ok(texts)
}

fn malformed(error: &dyn std::fmt::Display) -> ImageError {
    ImageError::Malformed { reason: error.to_string() }
}

/// A format that is known but not read here (GIF, TIFF, …) is no damage.
fn refused(error: image::ImageError) -> ImageError {
    match error {
        image::ImageError::Unsupported(_) => ImageError::UnknownFormat,
        error => malformed(&error),
    }
}
