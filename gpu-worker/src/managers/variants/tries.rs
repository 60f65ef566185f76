//! What is tried for a variant, one after the other, while the device has no room for it. Pure: the same decides for one that is
//! made and for one that is foreseen.

use super::Path;

/// A way to make a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Try {
    /// Beside its base, with what an earlier variant has, which stays for that.
    Delta,
    /// Beside its base, all of it computed.
    Full,
    /// In place of its base.
    InPlace,
}

impl Try {
    /// The first: with an earlier variant, or without.
    pub fn first(has_earlier: bool) -> Self {
        if has_earlier { Self::Delta } else { Self::Full }
    }

    /// What is tried when this has no room and nothing more may go. None when nothing is left: the base's copy is only converted
    /// where nothing keeps it.
    pub fn next(self, base_stays: Option<&str>) -> Option<Self> {
        match self {
            // the earlier variant may go as well, once nothing is taken over from it
            Self::Delta => Some(Self::Full),
            Self::Full if base_stays.is_none() => Some(Self::InPlace),
            Self::Full | Self::InPlace => None,
        }
    }

    /// How a variant came to be there that was made so.
    pub fn path(self, takes_over: bool) -> Path {
        match self {
            Self::Delta if takes_over => Path::Delta,
            Self::Delta | Self::Full => Path::Full,
            Self::InPlace => Path::InPlace,
        }
    }
}

/// Why a base's copy is not converted: so many others use it, or it is kept.
pub fn base_stays(other_leases: usize, is_protected: bool) -> Option<&'static str> {
    match (other_leases, is_protected) {
        (0, false) => None,
        (0, true) => Some("its copy is protected"),
        _ => Some("its copy is in use"),
    }
}
