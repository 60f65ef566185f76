//! Framed messages over the socket, with at most one descriptor each.
//!
//! A frame is five bytes (length, little-endian; 1 when a descriptor comes with it) and the JSON text. The descriptor
//! travels with the five bytes.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixStream, unix::OwnedReadHalf},
    sync::mpsc,
};

use super::protocol::{Command, Event, MESSAGE_MAX};

/// Bytes in front of a text.
pub(crate) const HEADER: usize = 5;

/// A message's text and the bytes in front of it.
pub(crate) type Frame = ([u8; HEADER], Vec<u8>);

/// A message with the bytes in front of it.
///
/// # Errors
/// When it is longer than any message may be.
pub(crate) fn frame(message: &impl Serialize, with_fd: bool) -> io::Result<Frame> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length as usize <= MESSAGE_MAX);
    let length = length.ok_or_else(|| {
        invalid(format!("a message of {} bytes is longer than the {MESSAGE_MAX} that one may have", text.len()))
    })?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok(([a, b, c, d, u8::from(with_fd)], text))
}

/// The length that these bytes claim.
///
/// # Errors
/// When no message is that long.
pub(crate) fn length_of(header: [u8; HEADER]) -> io::Result<usize> {
    let [a, b, c, d, _] = header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MESSAGE_MAX {
        return Err(invalid(format!("a message claims {length} bytes")));
    }
    Ok(length)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads a text.
///
/// # Errors
/// When it is no such message.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> io::Result<T> {
    serde_json::from_slice(text).map_err(|error| invalid(format!("a message cannot be read: {error}")))
}

/// Sends the bytes in front of a text, and the descriptor with the first of them; how many went.
///
/// # Errors
/// What the system answers.
pub(crate) fn send_header(socket: impl AsFd, header: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(invalid("no space for a descriptor".to_owned()));
    }
    Ok(sendmsg(socket, &[IoSlice::new(header)], &mut control, SendFlags::NOSIGNAL)?)
}

/// The agent's sending end.
#[derive(Debug)]
pub(super) struct Commands(tokio::net::unix::OwnedWriteHalf);

impl Commands {
    /// Sends one command.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(super) async fn send(&mut self, command: &Command, fd: Option<&OwnedFd>) -> io::Result<()> {
        self.send_frame(&frame(command, fd.is_some())?, fd).await
    }

    /// Sends what was framed with or without this descriptor.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(super) async fn send_frame(&mut self, (header, text): &Frame, fd: Option<&OwnedFd>) -> io::Result<()> {
        let stream: &UnixStream = self.0.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || send_header(stream, header, fd.map(AsFd::as_fd))).await?;
        // the descriptor went with the first byte
        self.0.write_all(header.get(sent..).unwrap_or_default()).await?;
        self.0.write_all(text).await
    }
}

/// The agent's receiving end.
#[derive(Debug)]
pub(super) struct Events(OwnedReadHalf);

impl Events {
    /// The next event. Not cancel safe: one task reads all.
    ///
    /// # Errors
    /// When the other end is gone or sent what cannot be read.
    async fn next(&mut self) -> io::Result<Event> {
        let mut header = [0; HEADER];
        let stream: &UnixStream = self.0.as_ref();
        let (got, fd) = stream.async_io(Interest::READABLE, || receive_header(stream, &mut header)).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_exact(header.get_mut(got..).unwrap_or_default()).await?;
        let mut text = vec![0; length_of(header)?];
        self.0.read_exact(&mut text).await?;
        let mut event: Event = parse(&text)?;
        check_descriptor(header, fd.as_ref())?;
        if let Some(place) = event.descriptor() {
            *place = fd;
        }
        Ok(event)
    }

    /// Hands every event over until the other end is gone. For a task that waits for other things too: reading itself
    /// is not cancel safe.
    pub(super) async fn forward(mut self, sender: mpsc::Sender<Event>) {
        loop {
            match self.next().await {
                Ok(event) => {
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the runner's socket ended");
                    return;
                }
            }
        }
    }
}

/// The agent's two ends.
///
/// # Errors
/// When the socket cannot be made asynchronous.
pub(super) fn agent_ends(socket: StdStream) -> io::Result<(Commands, Events)> {
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    Ok((Commands(write), Events(read)))
}

/// Receives one command in the runner; none at a clean end.
///
/// # Errors
/// When the other end sent what cannot be read.
pub(super) fn receive(socket: &mut StdStream) -> io::Result<Option<(Command, Option<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let (got, fd) = receive_header(&*socket, &mut header)?;
    if got == 0 {
        return Ok(None);
    }
    socket.read_exact(header.get_mut(got..).unwrap_or_default())?;
    let mut text = vec![0; length_of(header)?];
    socket.read_exact(&mut text)?;
    check_descriptor(header, fd.as_ref())?;
    Ok(Some((parse(&text)?, fd)))
}

/// Receives the bytes in front of a text, as many as are there, and the descriptor that came with the first of them.
fn receive_header(socket: impl AsFd, header: &mut [u8; HEADER]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(header)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((got, fd))
}

fn check_descriptor(header: [u8; HEADER], fd: Option<&OwnedFd>) -> io::Result<()> {
    if (header[4] == 1) != fd.is_some() {
        return Err(invalid("a descriptor was announced and did not come, or came unannounced".to_owned()));
    }
    Ok(())
}

/// Sends one event from the runner.
///
/// # Errors
/// When the other end is gone.
pub(super) fn send_event(socket: &mut StdStream, mut event: Event) -> io::Result<()> {
    let fd = event.descriptor().and_then(Option::take);
    let (header, text) = frame(&event, fd.is_some())?;
    let mut whole = Vec::with_capacity(HEADER + text.len());
    whole.extend_from_slice(&header);
    whole.extend_from_slice(&text);
    let sent = match &fd {
        Some(fd) => send_header(&*socket, &header, Some(fd.as_fd()))?,
        None => 0,
    };
    socket.write_all(whole.get(sent..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(tensors: usize) -> Command {
        let tensor = |index: usize| super::super::DeviceTensor {
            name: format!("model.diffusion_model.output_blocks.{index}.1.transformer_blocks.0.attn2.to_k.weight"),
            dtype: "F16".into(),
            shape: vec![1280, 2048],
            offset: 0,
            len: 1,
        };
        let component = "01JD9Z8M3V6Q2X4K7T5R1W0YBC".parse().unwrap();
        let tensors = (0..tensors).map(tensor).collect();
        Command::Load { call: 7, component, digest: "d".into(), tensors, offset: 0, bytes: 1 }
    }

    #[tokio::test]
    async fn commands_and_their_descriptors_arrive_in_order() {
        let (ours, mut theirs) = StdStream::pair().unwrap();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            while let Some((command, fd)) = receive(&mut theirs).unwrap() {
                let text = fd.map(|fd| io::read_to_string(std::fs::File::from(fd)).unwrap());
                got.push((command, text));
            }
            got
        });
        let (mut commands, events) = agent_ends(ours).unwrap();
        for text in ["first", "second"] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            commands.send(&load(3000), Some(&OwnedFd::from(file))).await.unwrap();
            commands.send(&Command::Cancel { call: 1 }, None).await.unwrap();
        }
        drop((commands, events));
        let got = reader.join().unwrap();
        let texts: Vec<Option<&str>> = got.iter().map(|(_, text)| text.as_deref()).collect();
        assert_eq!(texts, [Some("first"), None, Some("second"), None]);
        assert!(matches!(&got[0].0, Command::Load { tensors, .. } if tensors.len() == 3000));
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_it_is_allocated() {
        let (mut ours, mut theirs) = StdStream::pair().unwrap();
        ours.write_all(&[0xff, 0xff, 0xff, 0xff, 0]).unwrap();
        assert!(receive(&mut theirs).unwrap_err().to_string().contains("claims"));
    }
}
