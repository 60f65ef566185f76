//! Reads server-sent events.

use std::collections::VecDeque;

use futures::{Stream, StreamExt, stream::BoxStream};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// Sequence number; synthetic events have none.
    pub id: Option<i64>,
    /// Type.
    pub kind: String,
    /// JSON text.
    pub data: String,
}

/// An open event stream.
pub struct Events {
    chunks: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    parser: Parser,
    ready: VecDeque<Event>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(response: reqwest::Response) -> Self {
        Self::over(response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec())))
    }

    fn over(chunks: impl Stream<Item = reqwest::Result<Vec<u8>>> + Send + 'static) -> Self {
        Self { chunks: chunks.boxed(), parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The last id that was read: where the stream is to go on. The first one may come before any event.
    pub fn last_id(&self) -> Option<i64> {
        self.parser.last_id
    }

    /// The next event; none when the stream has ended or was lost. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let chunk = self.chunks.next().await?.ok()?;
            self.ready.extend(self.parser.feed(&chunk));
        }
    }
}

/// Lines to events, however the bytes are cut.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    event: Event,
    any: bool,
    last_id: Option<i64>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => events.extend(self.end_line()),
                b'\r' => {}
                other => self.line.push(*other),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // only now: of an event that was cut off after its id, the rest is to come again
            self.last_id = event.id.or(self.last_id);
            return std::mem::take(&mut self.any).then_some(event);
        }
        let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.event.id = value.parse().ok(),
            "event" => self.event.kind = value.to_owned(),
            "data" => {
                if self.any {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.any = true;
            }
            // comments (heartbeats) and fields that we do not use
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let text = b": hello\n\nid: 7\nevent: started\ndata: {\"a\":1}\n\nevent: progress\ndata: x\r\ndata: y\r\n\r\n";
        let first = Event { id: Some(7), kind: "started".into(), data: "{\"a\":1}".into() };
        let second = Event { id: None, kind: "progress".into(), data: "x\ny".into() };
        for cut in 0..text.len() {
            let mut parser = Parser::default();
            let mut events = parser.feed(&text[..cut]);
            events.extend(parser.feed(&text[cut..]));
            assert_eq!(events, [first.clone(), second.clone()], "cut at {cut}");
        }
    }

    #[test]
    fn a_place_without_an_event_is_known() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"id: 41\n\nevent: progress\ndata: x\n\n").len(), 1);
        assert_eq!(parser.last_id, Some(41));
    }

    #[test]
    fn an_event_that_was_cut_off_was_not_seen() {
        let mut parser = Parser::default();
        assert!(parser.feed(b"id: 7\nevent: x\n").is_empty());
        assert_eq!(parser.last_id, None);
        assert_eq!(parser.feed(b"data: 1\n\nid: 8\ndata: 2\n").len(), 1);
        assert_eq!(parser.last_id, Some(7));
    }

    #[tokio::test]
    async fn a_stream_that_ends_gives_none() {
        let chunks = futures::stream::iter([Ok(b"data: 1\n\nda".to_vec()), Ok(b"ta: 2\n\n".to_vec())]);
        let mut events = Events::over(chunks);
        assert_eq!(events.next().await.map(|event| event.data).as_deref(), Some("1"));
        assert_eq!(events.next().await.map(|event| event.data).as_deref(), Some("2"));
        assert_eq!(events.next().await, None);
    }
}
