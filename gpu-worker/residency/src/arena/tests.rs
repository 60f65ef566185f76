//! Memory files from draft to extent.

use huge_pages::Window;

use super::*;

#[test]
fn dropping_an_extent_gives_every_byte_back() {
    let arenas = Arenas::default();
    let draft = arenas.create(5_000_000).unwrap();
    draft.write_at(&[7; 4_999_999], 0).unwrap();
    let extent = draft.seal().unwrap();
    assert_eq!(arenas.allocated().unwrap(), (1, extent.len()));
    drop(extent);
    assert_eq!(arenas.allocated().unwrap(), (0, 0));
}

#[test]
fn a_draft_that_is_given_up_holds_nothing_and_takes_nothing() {
    let arenas = Arenas::default();
    let draft = arenas.create(5_000_000).unwrap();
    draft.write_at(&[7; 4_999_999], 0).unwrap();
    draft.discard().unwrap();
    assert_eq!(arenas.allocated().unwrap(), (1, 0));
    assert!(draft.write_at(b"late", 0).is_err() && draft.allocate(0, PAGE).is_err());
    assert_eq!(arenas.allocated().unwrap(), (1, 0));
}

#[test]
fn a_sealed_extent_can_only_be_read() {
    let draft = Arenas::default().create(10).unwrap();
    draft.write_at(b"weig", 0).unwrap();
    assert!(draft.write_at(b"x", PAGE).is_err());
    let extent = draft.seal().unwrap();
    let fd = extent.fd_readonly().unwrap();
    assert!(pwrite(&fd, b"x", 0).is_err());
    assert!(pwrite(&*extent.0.fd, b"x", 0).is_err());
    assert!(ftruncate(&*extent.0.fd, 0).is_err());
    assert_eq!(&ReadMap::open(&fd, 0, 4).unwrap()[..], b"weig");
    assert!(ReadMap::open(&fd, 1, 4096).is_err());
}

#[test]
fn an_unsealed_or_ordinary_file_is_not_mapped() {
    let draft = Arenas::default().create(10).unwrap();
    assert!(ReadMap::open(&*draft.memory.fd, 0, 4).is_err());
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    assert!(ReadMap::open(&file, 0, 4).is_err());
}

#[test]
fn lengths_round_to_pages_and_huge_pages() {
    assert_eq!(extent_len(0), Some(PAGE));
    assert_eq!(extent_len(PAGE + 1), Some(2 * PAGE));
    assert_eq!(extent_len(BIG + 1), Some(BIG + HUGE));
    assert_eq!(extent_len(u64::MAX), None);
}

#[test]
fn what_is_filled_in_odd_pieces_is_there_whatever_its_pages() {
    let arenas = Arenas::default();
    let draft = arenas.create(40 << 20).unwrap();
    let bytes: Vec<u8> = (0..40_u32 << 20).map(|at| (at / 3 % 251) as u8).collect();
    let piece = 1_777_777;
    std::thread::scope(|scope| {
        scope.spawn(|| draft.back(0, draft.len(), || true).unwrap());
        for half in 0..2 {
            let (draft, bytes) = (&draft, &bytes);
            scope.spawn(move || {
                for (number, part) in bytes.chunks(piece).enumerate().filter(|(number, _)| number % 2 == half) {
                    let begin = (number * piece) as u64;
                    draft.fill(begin, begin + part.len() as u64, |draft| draft.write_at(part, begin)).unwrap();
                }
            });
        }
    });
    let extent = draft.seal().unwrap();
    assert_eq!(arenas.allocated().unwrap(), (1, extent.len()));
    assert!(extent.map().unwrap()[..] == bytes[..]);
}

#[test]
fn what_is_given_up_gets_no_huge_page_back() {
    let arenas = Arenas::default();
    let draft = arenas.create(32 << 20).unwrap();
    draft.fill(0, 4096, |draft| draft.write_at(&[7; 4096], 0)).unwrap();
    draft.discard().unwrap();
    assert!(draft.fill(HUGE, 2 * HUGE, |_| Ok(())).is_err());
    assert!(draft.back(0, draft.len(), || true).is_err());
    assert_eq!(arenas.allocated().unwrap(), (1, 0));
}

#[test]
fn pages_are_made_ahead_until_they_are_not_wanted() {
    let arenas = Arenas::default();
    let (draft, left) = (arenas.create(100 << 20).unwrap(), arenas.create(100 << 20).unwrap());
    draft.back(0, draft.len(), || true).unwrap();
    assert_eq!(arenas.allocated().unwrap().1, draft.len());
    let looks = std::cell::Cell::new(0);
    left.back(0, left.len(), || looks.replace(looks.get() + 1) < 2).unwrap();
    let made = arenas.allocated().unwrap().1 - draft.len();
    assert!(made > 0 && made < left.len(), "{made}");
    left.fill(made, left.len(), |draft| draft.write_at(&[1], made)).unwrap();
    assert_eq!(arenas.allocated().unwrap().1, draft.len() + left.len(), "who fills makes what is not there");
}

#[test]
fn pages_are_made_a_little_ahead_of_the_bytes_that_come() {
    let arenas = Arenas::default();
    let draft = arenas.create(4 * backing::AHEAD).unwrap();
    let until = 3 * backing::AHEAD;
    // looked at for each group, each request for huge pages, and while it waits for bytes
    let back = || {
        let looks = std::cell::Cell::new(0);
        draft.back(until, draft.len(), || looks.replace(looks.get() + 1) < 50).unwrap();
        arenas.allocated().unwrap().1
    };
    assert_eq!(back(), backing::AHEAD);
    let came = 40 << 20;
    draft.fill(0, came, |_| Ok(())).unwrap();
    assert_eq!(back(), (came + backing::AHEAD).next_multiple_of(GROUP));
    draft.fill(until - PAGE, until, |_| Ok(())).unwrap();
    draft.back(until, draft.len(), || true).unwrap();
    assert_eq!(arenas.allocated().unwrap().1, draft.len(), "who fills the last of them waits for the rest no more");
}

#[test]
fn pages_of_what_comes_later_are_not_made_yet() {
    let arenas = Arenas::default();
    let draft = arenas.create(4 * backing::AHEAD).unwrap();
    let until = 3 * PAGE;
    draft.back(until, until, || true).unwrap();
    assert_eq!(arenas.allocated().unwrap().1, GROUP);
    // and then as the first ones were
    let (all, looks) = (draft.len(), std::cell::Cell::new(0));
    draft.back(all, all, || looks.replace(looks.get() + 1) < 50).unwrap();
    assert_eq!(arenas.allocated().unwrap().1, backing::AHEAD);
}

#[test]
fn sealing_is_tried_again_while_somebody_uses_the_pages_and_not_for_ever() {
    let arenas = Arenas::default();
    let used = |draft: &Draft| Window::open(&draft.memory.fd, draft.len()).unwrap();
    let (draft, other) = (arenas.create(BIG).unwrap(), arenas.create(BIG).unwrap());
    let (mut using, mut tries) = (Some(used(&draft)), 0);
    let sealed = draft.seal_again(|| {
        tries += 1;
        if tries == 2 {
            using = None;
        }
    });
    assert!(sealed.is_ok() && tries == 2, "{tries}");
    let (_using, mut tries) = (used(&other), 1);
    let refused = other.seal_again(|| tries += 1).unwrap_err();
    assert_eq!((refused.raw_os_error(), tries), (Some(Errno::BUSY.raw_os_error()), SEALED_TRIES));
    assert_eq!(arenas.allocated().unwrap().0, 1, "what cannot be sealed is given up");
}
