//! Our own ticket authority: its id and its live tickets.
//!
//! Tickets live in memory. After a restart every earlier ticket is refused as unknown. The id is not secret and
//! does survive: StoreFront and clients know the authority by it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use portcullis_core::answer::TicketAnswer;
use portcullis_core::ticket_store::{TicketData, TicketRefusal, TicketStore};
use portcullis_proto::ticket::{AuthorityId, Ticket, TicketSecret, TicketString, VERSION_CURRENT};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::StaError;
use crate::config::StaServerConfig;
use crate::sync::lock;

/// Where the id is kept, below the state directory.
const ID_FILE: &str = "authority-id";
/// Longer than any id with its line end; anything longer in the file is no id.
const ID_FILE_MAX_BYTES: u64 = 64;

/// Issues tickets and redeems them.
#[derive(Debug)]
pub struct Authority {
    id: AuthorityId,
    life: Duration,
    random: SystemRandom,
    tickets: Mutex<TicketStore>,
}

impl Authority {
    /// An authority with the id of the configuration, else the one kept in `state_dir`, else a new one that is
    /// kept there.
    ///
    /// # Errors
    /// When the id cannot be read, made or kept: an id that changes at each start would break every StoreFront.
    pub fn open(config: &StaServerConfig, state_dir: &Path) -> Result<Self, StaError> {
        let id = match &config.authority_id {
            Some(id) => id.clone(),
            None => kept_id(&state_dir.join(ID_FILE))?,
        };
        Ok(Self::new(id, config.ticket_life, config.max_tickets))
    }

    /// An authority without tickets. `life` is that of a ticket for which nobody asks otherwise.
    #[must_use]
    pub fn new(id: AuthorityId, life: Duration, max_tickets: usize) -> Self {
        let tickets = Mutex::new(TicketStore::new(max_tickets));
        Self { id, life, random: SystemRandom::new(), tickets }
    }

    #[must_use]
    pub fn id(&self) -> &AuthorityId {
        &self.id
    }

    /// Issues a ticket of 128 random bits; `life` is cut at `ticket_store::LIFE_MAX`.
    ///
    /// # Errors
    /// [`TicketRefusal::Full`] while too many tickets live, or while the system gives no randomness.
    pub fn issue(
        &self,
        data: TicketData,
        refreshable: bool,
        life: Option<Duration>,
    ) -> Result<TicketString, TicketRefusal> {
        let mut random = [0; 16];
        self.random.fill(&mut random).map_err(|_unspecified| {
            tracing::error!("the system gives no randomness: no ticket can be issued");
            TicketRefusal::Full
        })?;
        let life = life.unwrap_or(self.life);
        let secret = self.with(|tickets, now| tickets.issue(now, random, data, refreshable, life))?;
        crate::metrics::ticket_issued();
        let ticket = Ticket { authority: self.id.clone(), secret };
        Ok(TicketString::new(VERSION_CURRENT, ticket, None))
    }

    /// Redeems a ticket; one that is not refreshable is used up.
    pub fn redeem(&self, secret: &TicketSecret) -> TicketAnswer {
        let redeemed = self.with(|tickets, now| tickets.redeem(now, secret));
        let (answer, result) = match redeemed {
            Ok(data) => (TicketAnswer::Granted(data), "granted"),
            Err(refusal) => (TicketAnswer::Refused(refusal), refusal.label()),
        };
        crate::metrics::ticket_redeemed(result);
        answer
    }

    /// Takes back tickets that have not served yet, or may serve again; says how many.
    pub fn revoke(&self, chosen: impl Fn(&TicketData) -> bool) -> usize {
        self.with(|tickets, now| tickets.revoke(now, chosen))
    }

    /// How many tickets could be redeemed now.
    pub fn live(&self) -> usize {
        self.with(|tickets, now| tickets.live(now))
    }

    fn with<T>(&self, act: impl FnOnce(&mut TicketStore, Instant) -> T) -> T {
        // The store keeps no promise halfway through a call that a panic elsewhere could break.
        let mut tickets = lock(&self.tickets);
        act(&mut tickets, Instant::now())
    }
}

/// Reads the id that was kept, or makes and keeps one.
fn kept_id(path: &Path) -> Result<AuthorityId, StaError> {
    let failed = |reason: String| StaError::AuthorityId { path: path.to_owned(), reason };
    match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(ID_FILE_MAX_BYTES)
                .read_to_string(&mut text)
                .map_err(|error| failed(error.to_string()))?;
            AuthorityId::parse(text.trim()).map_err(|malformed| {
                failed(format!("{malformed}; put the former id there, or remove the file to get a new one"))
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = new_id()?;
            keep(path, &id).map_err(|error| failed(error.to_string()))?;
            tracing::info!(authority = %id, path = %path.display(), "made the id of our ticket authority");
            Ok(id)
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

fn new_id() -> Result<AuthorityId, StaError> {
    let mut random = [0; 6];
    SystemRandom::new().fill(&mut random).map_err(|_unspecified| StaError::Randomness)?;
    let digits: String = random.iter().map(|byte| format!("{byte:02X}")).collect();
    AuthorityId::parse(&format!("STA{digits}")).map_err(|_malformed| StaError::Randomness)
}

/// Writes the whole file or none of it, and returns only when it would survive a power cut.
fn keep(path: &Path, id: &AuthorityId) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let mut temporary = PathBuf::from(path);
    temporary.set_extension("new");
    // A leftover of an earlier power cut is in the way of `create_new`, which refuses to follow a planted link.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use portcullis_proto::host_port::HostPort;

    use super::*;

    fn config() -> StaServerConfig {
        StaServerConfig {
            listen: Vec::new(),
            certificate: None,
            authority_id: None,
            allow_from: Vec::new(),
            security_key: None,
            ticket_life: Duration::from_secs(100),
            max_tickets: 2,
        }
    }

    fn data() -> TicketData {
        TicketData { ica: Some(HostPort::parse("10.0.0.9:1494").unwrap()), ..TicketData::default() }
    }

    #[test]
    fn the_id_is_made_once_and_only_the_daemon_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(&config(), dir.path()).unwrap();
        let second = Authority::open(&config(), dir.path()).unwrap();
        assert_eq!(first.id(), second.id());
        assert_eq!(first.id().as_str().len(), "STA".len() + 12);
        let mode = fs::metadata(dir.path().join(ID_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_leftover_of_a_power_cut_does_not_stop_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("authority-id.new"), "STA").unwrap();
        fs::write(dir.path().join("authority-id").with_extension("new"), "STA").unwrap();
        Authority::open(&config(), dir.path()).unwrap();
    }

    #[test]
    fn a_damaged_id_is_an_error_and_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ID_FILE);
        for damage in ["", "STA12", &"A".repeat(4096)] {
            fs::write(&path, damage).unwrap();
            let error = Authority::open(&config(), dir.path()).unwrap_err().to_string();
            assert!(error.contains("authority-id") && error.contains("remove the file"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damage);
        }
    }

    #[test]
    fn a_configured_id_touches_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let id = AuthorityId::parse("STA490101972").unwrap();
        let authority =
            Authority::open(&StaServerConfig { authority_id: Some(id.clone()), ..config() }, dir.path());
        assert_eq!(*authority.unwrap().id(), id);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_ticket_serves_once_and_a_refreshable_one_again() {
        let authority =
            Authority::new(AuthorityId::parse("STA490101972").unwrap(), Duration::from_secs(9), 9);
        let once = authority.issue(data(), false, None).unwrap();
        let again = authority.issue(data(), true, None).unwrap();
        assert_eq!(authority.live(), 2);
        assert_eq!(once.first().secret.expose().len(), 32);
        assert_eq!(authority.redeem(&once.first().secret), TicketAnswer::Granted(data()));
        assert_eq!(authority.redeem(&once.first().secret), TicketAnswer::Refused(TicketRefusal::Unknown));
        assert_eq!(authority.redeem(&again.first().secret), TicketAnswer::Granted(data()));
        assert_eq!(authority.redeem(&again.first().secret), TicketAnswer::Granted(data()));
        assert_eq!(authority.live(), 1);
    }

    #[test]
    fn a_ticket_without_life_is_expired_at_once() {
        let authority =
            Authority::new(AuthorityId::parse("STA490101972").unwrap(), Duration::from_secs(9), 9);
        let dead = authority.issue(data(), false, Some(Duration::ZERO)).unwrap();
        assert_eq!(authority.redeem(&dead.first().secret), TicketAnswer::Refused(TicketRefusal::Expired));
    }

    #[test]
    fn past_the_most_tickets_none_is_issued() {
        let authority =
            Authority::new(AuthorityId::parse("STA490101972").unwrap(), Duration::from_secs(9), 2);
        for _ in 0..2 {
            authority.issue(data(), false, None).unwrap();
        }
        assert_eq!(authority.issue(data(), false, None), Err(TicketRefusal::Full));
    }
}
