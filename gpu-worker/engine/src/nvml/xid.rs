//! What an event means: for the device, for its runner, or only for people. Pure.

/// What the driver reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Incident {
    /// A critical error by its number.
    Xid(u64),
    /// Memory errors that were not corrected.
    UncorrectedMemory,
    /// Memory errors that were corrected.
    CorrectedMemory,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The device takes no more work (F30).
    Device,
    /// Its process is poisoned and is replaced; the device goes on (F31).
    Runner,
    /// It is told, nothing else.
    Warning,
}

/// Errors that programs cause: the device is sound. The vendor's device plugin ignores exactly these six.
const BY_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// What follows from an incident. A number that is not known is taken for the worst.
pub fn judge(incident: Incident) -> Verdict {
    match incident {
        Incident::Xid(number) if BY_PROGRAMS.contains(&number) => Verdict::Runner,
        Incident::Xid(_) | Incident::UncorrectedMemory => Verdict::Device,
        Incident::CorrectedMemory => Verdict::Warning,
    }
}

impl Incident {
    /// The number as a label; the other incidents by name.
    pub fn label(self) -> String {
        match self {
            Self::Xid(number) => number.to_string(),
            Self::UncorrectedMemory => "ecc_uncorrected".to_owned(),
            Self::CorrectedMemory => "ecc_corrected".to_owned(),
        }
    }

    /// The incident in words.
    pub fn words(self) -> String {
        match self {
            Self::Xid(number) => format!("Xid {number} ({})", meaning(number)),
            Self::UncorrectedMemory => "memory errors that were not corrected".to_owned(),
            Self::CorrectedMemory => "memory errors that were corrected".to_owned(),
        }
    }
}

/// The vendor's own words for the numbers that are met most.
fn meaning(number: u64) -> &'static str {
    match number {
        13 => "exception in a program's kernel",
        31 => "a program touched memory that it does not have",
        43 => "a program stopped the device's processing",
        45 => "a program was cleaned up after an earlier error",
        48 => "double-bit memory error",
        63 => "a memory page was retired or a row remapped",
        64 => "a memory page could not be retired or a row not remapped",
        68 => "video processor exception",
        74 => "NVLink error",
        79 => "the device fell off the bus",
        92 => "many single-bit memory errors",
        94 => "contained memory error",
        95 => "uncontained memory error",
        109 => "context switch timed out",
        119 | 120 => "the device's firmware does not answer",
        999 => "unknown",
        _ => "see the vendor's list of Xid errors",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f31_errors_of_programs_cost_the_runner_only() {
        for number in [13, 31, 43, 45, 68, 109] {
            assert_eq!(judge(Incident::Xid(number)), Verdict::Runner, "{number}");
        }
    }

    #[test]
    fn f30_every_other_number_costs_the_device() {
        for number in (0..1100).filter(|number| !BY_PROGRAMS.contains(number)) {
            assert_eq!(judge(Incident::Xid(number)), Verdict::Device, "{number}");
        }
        assert_eq!(judge(Incident::UncorrectedMemory), Verdict::Device);
        assert_eq!(judge(Incident::CorrectedMemory), Verdict::Warning);
    }
}
