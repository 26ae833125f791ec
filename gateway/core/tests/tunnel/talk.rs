//! The conversation that every test here holds: it feeds bytes, answers commands, and keeps what the client sees.

pub(crate) use std::net::{IpAddr, SocketAddr};
pub(crate) use std::sync::Arc;
pub(crate) use std::time::{Duration, Instant};

pub(crate) use portcullis_core::answer::{TicketAnswer, Unavailable};
pub(crate) use portcullis_core::command::{Command, Framing};
pub(crate) use portcullis_core::deny::Deny;
pub(crate) use portcullis_core::limits::{AMBIGUITY_WAIT, Limits, SETUP_INPUT_MAX_BYTES};
pub(crate) use portcullis_core::policy::{Destination, Policy, Rule};
pub(crate) use portcullis_core::profile::{Kind, Profile};
pub(crate) use portcullis_core::session::SessionInfo;
pub(crate) use portcullis_core::ticket_store::{TicketData, TicketRefusal};
pub(crate) use portcullis_core::tunnel::{DialError, ResolveError, Tunnel};
pub(crate) use portcullis_proto::host_port::HostPort;
pub(crate) use proptest::prelude::*;

pub(crate) const TICKET: &str = ";40;STA490101972;0123456789ABCDEF0123456789ABCD";
pub(crate) const DOUBLE: &str =
    ";42;STA111111111;0123456789ABCDEF0123456789ABCD;STA222222222;FEDCBA98765432100123456789ABCD";
pub(crate) const INSIDE: &str = "10.77.0.9";

/// How the outside world answers.
pub(crate) struct World {
    pub(crate) tickets: Vec<TicketAnswer>,
    pub(crate) names: Result<Vec<IpAddr>, ResolveError>,
    pub(crate) admitted: Result<(), Deny>,
    pub(crate) dialed: Result<(), DialError>,
    pub(crate) password_is_right: Option<bool>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            tickets: vec![TicketAnswer::Granted(data(Some("10.77.0.9:1494"), Some("10.77.0.9:2598")))],
            names: Ok(vec![INSIDE.parse().expect("a legal value")]),
            admitted: Ok(()),
            dialed: Ok(()),
            password_is_right: Some(true),
        }
    }
}

#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Relays { forward: Vec<u8>, framed: bool },
    Web(Vec<u8>),
    Closed(Option<Deny>),
}

pub(crate) struct Talk {
    pub(crate) tunnel: Tunnel,
    pub(crate) world: World,
    pub(crate) now: Instant,
    /// All bytes that the client got.
    pub(crate) client: Vec<u8>,
    pub(crate) redeemed: usize,
    pub(crate) dialed: Option<String>,
    pub(crate) info: Option<SessionInfo>,
    pub(crate) outcome: Option<Outcome>,
}

impl Talk {
    pub(crate) fn new(kind: Kind, world: World) -> Self {
        Self::with(profile(kind), world)
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    pub(crate) fn with(profile: Profile, world: World) -> Self {
        let now = Instant::now();
        let tunnel = Tunnel::new(Arc::new(profile), source(), now);
        Self::of(tunnel, world, now)
    }

    /// A connection of a `forward` listener for which these servers were chosen.
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    pub(crate) fn forwarded(servers: &[SocketAddr], world: World) -> Self {
        let now = Instant::now();
        let tunnel = Tunnel::forward(Arc::new(profile(Kind::Forward)), source(), servers, now);
        Self::of(tunnel, world, now)
    }

    fn of(tunnel: Tunnel, world: World, now: Instant) -> Self {
        let mut talk = Self {
            tunnel,
            world,
            now,
            client: Vec::new(),
            redeemed: 0,
            dialed: None,
            info: None,
            outcome: None,
        };
        talk.drain();
        talk
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        if self.outcome.is_none() {
            assert!(self.tunnel.wants_bytes());
            self.tunnel.handle_bytes(bytes, self.now);
            self.drain();
        }
        self
    }

    pub(crate) fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.tunnel.handle_timeout(self.now);
        self.drain();
        self
    }

    pub(crate) fn drain(&mut self) {
        while let Some(command) = self.tunnel.poll_command() {
            assert!(self.outcome.is_none(), "{command:?} after the end");
            match command {
                Command::Redeem { .. } => {
                    let answer = self.world.tickets[self.redeemed].clone();
                    self.redeemed += 1;
                    self.tunnel.handle_ticket(answer, self.now);
                }
                Command::Verify { .. } => self.tunnel.handle_verified(self.world.password_is_right, self.now),
                Command::Resolve { .. } => self.tunnel.handle_resolved(self.world.names.clone(), self.now),
                Command::Admit { info } => {
                    self.info = Some(info);
                    self.tunnel.handle_admitted(self.world.admitted);
                }
                Command::Dial { permit, .. } => {
                    let addresses: Vec<String> = permit.addresses().iter().map(ToString::to_string).collect();
                    self.dialed = Some(addresses.join(","));
                    self.tunnel.handle_dialed(self.world.dialed);
                }
                Command::Reply { bytes } => self.client.extend(bytes),
                Command::Relay(relay) => {
                    let framed = matches!(relay.framing, Framing::WebSocket(_));
                    self.outcome = Some(Outcome::Relays { forward: relay.forward, framed });
                }
                Command::HandToWeb { bytes } => self.outcome = Some(Outcome::Web(bytes)),
                Command::Close { reason } => self.outcome = Some(Outcome::Closed(reason)),
            }
        }
    }

    pub(crate) fn relays(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Relays { .. }))
    }

    pub(crate) fn denied(&self) -> Option<Deny> {
        match self.outcome {
            Some(Outcome::Closed(reason)) => reason,
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.client).into_owned()
    }
}

fn source() -> SocketAddr {
    "192.0.2.7:5000".parse().expect("a legal value")
}

pub(crate) fn data(ica: Option<&str>, cgp: Option<&str>) -> TicketData {
    let address = |text: Option<&str>| text.map(|text| HostPort::parse(text).expect("a legal value"));
    TicketData { ica: address(ica), cgp: address(cgp), ..TicketData::default() }
}

pub(crate) fn profile(kind: Kind) -> Profile {
    Profile {
        listener: "test".into(),
        kind,
        tickets: matches!(kind, Kind::Gateway | Kind::HdxOnly),
        credentials: false,
        target: None,
        policy: Policy::new(vec![Rule::ica_anywhere()]),
        limits: Limits::default(),
    }
}

pub(crate) fn socks_request(name: &str) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 3, u8::try_from(name.len()).expect("a legal value")];
    bytes.extend(name.as_bytes());
    bytes.extend(1494_u16.to_be_bytes());
    bytes
}

pub(crate) fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).expect("a legal value"), 1, 2, 3, 4];
    frame.extend(payload.iter().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

pub(crate) const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
