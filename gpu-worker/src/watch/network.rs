//! File systems on which other machines write: the kernel here is not told of it, so only walking sees it.

use std::path::Path;

/// Magic numbers of `statfs(2)` with the names that people know. FUSE is one of them: what is behind it may be anywhere.
const NETWORK: [(u32, &str); 14] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x00C3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
    (0x5346_414F, "AFS"),
    (0x7375_7245, "Coda"),
    (0x1983_0326, "BeeGFS"),
];

/// The name of the network file system that `path` is on; none when it is a local one.
///
/// # Errors
/// When the path is not there.
pub(super) fn network_of(path: &Path) -> std::io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(path)?.f_type;
    // the kernel's type is signed on some machines; the numbers have 32 bits
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "magic numbers have 32 bits")]
    let kind = kind as u32;
    Ok(NETWORK.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_files_are_local_and_what_is_not_there_is_an_error() {
        assert_eq!(network_of(Path::new("/proc")).unwrap(), None);
        assert!(network_of(Path::new("/not/there")).is_err());
    }
}
