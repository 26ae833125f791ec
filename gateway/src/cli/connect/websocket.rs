//! A WebSocket (RFC 6455) as a stream of bytes: binary frames out, masked; binary frames in; pings answered.
//!
//! The end of our bytes becomes a close frame, after which the gateway may still send; its close frame is the end
//! of the stream. Two bounded buffers lie between, so a slow side slows the other.

use std::io;

use portcullis_proto::websocket::{
    Decoder, Event, Opcode, Role, client_upgrade, control_frame, frame_header, mask, verify_accept,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::mpsc;

use super::establish::{ClosedWith, Stream, http_refusal, response_head};
use crate::cli::output::Failure;
use crate::exit::Exit;

/// Bytes between the program and the frames, each way.
const BUFFER_BYTES: usize = 64 * 1024;
/// Payload of one frame.
const FRAME_BYTES: usize = 16 * 1024;
/// Answers to control frames that may wait to be written; a gateway that sends more waits.
const CONTROL_QUEUE: usize = 4;
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
    // An error of either ends its half, which the program sees as the end of the stream or as a broken pipe.
    tokio::spawn(async move { drop(outgoing(from_program, writer, answers).await) });
    tokio::spawn(async move {
        let mut to_program = to_program;
        if incoming(reader, &mut to_program, &control, &closed).await.is_err() {
            closed.get_or_init(|| ABNORMAL_CLOSURE);
        }
        // Only now: whoever sees the end of the stream must find out why.
        drop((to_program, control));
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
) -> io::Result<()> {
    let mut payload = vec![0; FRAME_BYTES];
    let mut closing = false;
    while !closing {
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
            read = program.read(&mut payload) => match read? {
                0 => {
                    closing = true;
                    control_frame(Opcode::Close, &NORMAL_CLOSURE.to_be_bytes(), Some(random()?))
                }
                length => {
                    let key = random()?;
                    let mut frame = frame_header(Opcode::Binary, length, Some(key)).as_ref().to_vec();
                    let data = payload.get_mut(..length).unwrap_or_default();
                    mask(data, key, 0);
                    frame.extend_from_slice(data);
                    frame
                }
            },
        };
        socket.write_all(&frame).await?;
        socket.flush().await?;
    }
    // The gateway closes TCP first (RFC 6455 §7.1.1); until it has sent its own close frame we only listen.
    while answers.recv().await.is_some() {}
    socket.shutdown().await
}

async fn incoming<S: AsyncRead>(
    mut socket: ReadHalf<S>,
    program: &mut WriteHalf<DuplexStream>,
    control: &mpsc::Sender<Control>,
    closed: &ClosedWith,
) -> io::Result<()> {
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
                    // The writing half may have ended already; then nobody needs the answer.
                    drop(control.send(Control::Close(violation.close_code())).await);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
                }
            };
            match event {
                Some(Event::Data(range)) => program.write_all(rest.get(range).unwrap_or_default()).await?,
                Some(Event::Ping(payload)) => drop(control.send(Control::Pong(payload)).await),
                Some(Event::Close(code)) => {
                    let code = *closed.get_or_init(|| code.unwrap_or(NORMAL_CLOSURE));
                    drop(control.send(Control::Close(code)).await);
                    return program.shutdown().await;
                }
                Some(Event::Pong) | None => {}
            }
            rest = rest.get_mut(used..).unwrap_or_default();
        }
    }
}
