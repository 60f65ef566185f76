//! Variants in the room that there would be, one after the other as they are made: beside their bases, else in their place where
//! nothing keeps these.

use serde_json::{Value, json};
use shared::ids::ComponentId;

use crate::managers::variants::Path;

/// What has to hold when a base is to be converted.
const CONDITION: &str =
    "nothing that may go is left, and nobody else uses, keeps or has attached to the base's copy when it is made";

/// A variant that an application would make or find.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// What the base is used as.
    pub(super) kind: String,
    /// The base.
    pub(super) base: ComponentId,
    /// How it would come to be there.
    pub(super) path: Path,
    /// Bytes of what changes.
    pub(super) bytes: u64,
    /// Bytes of it that would be taken over from an earlier variant.
    pub(super) taken_over: u64,
    /// Tensors that change.
    pub(super) tensors: usize,
    /// Seconds that it would take.
    pub(super) seconds: f64,
    /// The same where nothing can be taken over.
    pub(super) seconds_in_place: f64,
    /// Why its base's copy could not be converted, where that were needed.
    pub(super) base_stays: Option<&'static str>,
}

impl Change {
    /// It is there already.
    pub(super) fn is_there(&self) -> bool {
        self.path == Path::Cached
    }

    /// As a job's result shows it.
    pub(super) fn view(&self) -> Value {
        let Self { kind, base, path, bytes, taken_over, tensors, seconds, .. } = self;
        let mut view = json!({
            "component": kind, "base": base, "path": path.as_str(), "bytes": bytes, "seconds": seconds,
            "tensors": tensors, "taken_over_bytes": taken_over,
        });
        if *path == Path::InPlace {
            view["condition"] = CONDITION.into();
        }
        if let Some(why) = self.base_stays {
            view["base_stays"] = why.into();
        }
        view
    }
}

/// Makes them in so many bytes of room. What has none beside its base is made in its place, unless `kept_by` says why that stays;
/// the bytes that would be missing all the same.
pub(super) fn made(
    changes: &mut [Change],
    mut room: u64,
    kept_by: impl Fn(ComponentId) -> Option<&'static str>,
) -> u64 {
    let mut short = 0;
    for change in changes.iter_mut().filter(|change| !change.is_there()) {
        if change.bytes <= room {
            room -= change.bytes;
            continue;
        }
        match kept_by(change.base) {
            None => {
                (change.path, change.taken_over) = (Path::InPlace, 0);
                change.seconds = change.seconds_in_place;
            }
            Some(why) => {
                change.base_stays = Some(why);
                short += change.bytes - room;
                room = 0;
            }
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: &str, path: Path, bytes: u64) -> Change {
        Change {
            kind: kind.to_owned(),
            base: ComponentId::generate(),
            path,
            bytes,
            taken_over: if path == Path::Delta { 5 } else { 0 },
            tensors: 1,
            seconds: 1.0,
            seconds_in_place: 2.0,
            base_stays: None,
        }
    }

    #[test]
    fn what_has_no_room_is_made_in_place_of_its_base_unless_that_is_kept() {
        let all = || vec![change("a", Path::Full, 20), change("b", Path::Cached, 90), change("c", Path::Delta, 30)];
        let paths = |changes: &[Change]| changes.iter().map(|change| change.path).collect::<Vec<_>>();
        let mut changes = all();
        assert_eq!(made(&mut changes, 50, |_| Some("used")), 0);
        assert_eq!(changes, {
            let mut same = all();
            same.iter_mut().zip(&changes).for_each(|(a, b)| a.base = b.base);
            same
        });
        let mut changes = all();
        assert_eq!(
            (made(&mut changes, 49, |_| None), paths(&changes)),
            (0, vec![Path::Full, Path::Cached, Path::InPlace])
        );
        assert_eq!((changes[2].taken_over, changes[2].seconds), (0, 2.0), "nothing is taken over");
        assert!(changes[2].view()["condition"].is_string() && changes[0].view().get("condition").is_none());
        // what a later one would need is not taken from an earlier one
        let mut changes = all();
        let kept = changes[2].base;
        assert_eq!(made(&mut changes, 45, |base| (base == kept).then_some("used")), 5);
        assert_eq!((paths(&changes)[2], changes[2].view()["base_stays"].as_str()), (Path::Delta, Some("used")));
    }
}
