//! Pictures to files.

use image::{ExtendedColorType, ImageEncoder, codecs::webp::WebPEncoder};

use super::{ImageError, Picture, exif};

/// A PNG with `texts` as text chunks: `tEXt` where Latin-1 suffices, else `iTXt`, as Pillow writes them.
///
/// # Errors
/// [`ImageError::Encode`], among others for a keyword that a PNG cannot have.
pub fn encode_png(picture: &Picture, texts: &[(&str, &str)]) -> Result<Vec<u8>, ImageError> {
    let failed = |error: png::EncodingError| ImageError::Encode { reason: error.to_string() };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        let (keyword, text) = ((*keyword).to_owned(), (*text).to_owned());
        let latin = text.chars().all(|c| u32::from(c) < 256);
        let added = if latin { encoder.add_text_chunk(keyword, text) } else { encoder.add_itxt_chunk(keyword, text) };
        added.map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&picture.pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// A lossless WebP with `parameters` as an EXIF user comment, where AUTOMATIC1111's web UI writes and looks for them.
///
/// # Errors
/// [`ImageError::Encode`] with the writer's words.
pub fn encode_webp(picture: &Picture, parameters: Option<&str>) -> Result<Vec<u8>, ImageError> {
    let failed = |reason: &dyn std::fmt::Display| ImageError::Encode { reason: reason.to_string() };
    let mut bytes = Vec::new();
    let mut encoder = WebPEncoder::new_lossless(&mut bytes);
    if let Some(parameters) = parameters {
        let exif = exif::user_comment(parameters).ok_or_else(|| failed(&"the parameters are too long"))?;
        encoder.set_exif_metadata(exif).map_err(|error| failed(&error))?;
    }
    let (width, height) = (picture.width, picture.height);
    encoder.write_image(&picture.pixels, width, height, ExtendedColorType::Rgb8).map_err(|error| failed(&error))?;
    Ok(bytes)
}
