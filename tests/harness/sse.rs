//! A reader of server-sent events.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use serde_json::Value;

use crate::Api;

/// One event.
#[derive(Debug, Clone)]
pub struct SseEvent {
    /// The `id:`, if the event has one; it is replayable then.
    pub id: Option<i64>,
    /// The `event:`.
    pub event: String,
    /// The `data:` as JSON.
    pub data: Value,
}

/// An open stream.
pub struct Sse {
    bytes: futures::stream::BoxStream<'static, Result<Vec<u8>, reqwest::Error>>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Sse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sse").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl Sse {
    /// Opens a stream, after this event when one is given.
    ///
    /// # Panics
    /// When the answer is not a stream.
    pub async fn open(api: &Api, path: &str, after: Option<i64>) -> Self {
        let mut request = api.request(Method::GET, path).header("accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "GET {path}");
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let bytes = response.bytes_stream().map(|chunk| chunk.map(|chunk| chunk.to_vec())).boxed();
        Self { bytes, buffer: Vec::new() }
    }

    /// The next event; none at the end of the stream. Comments are passed over.
    ///
    /// # Panics
    /// When nothing comes within `patience`, or the connection breaks.
    pub async fn next(&mut self, patience: Duration) -> Option<SseEvent> {
        tokio::time::timeout(patience, self.read()).await.expect("an event in time")
    }

    /// The next event where it has come already.
    pub async fn arrived(&mut self) -> Option<SseEvent> {
        tokio::time::timeout(Duration::ZERO, self.read()).await.ok().flatten()
    }

    /// All events to the end of the stream.
    pub async fn rest(&mut self, patience: Duration) -> Vec<SseEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next(patience).await {
            events.push(event);
        }
        events
    }

    async fn read(&mut self) -> Option<SseEvent> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
                    return Some(event);
                }
            }
            let chunk = self.bytes.next().await?;
            self.buffer.extend(chunk.expect("the stream goes on"));
        }
    }
}

fn parse(block: &str) -> Option<SseEvent> {
    let (mut id, mut event, mut data) = (None, "message".to_owned(), Vec::new());
    for line in block.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => id = Some(value.parse().expect("ids are numbers")),
            "event" => value.clone_into(&mut event),
            "data" => data.push(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return None;
    }
    Some(SseEvent { id, event, data: serde_json::from_str(&data.join("\n")).expect("data is JSON") })
}
