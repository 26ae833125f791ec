//! What the daemon's reloader is asked for: by operators, and by certificates that have come.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::ReloadPlan;
use crate::role::Origin;

/// Orders that may wait.
const QUEUE: usize = 8;
/// How long one may take before who asked is told that it goes on without them.
const WAIT: Duration = Duration::from_secs(20);

/// What the reloader is to do.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration file again.
    Reload,
    /// Read again what the configuration in force names: certificates, secrets.
    Refresh,
    /// Put a text in force, and in the file's place.
    Commit { text: String, hold: Option<Duration>, comment: String },
}

/// What it did.
#[derive(Debug, Default)]
pub struct Applied {
    pub plan: ReloadPlan,
    /// Of the entry in the history; 0 for none.
    pub number: u64,
}

/// Something that was asked for, and by whom.
#[derive(Debug)]
pub struct Request {
    pub what: Order,
    pub origin: Origin,
    /// Where the outcome goes; who asked may have gone.
    pub reply: oneshot::Sender<Result<Applied, String>>,
}

/// Why an order is not known to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    #[error("the daemon is busy reloading or stopping")]
    Busy,
    /// It was tried, and everything is as before.
    #[error("{0}")]
    Refused(String),
}

/// The way to the reloader.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Request>);

impl Orders {
    /// A way, and where it ends.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Lets the reloader do something, and waits for it.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn give(&self, origin: Origin, what: Order) -> Result<Applied, NotDone> {
        let (reply, outcome) = oneshot::channel();
        self.0.try_send(Request { what, origin, reply }).map_err(|_| NotDone::Busy)?;
        let outcome = tokio::time::timeout(WAIT, outcome).await;
        outcome.map_err(|_| NotDone::Busy)?.map_err(|_| NotDone::Busy)?.map_err(NotDone::Refused)
    }
}
