//! `Range` of one part (RFC 9110 §14): which bytes a client wants.

use axum::http::{HeaderMap, header};

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    All,
    /// From the first to the last of these, both included.
    Part(u64, u64),
    /// None of it can be sent.
    Unsatisfiable,
}

/// What a request wants of `size` bytes with this tag. Several parts, other units and nonsense count as all of it, and so does
/// a part of something else than the client has (`If-Range`).
pub(crate) fn wanted(headers: &HeaderMap, tag: &str, size: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let Some(range) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else { return Wanted::All };
    if text(header::IF_RANGE).is_some_and(|given| given != tag) {
        return Wanted::All;
    }
    let Some((first, last)) = range.trim().split_once('-').filter(|_| !range.contains(',')) else { return Wanted::All };
    let number = |text: &str| text.parse::<u64>().ok();
    match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(0) => Wanted::Unsatisfiable,
            Some(_) if size == 0 => Wanted::Unsatisfiable,
            Some(length) => Wanted::Part(size.saturating_sub(length), size - 1),
            None => Wanted::All,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if last < first => Wanted::All,
            (Some(first), _) if first >= size => Wanted::Unsatisfiable,
            (Some(first), Some(last)) => Wanted::Part(first, last.min(size - 1)),
            (Some(first), None) if last.is_empty() => Wanted::Part(first, size - 1),
            _ => Wanted::All,
        },
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(range: &str, if_range: Option<&str>) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        if let Some(tag) = if_range {
            headers.insert(header::IF_RANGE, HeaderValue::from_str(tag).unwrap());
        }
        wanted(&headers, "\"t\"", 10)
    }

    #[test]
    fn one_part_is_understood_and_everything_else_is_all_or_nothing() {
        use Wanted::{All, Part, Unsatisfiable};
        for (range, expected) in [
            ("bytes=0-", Part(0, 9)),
            ("bytes=2-4", Part(2, 4)),
            ("bytes=2-99", Part(2, 9)),
            ("bytes=-3", Part(7, 9)),
            ("bytes=-99", Part(0, 9)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=4-2", All),
            ("bytes=0-1,3-4", All),
            ("lines=0-1", All),
            ("bytes=x-y", All),
            ("bytes=1-y", All),
        ] {
            assert_eq!(of(range, None), expected, "{range}");
        }
        assert_eq!(of("bytes=2-4", Some("\"t\"")), Part(2, 4));
        assert_eq!(of("bytes=2-4", Some("\"other\"")), All);
        assert_eq!(wanted(&HeaderMap::new(), "", 10), All);
    }
}
