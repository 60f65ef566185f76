//! Memory for a variant's sheets: that of variants that go for it, as far as it goes, and new one. What has been written lately is
//! there at once, where new pages are found, cleared and sometimes waited for first.

use std::sync::Arc;

use engine::{SlabId, SlabWriter};
use shared::ids::ComponentId;

use super::{
    copies::{Copies, CopyError},
    protocol::Failure,
};

/// A slab and who writes it.
type Slab = (SlabId, SlabWriter);

impl Copies {
    /// Takes variants off that nobody uses: slabs that nothing has any more then.
    pub(super) fn spared(&mut self, replaced: &[ComponentId]) -> Vec<SlabId> {
        let mut spare = Vec::new();
        for component in replaced {
            let is_variant = self.copy(*component).is_ok_and(|copy| copy.shown.variant.is_some());
            if is_variant && self.free_of_leases(*component).is_ok() {
                let sheets = self.copies.remove(component).map(|copy| copy.sheets).unwrap_or_default();
                spare.extend(sheets.into_iter().filter_map(Arc::into_inner).map(|sheet| sheet.slab));
            }
        }
        self.recount();
        spare
    }

    /// Slabs of these bytes, or none. None of `spare` is left, whatever becomes of it.
    pub(super) fn reserved(&mut self, sizes: &[u64], spare: Vec<SlabId>) -> Result<Vec<Slab>, CopyError> {
        let mut had = self.assigned(sizes, spare)?;
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        let size = |at: &usize| sizes.get(*at).copied().unwrap_or(0);
        // those that have too much first: it is room for those that have too little, and for those that have nothing
        order.sort_by_cached_key(|at| match had.get(*at).copied().flatten() {
            Some(slab) => (1, self.device.slab_bytes(slab).is_ok_and(|bytes| bytes < size(at))),
            None => (2, true),
        });
        let mut slabs = Vec::with_capacity(sizes.len());
        for (done, at) in order.iter().enumerate() {
            match self.slab(size(at), had.get_mut(*at).and_then(Option::take)) {
                Ok(slab) => slabs.push((*at, slab)),
                Err(error) => {
                    let later = order.iter().skip(done + 1).map(size).sum();
                    let made = slabs.into_iter().map(|(_, slab)| slab).collect();
                    let error = self.none_left(had.into_iter().flatten().collect(), error);
                    return Err(self.none_reserved(made, later, error));
                }
            }
        }
        slabs.sort_by_key(|(at, _)| *at);
        Ok(slabs.into_iter().map(|(_, slab)| slab).collect())
    }

    /// The spare slab of each size, where it gets one; those that nobody gets are freed.
    fn assigned(&mut self, sizes: &[u64], spare: Vec<SlabId>) -> Result<Vec<Option<SlabId>>, CopyError> {
        // one that is gone already has nothing to give
        let there: Vec<u64> = spare.iter().map(|slab| self.device.slab_bytes(*slab).unwrap_or(0)).collect();
        let chosen = assign(sizes, &there);
        let surplus = (0..spare.len()).filter(|at| !chosen.contains(&Some(*at)));
        for slab in surplus.filter_map(|at| spare.get(at)) {
            self.discard(*slab)?;
        }
        Ok(chosen.into_iter().map(|at| spare.get(at?).copied()).collect())
    }

    fn slab(&mut self, bytes: u64, spare: Option<SlabId>) -> Result<Slab, CopyError> {
        let reserved = match spare {
            Some(spare) => self.replace(spare, bytes),
            None => self.reserve(bytes),
        };
        let slab = reserved.map_err(|error| self.with_would_free(error))?;
        match self.device.writer(slab) {
            Ok(writer) => Ok((slab, writer)),
            Err(error) => Err(self.given_up(slab, error.into())),
        }
    }

    /// Gives spare slabs back that are not needed any more, for this reason; they were free for whoever asked.
    fn none_left(&mut self, spare: Vec<SlabId>, mut why: CopyError) -> CopyError {
        for slab in spare {
            let bytes = self.device.slab_bytes(slab).unwrap_or(0);
            why = self.given_up(slab, why);
            if let CopyError::Failed(Failure::OutOfMemory { available_bytes, .. }) = &mut why {
                *available_bytes = available_bytes.saturating_add(bytes);
            }
        }
        why
    }

    /// Gives slabs back because there are not all; what was needed and free is told of all together, `later` bytes more of which
    /// were not even asked for.
    fn none_reserved(&mut self, slabs: Vec<Slab>, later: u64, mut why: CopyError) -> CopyError {
        let mut before = 0;
        for (slab, writer) in slabs {
            drop(writer);
            before += self.device.slab_bytes(slab).unwrap_or(0);
            why = self.given_up(slab, why);
        }
        if let CopyError::Failed(Failure::OutOfMemory { needed_bytes, available_bytes, .. }) = &mut why {
            *needed_bytes = needed_bytes.saturating_add(before).saturating_add(later);
            *available_bytes = available_bytes.saturating_add(before);
        }
        why
    }
}

/// The place of the spare memory for each size: the smallest that is large enough, else the largest; the largest sizes choose first.
fn assign(sizes: &[u64], spare: &[u64]) -> Vec<Option<usize>> {
    let mut order: Vec<(usize, u64)> = sizes.iter().copied().enumerate().collect();
    order.sort_by_key(|(at, size)| (std::cmp::Reverse(*size), *at));
    let mut left: Vec<(u64, usize)> = spare.iter().copied().enumerate().map(|(at, bytes)| (bytes, at)).collect();
    left.sort_unstable();
    let mut chosen = vec![None; sizes.len()];
    for (at, size) in order {
        let enough = left.partition_point(|(bytes, _)| *bytes < size);
        let found = if enough < left.len() { Some(left.remove(enough)) } else { left.pop() };
        if let Some(to) = chosen.get_mut(at) {
            *to = found.map(|(_, spare)| spare);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_gets_the_memory_that_fits_it_best() {
        assert_eq!(assign(&[5, 9, 5], &[9, 5, 5]), [Some(1), Some(0), Some(2)], "the same again");
        assert_eq!(assign(&[3], &[9, 4, 2]), [Some(1)]);
        assert_eq!(assign(&[8, 7], &[6, 5]), [Some(0), Some(1)], "none is large enough");
        assert_eq!(assign(&[2, 8], &[4]), [None, Some(0)]);
        assert_eq!(assign(&[], &[4]), [None; 0]);
        assert_eq!(assign(&[4, 4], &[]), [None, None]);
    }
}
