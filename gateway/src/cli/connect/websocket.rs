//! A WebSocket (RFC 6455) as a stream of bytes: binary frames out, masked; binary frames in; pings answered.
//!
//! A WebSocket has no half-close: a gateway that sees our close frame takes it that we want nothing more. So the end
//! of our bytes becomes a close frame only when nothing has come back for a while; a gateway's close frame is the
//! end of the stream. Two bounded buffers lie between, so a slow side slows the other.

use std::io;
use std::time::Duration;

use portcullis_proto::websocket::{
    Decoder, Event, Opcode, Role, client_upgrade, control_frame, frame_header, mask, verify_accept,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::establish::{ClosedWith, Stream, http_refusal, response_head};
use crate::cli::output::Failure;
use crate::exit::Exit;

/// Bytes between the program and the frames, each way.
const BUFFER_BYTES: usize = 64 * 1024;
/// Payload of one frame.
const FRAME_BYTES: usize = 16 * 1024;
/// Answers to control frames that may wait to be written; a gateway that sends more waits.
const CONTROL_QUEUE: usize = 4;
/// How long nothing must have come back after the end of our bytes before we close. Long enough for a server to think,
/// short enough for sessions whose client has gone.
const QUIET_BEFORE_CLOSE: Duration = Duration::from_secs(10);
const NORMAL_CLOSURE: u16 = 1000;
/// RFC 6455 §7.4.1: never sent, and the word for an end without a close frame.
pub(super) const ABNORMAL_CLOSURE: u16 = 1006;
const PATH: &str = "/";

/// Makes the opening handshake and returns the stream inside the WebSocket.
pub(super) async fn open(
    mut stream: Box<dyn Stream>,
    host: &str,
    closed: ClosedWith,
) -> Result<DuplexStream, Failure> {
    let key = random().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let broke = |error: io::Error| {
        Failure::new(Exit::Unavailable, format!("the connection to the gateway broke: {error}"))
    };
    stream.write_all(&client_upgrade(host, PATH, &key)).await.map_err(broke)?;
    stream.flush().await.map_err(broke)?;
    let head = response_head(&mut stream).await?;
    if head.status != 101 {
        return Err(http_refusal(&mut stream, &head).await);
    }
    verify_accept(&head, &key).map_err(|error| {
        Failure::new(Exit::Refused, format!("the gateway's answer is malformed: {error}"))
    })?;
    Ok(bridge(stream, closed))
}

fn bridge<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, closed: ClosedWith) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
    let (from_program, to_program) = tokio::io::split(theirs);
    let (reader, writer) = tokio::io::split(stream);
    let (control, answers) = mpsc::channel(CONTROL_QUEUE);
    let (heard, hearing) = watch::channel(());
    // An error of either ends its half, which the program sees as the end of the stream or as a broken pipe.
    tokio::spawn(async move { drop(outgoing(from_program, writer, answers, hearing).await) });
    tokio::spawn(async move {
        let mut incoming = Incoming { to_program, control, heard, closed };
        if incoming.run(reader).await.is_err() {
            incoming.closed.get_or_init(|| ABNORMAL_CLOSURE);
        }
        // Only now: whoever sees the end of the stream must find out why.
        drop(incoming);
    });
    ours
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(bytes)
}

/// An answer that the reading half asks the writing half for.
enum Control {
    Pong(Vec<u8>),
    /// The gateway has closed, or must be told a violation.
    Close(u16),
}

async fn outgoing<S: AsyncWrite>(
    mut program: ReadHalf<DuplexStream>,
    mut socket: WriteHalf<S>,
    mut answers: mpsc::Receiver<Control>,
    mut heard: watch::Receiver<()>,
) -> io::Result<()> {
    let mut payload = vec![0; FRAME_BYTES];
    let (mut ended, mut closing) = (false, false);
    while !closing {
        let quiet = async { while let Ok(Ok(())) = timeout(QUIET_BEFORE_CLOSE, heard.changed()).await {} };
        let frame = tokio::select! {
            biased;
            answer = answers.recv() => match answer {
                Some(Control::Pong(payload)) => control_frame(Opcode::Pong, &payload, Some(random()?)),
                Some(Control::Close(code)) => {
                    closing = true;
                    control_frame(Opcode::Close, &code.to_be_bytes(), Some(random()?))
                }
                None => break,
            },
            read = program.read(&mut payload), if !ended => match read? {
                0 => {
                    ended = true;
                    continue;
                }
                length => data_frame(payload.get_mut(..length).unwrap_or_default())?,
            },
            () = quiet, if ended => {
                closing = true;
                control_frame(Opcode::Close, &NORMAL_CLOSURE.to_be_bytes(), Some(random()?))
            }
        };
        socket.write_all(&frame).await?;
        socket.flush().await?;
    }
    // The gateway closes TCP first (RFC 6455 §7.1.1); until it has sent its own close frame we only listen.
    while answers.recv().await.is_some() {}
    socket.shutdown().await
}

fn data_frame(payload: &mut [u8]) -> io::Result<Vec<u8>> {
    let key = random()?;
    let header = frame_header(Opcode::Binary, payload.len(), Some(key));
    mask(payload, key, 0);
    Ok([header.as_ref(), &*payload].concat())
}

/// The reading half and whom it tells of what it reads.
struct Incoming {
    to_program: WriteHalf<DuplexStream>,
    control: mpsc::Sender<Control>,
    heard: watch::Sender<()>,
    closed: ClosedWith,
}

impl Incoming {
    async fn run<S: AsyncRead>(&mut self, mut socket: ReadHalf<S>) -> io::Result<()> {
        let mut decoder = Decoder::new(Role::Client);
        let mut buffer = vec![0; FRAME_BYTES];
        loop {
            let length = socket.read(&mut buffer).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut rest = buffer.get_mut(..length).unwrap_or_default();
            while !rest.is_empty() {
                let (used, event) = match decoder.decode(rest) {
                    Ok(decoded) => decoded,
                    Err(violation) => {
                        self.answer(Control::Close(violation.close_code())).await;
                        return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
                    }
                };
                match event {
                    Some(Event::Data(range)) => {
                        self.heard.send_replace(());
                        self.to_program.write_all(rest.get(range).unwrap_or_default()).await?;
                    }
                    Some(Event::Ping(payload)) => self.answer(Control::Pong(payload)).await,
                    Some(Event::Close(code)) => {
                        let code = *self.closed.get_or_init(|| code.unwrap_or(NORMAL_CLOSURE));
                        self.answer(Control::Close(code)).await;
                        return self.to_program.shutdown().await;
                    }
                    Some(Event::Pong) | None => {}
                }
                rest = rest.get_mut(used..).unwrap_or_default();
            }
        }
    }

    /// The writing half may have ended already; then nobody needs the answer.
    async fn answer(&self, control: Control) {
        drop(self.control.send(control).await);
    }
}

#[cfg(test)]
mod tests {
    use portcullis_proto::websocket::close_frame;
    use tokio::time::Instant;

    use super::*;

    /// The program's end of a bridge, the gateway's end, and the code of the end.
    fn bridged() -> (DuplexStream, DuplexStream, ClosedWith) {
        let (ours, gateway) = tokio::io::duplex(BUFFER_BYTES);
        let closed = ClosedWith::default();
        (bridge(ours, ClosedWith::clone(&closed)), gateway, closed)
    }

    /// What the client sends until it closes.
    async fn until_close(gateway: &mut DuplexStream) -> Vec<u8> {
        let (mut decoder, mut sent, mut buffer) = (Decoder::new(Role::Server), Vec::new(), [0; 1000]);
        loop {
            let length = gateway.read(&mut buffer).await.unwrap();
            let mut rest = &mut buffer[..length];
            while !rest.is_empty() {
                let (used, event) = decoder.decode(rest).unwrap();
                match event {
                    Some(Event::Data(range)) => sent.extend_from_slice(&rest[range]),
                    Some(Event::Close(_)) => return sent,
                    other => assert_eq!(other, None),
                }
                rest = &mut rest[used..];
            }
        }
    }

    async fn say(gateway: &mut DuplexStream, text: &[u8]) {
        let header = frame_header(Opcode::Binary, text.len(), None);
        gateway.write_all(&[header.as_ref(), text].concat()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_our_bytes_closes_only_when_nothing_has_come_back_for_a_while() {
        let (mut program, mut gateway, _) = bridged();
        program.write_all(b"hello").await.unwrap();
        program.shutdown().await.unwrap();
        let start = Instant::now();
        for _ in 0..3 {
            // The clock is paused: it jumps there as soon as everybody waits.
            timeout(QUIET_BEFORE_CLOSE / 2, std::future::pending::<()>()).await.unwrap_err();
            say(&mut gateway, b"still here").await;
            program.read_exact(&mut [0; 10]).await.unwrap();
        }
        assert_eq!(until_close(&mut gateway).await, b"hello");
        assert_eq!(start.elapsed().as_secs(), (QUIET_BEFORE_CLOSE / 2 * 5).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_closes_is_answered_at_once() {
        let (mut program, mut gateway, closed) = bridged();
        say(&mut gateway, b"bye").await;
        gateway.write_all(&close_frame(1000)).await.unwrap();
        let start = Instant::now();
        let mut received = Vec::new();
        program.read_to_end(&mut received).await.unwrap();
        assert_eq!((received.as_slice(), closed.get()), (&b"bye"[..], Some(&1000)));
        assert_eq!(until_close(&mut gateway).await, b"");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
