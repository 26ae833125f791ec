//! tokio-uring: the same logic, one task per direction.

use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

use anyhow::Result;
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::net::{TcpListener, TcpStream};

const BUFFER_BYTES: usize = 64 * 1_024;

pub(super) fn run(plain: SocketAddr, to: SocketAddr) -> Result<()> {
    tokio_uring::start(async {
        let listener = TcpListener::bind(plain)?;
        while let Ok((client, _)) = listener.accept().await {
            drop(client.set_nodelay(true));
            tokio_uring::spawn(relay(client, to));
        }
        Ok(())
    })
}

async fn relay(client: TcpStream, to: SocketAddr) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    drop(server.set_nodelay(true));
    let (client, server) = (Rc::new(client), Rc::new(server));
    let up = tokio_uring::spawn(copy(Rc::clone(&client), Rc::clone(&server)));
    copy(server, client).await;
    drop(up.await);
}

/// Until one end closes; then the other is told.
async fn copy(from: Rc<TcpStream>, into: Rc<TcpStream>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (read, whole) = from.read(buffer).await;
        let Some(count) = read.ok().filter(|count| *count > 0) else { break };
        let (written, piece) = into.write_all(whole.slice(..count)).await;
        buffer = piece.into_inner();
        if written.is_err() {
            break;
        }
    }
    drop(into.shutdown(Shutdown::Write));
}
