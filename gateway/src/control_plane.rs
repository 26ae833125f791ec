//! What front threads ask of the control plane, and the loop that answers.
//!
//! The loop itself never waits: each ask is answered by a task of its own, each kind of ask has its own bound, and
//! past the bound it is turned away at once. An ask whose asker has gone (its reply channel is closed) is given up.
//! A reply channel that is dropped without an answer means: overloaded.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_core::deny::Deny;
use portcullis_core::limits::CONTROL_QUEUE;
use portcullis_proto::host_port::HostName;
use portcullis_proto::ticket::Ticket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use zeroize::Zeroizing;

use crate::authn::local::UserDb;
use crate::dns::{ResolveError, Resolver};
use crate::sta::pool::Pool;

/// Name look-ups at once.
const RESOLVING_MAX: usize = 1024;
/// Passwords that are hashed at once: each takes a core and tens of MiB for a while.
const VERIFYING_MAX: usize = 2;
/// Passwords that are hashed or wait for it. At some 50 ms each the last one waits about as long as a client does.
const VERIFY_QUEUE: usize = 128;

/// One question of a front thread.
pub enum Ask {
    /// Redeem at one of these authorities: names of `[[sta]]` sections, or `local`.
    Redeem {
        stas: Arc<[String]>,
        ticket: Ticket,
        reply: oneshot::Sender<TicketAnswer>,
    },
    Resolve {
        name: HostName,
        reply: oneshot::Sender<Result<Vec<IpAddr>, ResolveError>>,
    },
    /// Check a password against the users file of that name.
    Verify {
        users: String,
        user: String,
        password: Zeroizing<Vec<u8>>,
        reply: oneshot::Sender<bool>,
    },
    /// Serve HTTP that is not for a server of the farm.
    Web {
        stream: UnixStream,
        client: SocketAddr,
        listener: String,
        sni: Option<String>,
    },
}

/// A client's decrypted HTTP connection, and what is known of it.
#[derive(Debug)]
pub struct WebAsk {
    pub stream: UnixStream,
    pub client: SocketAddr,
    pub listener: String,
    pub sni: Option<String>,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redeem { .. } => "Redeem",
            Self::Resolve { .. } => "Resolve",
            Self::Verify { .. } => "Verify",
            Self::Web { .. } => "Web",
        })
    }
}

/// Who answers.
#[derive(Clone, Debug)]
pub struct Services {
    pub pool: Arc<Pool>,
    pub resolver: Arc<Resolver>,
    /// By the name of their `[[users]]` section.
    pub users: Arc<ArcSwap<HashMap<String, UserDb>>>,
    /// Where web connections go; when it is full they are closed.
    pub web: mpsc::Sender<WebAsk>,
}

/// How much of each kind may be under way.
#[derive(Debug)]
struct Bounds {
    /// As many as the queue itself may hold: the pool has its own, tighter bounds for each authority, so that a
    /// dead one cannot use this up.
    redeeming: Arc<Semaphore>,
    resolving: Arc<Semaphore>,
    verify_queue: Arc<Semaphore>,
    verifying: Arc<Semaphore>,
}

/// Answers until the last asker is gone.
pub async fn run(services: Services, mut asks: mpsc::Receiver<Ask>) {
    let bound = |most| Arc::new(Semaphore::new(most));
    let bounds = Bounds {
        redeeming: bound(CONTROL_QUEUE),
        resolving: bound(RESOLVING_MAX),
        verify_queue: bound(VERIFY_QUEUE),
        verifying: bound(VERIFYING_MAX),
    };
    while let Some(ask) = asks.recv().await {
        match ask {
            Ask::Redeem { stas, ticket, reply } => redeem(&services, &bounds, stas, ticket, reply),
            Ask::Resolve { name, reply } => resolve(&services, &bounds, name, reply),
            Ask::Verify { users, user, password, reply } => {
                let Some(place) = place(&bounds.verify_queue, "verify") else { continue };
                let users_now = services.users.load_full();
                let verifying = Arc::clone(&bounds.verifying);
                let check = move || users_now.get(&users).is_some_and(|users| users.verify(&user, &password));
                tokio::spawn(verify(check, verifying, place, reply));
            }
            Ask::Web { stream, client, listener, sni } => {
                let name = listener.clone();
                if services.web.try_send(WebAsk { stream, client, listener, sni }).is_err() {
                    tracing::debug!("a web connection was closed: too many are waiting");
                    crate::metrics::refused(&name, Deny::Overloaded);
                }
            }
        }
    }
}

fn place(bound: &Arc<Semaphore>, kind: &'static str) -> Option<OwnedSemaphorePermit> {
    let place = Arc::clone(bound).try_acquire_owned().ok();
    if place.is_none() {
        tracing::debug!(kind, "the control plane is overloaded");
    }
    place
}

fn redeem(
    services: &Services,
    bounds: &Bounds,
    stas: Arc<[String]>,
    ticket: Ticket,
    mut reply: oneshot::Sender<TicketAnswer>,
) {
    let Some(place) = place(&bounds.redeeming, "redeem") else {
        answer(reply, TicketAnswer::Unavailable(Unavailable::Overloaded));
        return;
    };
    let pool = Arc::clone(&services.pool);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            redeemed = pool.redeem(&stas, &ticket) => answer(reply, redeemed),
            () = reply.closed() => {}
        }
    });
}

fn resolve(
    services: &Services,
    bounds: &Bounds,
    name: HostName,
    mut reply: oneshot::Sender<Result<Vec<IpAddr>, ResolveError>>,
) {
    let Some(place) = place(&bounds.resolving, "resolve") else { return };
    let resolver = Arc::clone(&services.resolver);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            found = resolver.lookup(&name) => answer(reply, found),
            () = reply.closed() => {}
        }
    });
}

/// Runs `check`, which takes a core for a while, where it holds up nobody.
async fn verify(
    check: impl FnOnce() -> bool + Send + 'static,
    verifying: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
    mut reply: oneshot::Sender<bool>,
) {
    let permit = tokio::select! {
        permit = verifying.acquire_owned() => permit,
        () = reply.closed() => return,
    };
    let Ok(permit) = permit else { return };
    // The permit goes along: hashing cannot be broken off, even when its asker has gone.
    let checked = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        check()
    });
    match checked.await {
        Ok(verdict) => answer(reply, verdict),
        Err(error) => tracing::error!(%error, "checking a password failed"),
    }
}

fn answer<T>(reply: oneshot::Sender<T>, answer: T) {
    if reply.send(answer).is_err() {
        tracing::trace!("the asker went before its answer came");
    }
}
