//! Round trips, parameters, limits, damage.

use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder};
use proptest::prelude::*;

use super::*;

fn picture(width: u32, height: u32) -> Picture {
    let pixels = (0..width * height * 3).map(|at| (at * 37 % 251) as u8).collect();
    Picture::new(width, height, pixels).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let one = picture(7, 5);
    for format in [ImageFormat::Png, ImageFormat::Webp] {
        let bytes = one.encode(format, Some("a cat, Steps: 20")).unwrap();
        assert_eq!(decode(&bytes, ImageLimits::default()).unwrap(), one, "{format:?}");
    }
}

#[test]
fn samples_are_planes_between_minus_one_and_one() {
    let sample = [-1.0, 0.0, 1.0, 2.0, f32::NAN, -0.2];
    let pictures = Picture::from_sample(&[1, 3, 1, 2], &sample).unwrap();
    // 127.5 goes to the even neighbour, as numpy has it
    assert_eq!(pictures[0].pixels(), [0, 255, 0, 128, 255, 102]);
    let back = pictures[0].to_sample();
    assert_eq!((back[0], back[2], back[3]), (-1.0, 1.0, 1.0));
    let two = Picture::from_sample(&[2, 3, 1, 1], &[-1.0, 0.0, 1.0, 1.0, 1.0, -1.0]).unwrap();
    assert_eq!((two[0].pixels(), two[1].pixels()), (&[0, 128, 255][..], &[255, 255, 0][..]));
    for shape in [&[1, 4, 1, 2][..], &[3, 1, 2], &[1, 3, 0, 2], &[1, 3, 1, 3], &[usize::MAX, 3, 16384, 16384]] {
        assert!(matches!(Picture::from_sample(shape, &sample), Err(ImageError::Shape { .. })), "{shape:?}");
    }
}

#[test]
fn parameters_travel_with_the_picture() {
    for text in ["a cat\nNegative prompt: blurry\nSteps: 20, Seed: 1", "кот, 猫, é"] {
        let bytes = encode_png(&picture(2, 2), &[("parameters", text)]).unwrap();
        assert_eq!(png_texts(&bytes).unwrap(), [("parameters".to_owned(), text.to_owned())]);
    }
    let webp = encode_webp(&picture(2, 2), Some("猫")).unwrap();
    let comment = [b"UNICODE\0".as_slice(), &[0x73, 0x2b]].concat();
    assert!(webp.windows(comment.len()).any(|window| window == comment));
    assert!(matches!(encode_png(&picture(2, 2), &[("", "x")]), Err(ImageError::Encode { .. })));
}

#[test]
fn a_jpeg_is_read_near_enough() {
    let grey = Picture::new(16, 16, vec![90; 16 * 16 * 3]).unwrap();
    let mut bytes = Vec::new();
    JpegEncoder::new(&mut bytes).write_image(grey.pixels(), 16, 16, ExtendedColorType::Rgb8).unwrap();
    let read = decode(&bytes, ImageLimits::default()).unwrap();
    assert!(read.pixels().iter().all(|byte| byte.abs_diff(90) <= 2));
}

#[test]
fn bombs_and_damage_are_refused_with_their_facts() {
    let bytes = encode_png(&picture(64, 64), &[]).unwrap();
    let small = ImageLimits { max_side: 63, ..ImageLimits::default() };
    assert!(matches!(decode(&bytes, small), Err(ImageError::TooLarge { width: 64, height: 64, .. })));
    let few = ImageLimits { max_pixels: 4095, ..ImageLimits::default() };
    assert!(matches!(decode(&bytes, few), Err(ImageError::TooLarge { .. })));
    let short = ImageLimits { max_bytes: 10, ..ImageLimits::default() };
    assert!(matches!(decode(&bytes, short), Err(ImageError::TooManyBytes { limit: 10, .. })));
    // a header that claims four gigapixels over a few bytes
    let mut bomb = bytes.clone();
    bomb[16..20].copy_from_slice(&65_535u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&65_535u32.to_be_bytes());
    assert!(matches!(
        decode(&bomb, ImageLimits::default()),
        Err(ImageError::Malformed { .. } | ImageError::TooLarge { .. })
    ));
    assert!(matches!(decode(&bytes[..bytes.len() / 2], ImageLimits::default()), Err(ImageError::Malformed { .. })));
    assert!(matches!(decode(b"hello", ImageLimits::default()), Err(ImageError::UnknownFormat)));
    assert!(matches!(decode(b"GIF89a\x01\0\x01\0\0\0\0;", ImageLimits::default()), Err(ImageError::UnknownFormat)));
    assert!(matches!(png_texts(b"hello"), Err(ImageError::Malformed { .. })));
}

proptest! {
    #[test]
    fn any_picture_survives_the_way_through_a_sample(width in 1u32..9, height in 1u32..9, seed in any::<u8>()) {
        let pixels = (0..width * height * 3).map(|at| (at as u8).wrapping_mul(seed | 1)).collect();
        let one = Picture::new(width, height, pixels).unwrap();
        let shape = [1, 3, height as usize, width as usize];
        prop_assert_eq!(Picture::from_sample(&shape, &one.to_sample()).unwrap(), vec![one]);
    }

    #[test]
    fn no_bytes_break_the_reader(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
        let start: [&[u8]; 4] = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x40\0\0\0WEBPVP8L", b""];
        let mut file = start[kind].to_vec();
        file.append(&mut bytes);
        let _ = decode(&file, ImageLimits::default());
    }
}
