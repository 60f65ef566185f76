//! The zip container: its central directory says where the members are; nothing is unpacked.

use std::{
    collections::{HashMap, HashSet},
    path::{Component, Path},
};

use super::{
    legacy::little_endian_only,
    machine::{Persistent, run},
    source::Source,
    weights::{Found, find},
};
use crate::{error::FormatError, probe::Probe, vocab::Format};

/// Bytes of the record that ends a zip, without its comment.
const END_BYTES: u64 = 22;
/// Bytes of the place of the 64-bit record.
const LOCATOR_BYTES: u64 = 20;
/// Longest comment of a zip.
const COMMENT_BYTES: u64 = 65_535;
/// Largest directory and most members that are read.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
const MAX_MEMBERS: u64 = 200_000;
/// Fixed part of a member's record in the directory and before its data.
const LOCAL_BYTES: usize = 30;

/// A member: its name and its data in the file.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    /// Offset of its local header.
    header: u64,
    begin: u64,
    size: u64,
}

/// Where the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Directory {
    begin: u64,
    size: u64,
    members: u64,
}

/// Reads the archive, its pickle, and where the storages are.
pub(super) fn read(probe: &Probe) -> Result<Found, FormatError> {
    let mut source = Source::new(probe, Format::TorchZip, 0, probe.facts.size);
    let directory = directory(&mut source, probe)?;
    let mut members = members(&mut source, directory)?;
    for member in &mut members {
        locate(&mut source, member)?;
    }
    disjoint(&source, &members, directory.begin)?;
    let root = root(&source, &members)?;
    let by_name: HashMap<&str, &Member> = members.iter().map(|member| (member.name.as_str(), member)).collect();
    if let Some(order) = by_name.get(format!("{root}/byteorder").as_str()) {
        source.at = order.begin;
        let order = source.take(order.size.min(16))?;
        little_endian_only(&source, &order)?;
    }
    let pickle = by_name.get(format!("{root}/data.pkl").as_str()).ok_or_else(|| source.bad("no data.pkl"))?;
    let mut pickled = Source::new(probe, Format::TorchZip, pickle.begin, pickle.begin.saturating_add(pickle.size));
    let (heap, top) = run(&mut pickled, Persistent::Storages)?;
    if !pickled.is_at_end() {
        return Err(pickled.bad("bytes behind the end of its pickle"));
    }
    let mut begins = Vec::with_capacity(heap.storages.len());
    for storage in &heap.storages {
        let member = by_name.get(format!("{root}/data/{}", storage.key).as_str());
        let member = member.ok_or_else(|| pickled.bad("a storage that is not in the archive"))?;
        if member.size != storage.bytes {
            return Err(pickled.bad("a storage that has another size than its pickle says"));
        }
        begins.push(member.begin);
    }
    find(probe, &heap, top, &begins)
}

/// The directory by the record at the end, or by the 64-bit record before that.
fn directory(source: &mut Source<'_>, probe: &Probe) -> Result<Directory, FormatError> {
    let size = probe.facts.size;
    let searched = size.min(END_BYTES + COMMENT_BYTES);
    source.at = size.saturating_sub(searched);
    let tail_at = source.at;
    let tail = source.take(searched)?;
    source.at = tail_at;
    let index = find_end(&tail).ok_or_else(|| source.bad("no end record (truncated?)"))?;
    let end_at = tail_at.saturating_add(u64::try_from(index).unwrap_or(u64::MAX));
    source.at = end_at.saturating_add(4);
    let [disk, directory_disk, on_disk, members] = numbers_2(source)?;
    let (bytes, begin) = (u64::from(number_4(source)?), u64::from(number_4(source)?));
    if disk != directory_disk || on_disk != members || (disk != 0 && disk != 0xffff) {
        return Err(source.bad("a zip of several disks"));
    }
    let mut found = Directory { begin, size: bytes, members: u64::from(members) };
    let mut expected_end = end_at;
    let is_short = members != 0xffff && bytes != 0xffff_ffff && begin != 0xffff_ffff;
    // PyTorch writes the 64-bit record always; beside a short one it must say the same
    if !is_short || has_locator(source, end_at)? {
        let short = found;
        (found, expected_end) = wide_directory(source, end_at)?;
        if is_short && found != short {
            return Err(source.bad("end records that say different things"));
        }
    }
    if found.begin.checked_add(found.size) != Some(expected_end) {
        return Err(source.bad("a directory that does not end where its record begins"));
    }
    if found.size > MAX_DIRECTORY_BYTES {
        return Err(source.too_many("bytes in its directory", MAX_DIRECTORY_BYTES));
    }
    if found.members > MAX_MEMBERS {
        return Err(source.too_many("members", MAX_MEMBERS));
    }
    Ok(found)
}

/// The last end record whose comment reaches exactly to the end of the file.
fn find_end(tail: &[u8]) -> Option<usize> {
    let starts = (0..tail.len().saturating_sub(21)).rev();
    starts.into_iter().find(|at| {
        let record = tail.get(*at..).unwrap_or_default();
        let comment = match record {
            [b'P', b'K', 5, 6, rest @ ..] => rest.get(16..18),
            _ => None,
        };
        comment.is_some_and(|length| {
            let length = length.iter().rev().fold(0usize, |sum, byte| sum * 256 + usize::from(*byte));
            record.len() == 22 + length
        })
    })
}

/// Whether the place of a 64-bit record stands before the end record.
fn has_locator(source: &mut Source<'_>, end_at: u64) -> Result<bool, FormatError> {
    let Some(at) = end_at.checked_sub(LOCATOR_BYTES) else { return Ok(false) };
    source.at = at;
    Ok(source.array()? == *b"PK\x06\x07")
}

fn wide_directory(source: &mut Source<'_>, end_at: u64) -> Result<(Directory, u64), FormatError> {
    let locator = end_at.checked_sub(LOCATOR_BYTES).ok_or_else(|| source.bad("no 64-bit end record"))?;
    source.at = locator;
    if source.array()? != *b"PK\x06\x07" || number_4(source)? != 0 {
        return Err(source.bad("no 64-bit end record"));
    }
    let record = number_8(source)?;
    if record > locator {
        return Err(source.bad("a 64-bit end record beyond its place"));
    }
    source.at = record;
    if source.array()? != *b"PK\x06\x06" {
        return Err(source.bad("no 64-bit end record where its place says"));
    }
    source.array::<12>()?;
    if number_4(source)? != 0 || number_4(source)? != 0 {
        return Err(source.bad("a zip of several disks"));
    }
    let (on_disk, members) = (number_8(source)?, number_8(source)?);
    let (size, begin) = (number_8(source)?, number_8(source)?);
    if on_disk != members {
        return Err(source.bad("a zip of several disks"));
    }
    Ok((Directory { begin, size, members }, record))
}

/// The directory's entries.
fn members(source: &mut Source<'_>, directory: Directory) -> Result<Vec<Member>, FormatError> {
    source.at = directory.begin;
    let end = directory.begin.saturating_add(directory.size);
    let mut members = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..directory.members {
        let member = member(source)?;
        if source.at > end {
            return Err(source.bad("a directory that is longer than it says"));
        }
        if !seen.insert(member.name.clone()) {
            return Err(source.bad("a member that is there twice"));
        }
        members.push(member);
    }
    if source.at != end {
        return Err(source.bad("a directory with other bytes in it"));
    }
    Ok(members)
}

fn member(source: &mut Source<'_>) -> Result<Member, FormatError> {
    if source.array()? != *b"PK\x01\x02" {
        return Err(source.bad("an entry of the directory without its signature"));
    }
    let [_, _, flags, method, _, _] = numbers_2(source)?;
    number_4(source)?;
    let mut wide = [u64::from(number_4(source)?), u64::from(number_4(source)?), 0];
    let [name, extra, comment, disk, _] = numbers_2(source)?;
    number_4(source)?;
    wide[2] = u64::from(number_4(source)?);
    let name = String::from_utf8(source.take(u64::from(name))?);
    let extra = source.take(u64::from(extra))?;
    source.take(u64::from(comment))?;
    widen(&extra, &mut wide).ok_or_else(|| source.bad("a member without its 64-bit sizes"))?;
    let [stored, size, header] = wide;
    let name = name.ok().filter(|name| is_inside(name)).ok_or_else(|| source.bad("a member with an unsafe name"))?;
    if flags & 0x2041 != 0 {
        return Err(source.bad("an encrypted member"));
    }
    if method != 0 || stored != size {
        return Err(source.bad("a compressed member, which PyTorch never writes"));
    }
    if !matches!(disk, 0 | 0xffff) {
        return Err(source.bad("a zip of several disks"));
    }
    Ok(Member { name, header, begin: 0, size })
}

/// Takes the values that are too wide for 32 bits from the extra field. Order: size, stored size, offset.
fn widen(extra: &[u8], wide: &mut [u64; 3]) -> Option<()> {
    let [stored, size, header] = wide;
    let mut missing: Vec<&mut u64> =
        [size, stored, header].into_iter().filter(|value| **value == 0xffff_ffff).collect();
    let mut rest = extra;
    while let ([a, b, c, d, tail @ ..], false) = (rest, missing.is_empty()) {
        let length = usize::from(u16::from_le_bytes([*c, *d]));
        let field = tail.get(..length)?;
        rest = tail.get(length..)?;
        if u16::from_le_bytes([*a, *b]) == 1 {
            let (values, _) = field.as_chunks::<8>();
            let count = missing.len();
            let values = values.get(..count)?;
            missing.drain(..).zip(values).for_each(|(to, from)| *to = u64::from_le_bytes(*from));
        }
    }
    missing.is_empty().then_some(())
}

/// Whether a member's name stays below the archive's root.
fn is_inside(name: &str) -> bool {
    let plain = !name.is_empty() && !name.contains(['\\', '\0']) && !name.contains("//");
    plain && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The local header is read for its length only; its name must be the directory's.
fn locate(source: &mut Source<'_>, member: &mut Member) -> Result<(), FormatError> {
    source.at = member.header;
    let length = u64::try_from(LOCAL_BYTES.saturating_add(member.name.len())).unwrap_or(u64::MAX);
    let bytes = source.take(length)?;
    let (fixed, name) = bytes.split_at_checked(LOCAL_BYTES).unwrap_or_default();
    let pair = |at: usize| match fixed.get(at..) {
        Some([a, b, ..]) => u64::from(u16::from_le_bytes([*a, *b])),
        _ => 0,
    };
    let same = fixed.starts_with(b"PK\x03\x04") && pair(8) == 0 && usize::try_from(pair(26)) == Ok(name.len());
    if !same || name != member.name.as_bytes() {
        return Err(source.bad("a member whose own header says something else than the directory"));
    }
    member.begin = source.at.saturating_add(pair(28));
    Ok(())
}

/// No member overlaps another one or the directory.
fn disjoint(source: &Source<'_>, members: &[Member], limit: u64) -> Result<(), FormatError> {
    let mut ranges: Vec<(u64, Option<u64>)> =
        members.iter().map(|member| (member.header, member.begin.checked_add(member.size))).collect();
    ranges.sort_unstable();
    let mut last = 0;
    for (begin, end) in ranges {
        let end = end.filter(|end| *end <= limit).ok_or_else(|| source.bad("a member beyond the directory"))?;
        if begin < last {
            return Err(source.bad("members that overlap"));
        }
        last = end;
    }
    Ok(())
}

/// The one folder that has a `data.pkl`; code in the archive refuses it.
fn root<'m>(source: &Source<'_>, members: &'m [Member]) -> Result<&'m str, FormatError> {
    let mut roots = members.iter().filter_map(|member| member.name.strip_suffix("/data.pkl"));
    let code = |member: &&Member| {
        let below = member.name.split_once('/').map_or("", |(_, below)| below);
        below.starts_with("code/") || below == "constants.pkl"
    };
    if let Some(member) = members.iter().find(code) {
        let name = crate::text::shown(&member.name);
        return Err(source.refuse(format!("a TorchScript archive with the program `{name}`")));
    }
    match (roots.next(), roots.next()) {
        (Some(root), None) if !root.contains('/') => Ok(root),
        (Some(_), _) => Err(source.bad("more than one data.pkl, or one that is not below the root")),
        (None, _) => Err(source.not_handled("a zip archive without data.pkl, so no PyTorch checkpoint".to_owned())),
    }
}

fn numbers_2<const N: usize>(source: &mut Source<'_>) -> Result<[u16; N], FormatError> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = u16::from_le_bytes(source.array()?);
    }
    Ok(numbers)
}

fn number_4(source: &mut Source<'_>) -> Result<u32, FormatError> {
    Ok(u32::from_le_bytes(source.array()?))
}

fn number_8(source: &mut Source<'_>) -> Result<u64, FormatError> {
    Ok(u64::from_le_bytes(source.array()?))
}
