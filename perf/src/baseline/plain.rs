//! tokio: one thread, a task per session, `copy_bidirectional`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Of each direction of each session; tokio's own default is 8 KiB, with which it would relay bulk badly.
const BUFFER_BYTES: usize = 64 * 1_024;

pub(super) fn run(
    plain: SocketAddr,
    tls: Option<(SocketAddr, Arc<ServerConfig>)>,
    to: SocketAddr,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some((address, config)) = tls {
            let (listener, acceptor) = (TcpListener::bind(address).await?, TlsAcceptor::from(config));
            tokio::spawn(accept(listener, move |client| {
                let acceptor = acceptor.clone();
                async move { relay(acceptor.accept(client).await?, to).await }
            }));
        }
        accept(TcpListener::bind(plain).await?, move |client| relay(client, to)).await;
        Ok(())
    })
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    while let Ok((client, _)) = listener.accept().await {
        drop(client.set_nodelay(true));
        tokio::spawn(serve(client));
    }
}

async fn relay(mut client: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await.map(drop)
}
