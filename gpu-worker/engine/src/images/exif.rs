//! The smallest EXIF block that holds a user comment.

/// TIFF header, one directory that points to a second, which points to the comment in UTF-16. None for a text that no
/// 32-bit length holds.
pub(super) fn user_comment(text: &str) -> Option<Vec<u8>> {
    /// Where the second directory and the comment lie: a directory with one entry takes 18 bytes.
    const SECOND: u32 = 8 + 18;
    const COMMENT: u32 = SECOND + 18;
    const LONG: u16 = 4;
    const UNDEFINED: u16 = 7;
    let mut comment = b"UNICODE\0".to_vec();
    comment.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
    let length = u32::try_from(comment.len()).ok()?;
    let mut block = b"MM\0\x2a".to_vec();
    block.extend(8u32.to_be_bytes());
    for (tag, kind, count, value) in [(0x8769u16, LONG, 1, SECOND), (0x9286, UNDEFINED, length, COMMENT)] {
        block.extend(1u16.to_be_bytes());
        block.extend(tag.to_be_bytes());
        block.extend(kind.to_be_bytes());
        block.extend(u32::to_be_bytes(count));
        block.extend(value.to_be_bytes());
        // no directory follows
        block.extend(0u32.to_be_bytes());
    }
    block.extend(comment);
    Some(block)
}
