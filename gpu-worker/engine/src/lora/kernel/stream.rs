//! Writing what nobody reads soon: past the processor's caches, which would first read what is there only to overwrite it.

/// Copies `from` to `to`, which has the same length; of the shorter one, else.
pub(crate) fn stream(to: &mut [u8], from: &[u8]) {
    let length = to.len().min(from.len());
    let (to, from) = (to.split_at_mut(length).0, from.split_at(length).0);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        // SAFETY: the feature that the function is compiled for was just seen on this processor.
        #[expect(unsafe_code, reason = "a function for other processor features can only be called so")]
        return unsafe { past_caches(to, from) };
    }
    to.copy_from_slice(from);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
fn past_caches(to: &mut [u8], from: &[u8]) {
    use std::arch::x86_64::*;

    /// A line of the processor's caches.
    const LINE: usize = 64;
    let begin = to.as_ptr().align_offset(LINE).min(to.len());
    let ((head, body), (first, rest)) = (to.split_at_mut(begin), from.split_at(begin));
    head.copy_from_slice(first);
    let (mut lines, mut values) = (body.chunks_exact_mut(LINE), rest.chunks_exact(LINE));
    for (line, values) in lines.by_ref().zip(values.by_ref()) {
        let (at, values) = (line.as_mut_ptr().cast::<__m256i>(), values.as_ptr().cast::<__m256i>());
        // SAFETY: both have as many bytes, and those to be written begin a line.
        #[expect(unsafe_code, reason = "vector loads and stores take addresses")]
        unsafe {
            _mm256_stream_si256(at, _mm256_loadu_si256(values));
            _mm256_stream_si256(at.add(1), _mm256_loadu_si256(values.add(1)));
        }
    }
    lines.into_remainder().copy_from_slice(values.remainder());
    // whoever hears that it is done sees it
    _mm_sfence();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_wherever_it_begins_and_none_beside_it() {
        let from: Vec<u8> = (0..4096_usize).map(|at| (at % 251) as u8).collect();
        for begin in [0, 1, 31, 32, 63, 64, 65] {
            for length in [0, 1, 63, 64, 65, 127, 128, 1000, 3000] {
                let mut to = vec![255_u8; 4096];
                stream(&mut to[begin..begin + length], &from[7..7 + length]);
                let untouched = to[..begin].iter().chain(&to[begin + length..]).all(|byte| *byte == 255);
                assert!(untouched && to[begin..begin + length] == from[7..7 + length], "{begin} {length}");
            }
        }
        let mut short = [9; 3];
        stream(&mut short, &from);
        assert_eq!(short, [0, 1, 2]);
    }
}
