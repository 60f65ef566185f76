//! The library's refusals for want of memory, which it tells in words only.

use crate::error::EngineError;

/// What stands before the bytes that its arena could not have.
const ARENA: [&str; 2] =
    ["Failed to allocate memory for requested buffer of size ", "is smaller than requested bytes of "];
/// What the system and the CUDA driver say in their own words.
const OTHERS: [&str; 4] = ["bad_alloc", "bad allocation", "out of memory", "CUDA_ERROR_OUT_OF_MEMORY"];

/// The refusal of a run that had `taken_bytes` when it wanted more; none for any other answer. Where the answer names no
/// number, it wanted one byte at least.
pub(super) fn refused(answer: &str, taken_bytes: u64) -> Option<EngineError> {
    let named = ARENA.iter().find_map(|words| answer.split_once(words));
    let wanted_bytes = match named {
        Some((_, rest)) => {
            let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            rest.get(..end).and_then(|number| number.parse().ok()).unwrap_or(1)
        }
        None if OTHERS.iter().any(|words| answer.contains(words)) => 1_u64,
        None => return None,
    };
    let needed_bytes = taken_bytes.saturating_add(wanted_bytes);
    Some(EngineError::OutOfMemory { needed_bytes, available_bytes: taken_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(answer: &str) -> Option<(u64, u64)> {
        match refused(answer, 1000)? {
            EngineError::OutOfMemory { needed_bytes, available_bytes } => Some((needed_bytes, available_bytes)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_the_library_could_not_have_is_a_lack_of_memory_with_its_bytes() {
        let arena = "Non-zero status code returned while running Conv node. bfc_arena.cc:358 AllocateRawInternal Failed to \
                     allocate memory for requested buffer of size 268435456\n";
        assert_eq!(figures(arena), Some((268_436_456, 1000)));
        let limit = "Available memory of 16 is smaller than requested bytes of 4096";
        assert_eq!(figures(limit), Some((5096, 1000)));
        for words in ["std::bad_alloc", "CUDA failure 2: out of memory ; GPU=0"] {
            assert_eq!(figures(words), Some((1001, 1000)), "{words}");
        }
        assert_eq!(figures("Got invalid dimensions for input"), None);
    }
}
