//! Standard input and output as one stream, whose half-close is seen by the other side: shutting it down closes
//! descriptor 1, which is what a program at the other end of a pipe waits for.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Stdin, Stdout};

/// Whether the reader of our standard output has gone away.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalGone(Rc<Cell<bool>>);

impl LocalGone {
    pub(super) fn get(&self) -> bool {
        self.0.get()
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.0.set(true);
        }
        result
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stdio {
    input: Stdin,
    output: Stdout,
    gone: LocalGone,
}

pub(super) fn open() -> (Stdio, LocalGone) {
    let gone = LocalGone::default();
    (Stdio { input: tokio::io::stdin(), output: tokio::io::stdout(), gone: gone.clone() }, gone)
}

impl AsyncRead for Stdio {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.output).poll_write(context, bytes));
        Poll::Ready(self.gone.note(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.output).poll_flush(context));
        Poll::Ready(self.gone.note(flushed))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        // Closing the number itself would let the next file that is opened become standard output.
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(null)?;
        Poll::Ready(Ok(()))
    }
}
