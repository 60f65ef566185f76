//! One attached program: its requests in order, and the leases that live as long as its connection.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
};

use prometheus::IntGauge;
use residency::Lease;
use rustix::net::{RecvFlags, recv};
use shared::error::{ErrorBody, ErrorCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixStream, unix::UCred},
};

use super::{
    Admission,
    find::{Found, Held, find},
    protocol::{Answer, Attached, CudaMemory, REQUEST_MAX, Refusal, Request, Tensors, Tier},
};
use crate::{
    context::Agent,
    device_tier::NamedProgram,
    runner::{
        DeviceLease,
        channel::{HEADER, frame, length_of, parse, send_header},
    },
};

/// Leases of one program.
const LEASES: usize = 1024;

/// A lease that is counted while it lives.
#[derive(Debug)]
struct Counted {
    lease: Kept,
    count: IntGauge,
}

/// What keeps the weights where they are.
#[derive(Debug)]
enum Kept {
    Ram { _lease: Lease },
    Device { lease: DeviceLease, _named: NamedProgram },
}

impl Counted {
    fn new(lease: Kept, count: &IntGauge) -> Self {
        count.inc();
        Self { lease, count: count.clone() }
    }

    /// Returns when what is leased is gone; what is in RAM stays as long as the lease.
    async fn lost(&self) {
        match &self.lease {
            Kept::Ram { .. } => std::future::pending().await,
            Kept::Device { lease, .. } => lease.lost().await,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.dec();
    }
}

/// A program that is counted while it is connected.
#[derive(Debug)]
struct Connected(IntGauge);

impl Connected {
    fn new(count: &IntGauge) -> Self {
        count.inc();
        Self(count.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves a program until its connection ends.
///
/// # Errors
/// When the connection breaks or the program sends what is no request.
pub(super) async fn run(
    agent: &Agent,
    admission: &Admission,
    mut stream: UnixStream,
    has_place: bool,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let user = peer.uid();
    if !admission.admits(user) {
        tracing::warn!(user, "refused a program that wants to attach");
        return send(&mut stream, &Answer::Error(Refusal::forbidden(user)), None).await;
    }
    if !has_place {
        let refusal = ErrorBody::new(ErrorCode::Unavailable, "too many programs are attached to this host");
        return send(&mut stream, &Answer::Error(refusal.into()), None).await;
    }
    let _connected = Connected::new(&agent.metrics.attach_connections);
    let mut session = Session { agent, program: name(peer), leases: BTreeMap::new(), next: 1 };
    loop {
        // reading is not cancel safe, but a connection whose leases are lost is ended anyhow
        let request = tokio::select! {
            request = receive(&mut stream) => request?,
            () = session.lost() => {
                tracing::warn!("a device's memory is gone that a program was attached to; its connection ends");
                return Ok(());
            }
        };
        match request {
            Some(request) => session.answer(&mut stream, request).await?,
            None => return Ok(()),
        }
    }
}

/// What the kernel says of a program.
fn name(peer: UCred) -> String {
    let process = peer.pid().map(|pid| format!("pid {pid}, ")).unwrap_or_default();
    format!("attached program ({process}user {})", peer.uid())
}

struct Session<'a> {
    agent: &'a Agent,
    /// Its name, for those who ask who holds what.
    program: String,
    leases: BTreeMap<u64, Counted>,
    next: u64,
}

impl Session<'_> {
    async fn answer(&mut self, stream: &mut UnixStream, request: Result<Request, ErrorBody>) -> io::Result<()> {
        let outcome = match request {
            Err(refusal) => Err(refusal),
            Ok(Request::Release { lease }) => match self.leases.remove(&lease) {
                Some(_) => return send(stream, &Answer::Released { lease }, None).await,
                None => Err(ErrorBody::new(ErrorCode::NotFound, format!("there is no lease {lease}"))),
            },
            Ok(Request::Attach(_)) if self.leases.len() >= LEASES => {
                let message = format!("more than {LEASES} leases on one connection");
                Err(ErrorBody::new(ErrorCode::Conflict, message))
            }
            Ok(Request::Attach(wanted)) => {
                // a load may take minutes: nothing is leased for a program that has left meanwhile
                tokio::select! {
                    found = find(self.agent, &wanted, &self.program) => found,
                    () = hung_up(stream) => return Err(io::ErrorKind::ConnectionAborted.into()),
                    () = self.lost() => return Err(io::Error::other("a device's memory is gone that the program was attached to")),
                }
            }
        };
        match outcome {
            Ok(found) => self.hand_over(stream, found).await,
            Err(refusal) => {
                self.agent.metrics.attach_requests.with_label_values(&["refused"]).inc();
                send(stream, &Answer::Error(refusal.into()), None).await
            }
        }
    }

    /// Returns when any lease is lost.
    async fn lost(&self) {
        let lost: Vec<_> = self.leases.values().map(|lease| Box::pin(lease.lost())).collect();
        if lost.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(lost).await;
    }

    async fn hand_over(&mut self, stream: &mut UnixStream, found: Found) -> io::Result<()> {
        let number = self.next;
        let (attached, fd) = attached(&found, number)?;
        send(stream, &Answer::Attached(attached), fd.as_ref()).await?;
        self.agent.metrics.attach_requests.with_label_values(&["attached"]).inc();
        self.next += 1;
        let lease = match found.held {
            Held::Ram(lease) => Kept::Ram { _lease: lease },
            Held::Device(held) => Kept::Device { lease: held.share.lease, _named: held.named },
        };
        self.leases.insert(number, Counted::new(lease, &self.agent.metrics.attach_leases));
        self.agent.changed.notify_one();
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.leases.clear();
        self.agent.changed.notify_one();
    }
}

/// The answer, and the descriptor that goes with it.
fn attached(found: &Found, lease: u64) -> io::Result<(Attached<'_>, Option<OwnedFd>)> {
    let base = |digest: String, offset, bytes, tensors| Attached {
        lease,
        model: &found.model.name,
        id: found.component.id,
        component: &found.component.kind,
        digest,
        resident: found.resident,
        tier: Tier::Ram,
        device: None,
        cuda: None,
        offset,
        bytes,
        tensors,
    };
    Ok(match &found.held {
        Held::Ram(lease) => {
            let tensors = Tensors::from(lease.tensors());
            (base(lease.digest().to_string(), lease.offset(), lease.bytes(), tensors), Some(lease.fd_readonly()?))
        }
        Held::Device(held) => {
            let share = &held.share;
            let offset = share.cuda.as_ref().map_or(0, |cuda| cuda.offset);
            let cuda = share.cuda.as_ref().map(|cuda| CudaMemory { uuid: held.uuid.as_deref(), handle: &cuda.handle });
            let base = base(share.digest.clone(), offset, share.bytes, Tensors::from(&share.tensors[..]));
            let memory = share.memory.as_ref().map(OwnedFd::try_clone).transpose()?;
            (Attached { tier: Tier::Vram, device: Some(&held.device), cuda, ..base }, memory)
        }
    })
}

async fn send(stream: &mut UnixStream, answer: &Answer<'_>, fd: Option<&OwnedFd>) -> io::Result<()> {
    let (header, text) = frame(answer, fd.is_some())?;
    let socket = &*stream;
    let sent = socket.async_io(Interest::WRITABLE, || send_header(socket, &header, fd.map(AsFd::as_fd))).await?;
    // the descriptor went with the first byte
    stream.write_all(header.get(sent..).unwrap_or_default()).await?;
    stream.write_all(&text).await
}

/// Returns when the program has closed its end. A request that it sent ahead hides the end behind it: then never.
async fn hung_up(stream: &UnixStream) {
    let look = || Ok(recv(stream, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?);
    match stream.async_io(Interest::READABLE, look).await {
        Ok((0, _)) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// The next request; none at the end of the connection. A text that is no request is answered, a length that no request has
/// ends the connection.
async fn receive(stream: &mut UnixStream) -> io::Result<Option<Result<Request, ErrorBody>>> {
    let mut header = [0; HEADER];
    match stream.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = length_of(header)?;
    if length > REQUEST_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a request claims {length} bytes")));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    let refused = |error: io::Error| ErrorBody::new(ErrorCode::InvalidArgument, error.to_string());
    Ok(Some(parse(&text).map_err(refused)))
}
