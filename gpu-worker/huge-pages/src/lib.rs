//! Huge pages under memory files, as both tiers of memory ask for them: the mechanism, and how many at a time.
//!
//! A memory file of gigabytes is half a million pages of 4 KiB: making them takes longer than copying into them. The
//! kernel's setting for memory files is `never` nearly everywhere and the administrator's; a process may still ask for
//! single huge pages ([`Steps::collapse`]).

mod aligned;
mod steps;
mod window;

pub use aligned::{Access, Aligned};
pub use steps::{Asked, Steps, processor_time};
pub use window::Window;

/// Bytes of a huge page.
pub const HUGE: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use std::{fs::File, io::ErrorKind, os::unix::fs::FileExt};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn what_is_in_a_collapsed_range_stays_and_the_rest_is_zero() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, 3 * HUGE).unwrap();
        file.write_at(b"weights", HUGE + 4000).unwrap();
        let window = Window::open(&file, 3 * HUGE).unwrap();
        // a kernel before 6.1, or one whose memory is in pieces, says no; then nothing has changed
        let asked = window.collapse(HUGE, HUGE);
        drop(window);
        let mut bytes = vec![1; 2 << 20];
        file.read_exact_at(&mut bytes, HUGE).unwrap();
        assert!(
            bytes[4000..].starts_with(b"weights") && bytes.iter().filter(|byte| **byte != 0).count() == 7,
            "{asked:?}"
        );
    }

    #[test]
    fn ranges_beyond_the_window_or_off_its_grid_are_refused() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, HUGE).unwrap();
        let window = Window::open(&file, HUGE).unwrap();
        for (offset, len) in [(1, HUGE), (HUGE, HUGE), (0, 2 * HUGE), (0, 1), (u64::MAX, HUGE), (HUGE, u64::MAX)] {
            assert_eq!(window.collapse(offset, len).unwrap_err().kind(), ErrorKind::InvalidInput, "{offset} {len}");
        }
    }
}
