//! Counts what a run will leave before it begins: hours of work for what cannot be kept are nobody's.

use shared::{
    bytes::ByteSize,
    error::{ErrorBody, ErrorCode},
};

use crate::runner::engine_thread::RunFailure;

/// Refuses when floats of these shapes, each so many times, have more bytes than a job's artifacts may. Pictures are not counted:
/// nobody knows before how small they become.
pub(super) fn must_be_kept(floats: &[([usize; 4], usize)], limit_bytes: u64) -> Result<(), RunFailure> {
    let bytes = floats.iter().fold(0u64, |sum, (shape, count)| sum.saturating_add(bytes(shape, *count)));
    if bytes <= limit_bytes {
        return Ok(());
    }
    let message = format!(
        "the job's artifacts would have {} ({bytes} bytes) at least, more than the {} of --artifact-limit of the host's agent",
        ByteSize(bytes),
        ByteSize(limit_bytes)
    );
    let hint = Some(
        "ask for pictures, not for floats; for fewer or smaller images; not for the latents of every step".to_owned(),
    );
    Err(RunFailure::Work(ErrorBody { hint, ..ErrorBody::new(ErrorCode::InvalidArgument, message) }))
}

fn bytes(shape: &[usize; 4], count: usize) -> u64 {
    shape.iter().chain([&count]).fold(size_of::<f32>() as u64, |bytes, side| bytes.saturating_mul(*side as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_counted_before_and_never_overflows() {
        let latents = [1, 4, 64, 64];
        assert!(must_be_kept(&[(latents, 2), ([1, 3, 2, 2], 1)], 2 * 65_536 + 48).is_ok());
        let Err(RunFailure::Work(error)) = must_be_kept(&[(latents, 2)], 2 * 65_536 - 1) else { panic!("it is kept") };
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.message.contains("131072") && error.hint.is_some(), "{error:?}");
        assert!(must_be_kept(&[([usize::MAX; 4], usize::MAX)], u64::MAX - 1).is_err());
        assert!(must_be_kept(&[(latents, 0)], 0).is_ok());
    }
}
