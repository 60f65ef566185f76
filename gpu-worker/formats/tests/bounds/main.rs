//! Files that would exhaust a careless reader: each is refused or read with memory below a stated bound, and what its
//! program would have done never happens; and conversions, whose memory does not grow with the model. One test in a process of its own, because memory is counted for the process.
#![expect(clippy::unwrap_used, reason = "a test: what fails here fails the test")]

mod allocator;
mod convert;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    time::{Duration, Instant},
};

use model_formats::{ErrorKind, inspect, pickle, safetensors};

#[global_allocator]
static COUNTING: allocator::Counting = allocator::Counting;

/// Pickles: values, stack and memo of a pickle at its limits, and the window that is read through.
const PICKLE_BYTES: usize = 384 << 20;
/// Directories of zips at their limits.
const ZIP_BYTES: usize = 128 << 20;
/// What takes seconds ends in this time on any machine; what grows with the square does not.
const MINUTES: Duration = Duration::from_secs(150);
/// A header of the longest length and the tensors that are read of it.
const FULL_BYTES: usize = 320 << 20;
/// Headers, indices and everything that lies about its length.
const HEADER_BYTES: usize = 16 << 20;

/// Bytes, and how often they follow each other.
type Part<'b> = (&'b [u8], usize);

/// A pickle in an archive as torch writes it, the pickle made of repeated parts.
fn archive(path: &Path, parts: &[Part<'_>]) {
    let length: usize = parts.iter().map(|(part, count)| part.len() * count).sum();
    let mut out = BufWriter::new(File::create(path).unwrap());
    let name = b"x/data.pkl";
    let local = [b"PK\x03\x04\0\0\x08\x08".as_slice(), &[0; 18], &[10, 0, 0, 0], name].concat();
    out.write_all(&local).unwrap();
    for (part, count) in parts {
        (0..*count).for_each(|_| out.write_all(part).unwrap());
    }
    let (begin, size) = (u32::try_from(local.len() + length).unwrap(), u32::try_from(length).unwrap().to_le_bytes());
    let entry = [b"PK\x01\x02\0\0\0\0\x08\x08".as_slice(), &[0; 10], &size, &size, &[10, 0], &[0; 16], name].concat();
    out.write_all(&entry).unwrap();
    let entry = u32::try_from(entry.len()).unwrap().to_le_bytes();
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0".as_slice(), &entry, &begin.to_le_bytes(), &[0; 2]].concat();
    out.write_all(&end).unwrap();
    out.flush().unwrap();
}

/// Reads the file as a checkpoint; it must fail without running anything, or hold nothing.
fn pickled(path: &Path) {
    match pickle::read(path) {
        Ok(found) => assert!(found.tensors.is_empty()),
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsafeFormat | ErrorKind::Unsupported),
            "{error}"
        ),
    }
}

fn pickle_bombs(path: &Path) {
    let lists = 500_000;
    let text = [b"X\0\0\x08\0".as_slice(), &[b'a'; 1 << 19]].concat();
    let bombs: [(&str, Vec<Part<'_>>); 9] = [
        ("nested lists", vec![(b"\x80\x02", 1), (b"]", lists), (b"a", lists - 1), (b".", 1)]),
        ("nested tuples", vec![(b"\x80\x02)", 1), (b"\x85", lists), (b".", 1)]),
        ("marks", vec![(b"\x80\x02", 1), (b"(", 1_500_000), (b".", 1)]),
        ("values that are thrown away", vec![(b"\x80\x02", 1), (b"N0", 4_500_000), (b".", 1)]),
        ("one value over and over", vec![(b"\x80\x02]", 1), (b"2", 1_500_000), (b".", 1)]),
        (
            "lists that hold the one before twice",
            vec![(b"\x80\x02]q\0", 1), (b"]q\x01(h\0h\0eq\0", 150_000), (b".", 1)],
        ),
        ("dicts of dicts", vec![(b"\x80\x02}q\0", 1), (b"}q\x01h\0h\0sq\0", 150_000), (b".", 1)]),
        (
            "a tuple that is copied",
            vec![(b"\x80\x02((", 1), (b"K\x01", 1_000_000), (b"tq\0", 1), (b"ctorch\nSize\nh\0\x85R", 1000), (b".", 1)],
        ),
        ("long texts", vec![(b"\x80\x02(", 1), (&text, 140), (b"t.", 1)]),
    ];
    for (name, parts) in &bombs {
        archive(path, parts);
        let peak = allocator::peak(|| pickled(path));
        assert!(peak <= PICKLE_BYTES, "{name}: {peak} bytes at most");
        // the same without an archive
        let mut stream = BufWriter::new(File::create(path).unwrap());
        for (part, count) in parts {
            (0..*count).for_each(|_| stream.write_all(part).unwrap());
        }
        stream.flush().unwrap();
        drop(stream);
        let peak = allocator::peak(|| pickled(path));
        assert!(peak <= PICKLE_BYTES, "{name} in a bare stream: {peak} bytes at most");
    }
}

/// Archives whose members are compressed, many, or the same bytes under many names.
fn zip_bombs(path: &Path) {
    let entry = |name: &str, offset: u32, method: u16, sizes: [u32; 2]| {
        let [stored, size] = sizes.map(u32::to_le_bytes);
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        let head = [b"PK\x01\x02\0\0\0\0\x08\x08".as_slice(), &method.to_le_bytes(), &[0; 8]].concat();
        [&head, stored.as_slice(), &size, &length, &[0; 12], &offset.to_le_bytes(), name.as_bytes()].concat()
    };
    let local = [b"PK\x03\x04\0\0\x08\x08".as_slice(), &[0; 18], &[10, 0, 0, 0], b"x/data.pkl", &[0; 64]].concat();
    let many: Vec<Vec<u8>> = (0..60_000).map(|number| entry(&format!("x/{number}"), 0, 0, [64; 2])).collect();
    let bombs = [
        ("a member that swells", vec![entry("x/data.pkl", 0, 8, [64, u32::MAX - 1])]),
        ("a stored member that says it swells", vec![entry("x/data.pkl", 0, 0, [64, u32::MAX - 1])]),
        ("the same bytes under many names", many),
    ];
    for (name, entries) in bombs {
        let directory = entries.concat();
        let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
        let (size, begin) = (u32::try_from(directory.len()).unwrap(), u32::try_from(local.len()).unwrap());
        let end =
            [b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count, &size.to_le_bytes(), &begin.to_le_bytes(), &[0; 2]];
        fs::write(path, [local.as_slice(), &directory, &end.concat()].concat()).unwrap();
        let peak = allocator::peak(|| assert_eq!(pickle::read(path).unwrap_err().kind(), ErrorKind::Corrupt, "{name}"));
        assert!(peak <= ZIP_BYTES, "{name}: {peak} bytes at most");
    }
}

/// Headers that announce more than there is, and documents deeper than any reader's stack.
fn headers(folder: &Path) {
    let path = folder.join("x.safetensors");
    let deep = [b"{\"a\":".as_slice(), &b"[".repeat(1_000_000)].concat();
    let length = |header: &[u8]| u64::try_from(header.len()).unwrap().to_le_bytes();
    let cases = [
        ("a header as long as memory", [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat()),
        ("a header of ninety megabytes that is not there", [90_000_000_u64.to_le_bytes().as_slice(), b"{}"].concat()),
        ("a deep header", [length(&deep).as_slice(), &deep].concat()),
    ];
    for (name, content) in cases {
        fs::write(&path, content).unwrap();
        let peak = allocator::peak(|| {
            assert_eq!(safetensors::read(&path, "").unwrap_err().kind(), ErrorKind::Corrupt, "{name}")
        });
        assert!(peak <= HEADER_BYTES, "{name}: {peak} bytes at most");
    }
    full_headers(&path);
    for name in ["x.safetensors.index.json", "pytorch_model.bin.index.json"] {
        let path = folder.join(name);
        fs::write(&path, &deep).unwrap();
        let peak = allocator::peak(|| assert!(inspect(&path).unwrap().components.is_empty()));
        assert!(peak <= HEADER_BYTES, "{name}: {peak} bytes at most");
    }
}

/// Headers that are there to their last byte: more tensors than any model has, and as many as are read, all of them of no use. What takes
/// time in the square of their number would not end.
fn full_headers(path: &Path) {
    let entries = |count: usize| {
        let vae = ["encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"].map(str::to_owned);
        let names = vae.into_iter().chain((0..count).map(|number| format!("loss.{number}")));
        let entries =
            names.map(|name| format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
        entries.collect::<Vec<_>>().join(",")
    };
    let write = |count: usize| {
        let header = format!("{{{}}}", entries(count));
        fs::write(path, [&u64::try_from(header.len()).unwrap().to_le_bytes(), header.as_bytes()].concat()).unwrap();
    };
    write(1_000_000);
    let peak = allocator::peak(|| {
        let refused = inspect(path).unwrap();
        assert!(refused.reason.unwrap().contains("more than 200000 tensors"));
    });
    assert!(peak <= FULL_BYTES, "too many tensors: {peak} bytes at most");
    write(199_000);
    let began = Instant::now();
    let peak = allocator::peak(|| assert!(inspect(path).is_ok()));
    assert!(began.elapsed() < MINUTES, "the square of their number");
    assert!(peak <= FULL_BYTES, "many tensors: {peak} bytes at most");
}

#[test]
fn bombs_and_conversions_stay_below_their_bounds_and_run_nothing() {
    let folder = tempfile::tempdir().unwrap();
    pickle_bombs(&folder.path().join("x.pt"));
    zip_bombs(&folder.path().join("y.pt"));
    headers(folder.path());
    convert::conversions(folder.path());
}
