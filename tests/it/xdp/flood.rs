//! Floods: budgets, SYN cookies that the kernel's own TCP takes, and clients that get through all the same.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::tables::{Cookies, LISTENER_SYNS, Setting};
use portcullis_tests::client::{self, Client};
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::object;
use crate::program::{A, Program, XDP_DROP, XDP_PASS, XDP_TX, v4, v6};
use crate::wire::{OPEN, Scene};

/// Budgets of all together are per processor.
fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn segment(sequence: u32, acknowledged: u32, flags: u8, options: &[u8]) -> Vec<u8> {
    let offset = u8::try_from((20 + options.len()) / 4).unwrap() << 4;
    let ports = [0xc3, 0x50, 1, 0xbb];
    let rest = [offset, flags, 0xff, 0xff, 0, 0, 0, 0];
    [&ports[..], &sequence.to_be_bytes(), &acknowledged.to_be_bytes(), &rest, options].concat()
}

pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 0x10;
/// As Linux sends them: segment size, selective acknowledgement, timestamps, window scale.
const OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

fn syn(source: [u8; 4]) -> Vec<u8> {
    v4(source, 6, 0, 0, &segment(7, 0, SYN, &OPTIONS))
}

#[test]
fn one_source_opens_so_many_connections_and_another_as_many() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    program.set(Setting::SynSource, 3);
    let causes = |program: &mut Program, frame: Vec<u8>| [(); 5].map(|()| program.run(&frame).1);
    let expected = {
        use Cause::{RuleAccepts, SynSource};
        [RuleAccepts, RuleAccepts, RuleAccepts, SynSource, SynSource]
    };
    assert_eq!(causes(&mut program, syn(A)), expected);
    assert_eq!(causes(&mut program, syn([192, 0, 2, 7])), expected);
    // The addresses of one IPv6 network are one source.
    let of = |host: u8| v6(&format!("2001:db8::1:{host}"), 6, 64, &segment(7, 0, SYN, &OPTIONS));
    let v6: Vec<Cause> = (1..6).map(|host| program.run(&of(host)).1).collect();
    assert_eq!(v6, expected);
}

#[test]
fn all_together_open_so_many_connections_and_echo_so_often() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    stay_on(0);
    program.set(Setting::SynTotal, 2);
    program.set(Setting::Icmp, 2);
    let sources = [1, 2, 3, 4].map(|host| program.run(&syn([198, 51, 100, host])));
    let (pass, drop) = ((XDP_PASS, Cause::RuleAccepts), (XDP_DROP, Cause::SynTotal));
    assert_eq!(sources, [pass, pass, drop, drop]);
    let echo = v4(A, 1, 0, 0, &[8, 0, 0, 0, 0, 0, 0, 0]);
    let echoes = [(); 3].map(|()| program.run(&echo).1);
    assert_eq!(echoes, [Cause::Icmp, Cause::Icmp, Cause::IcmpRate]);
}

/// Uses up what reaches the listener, then returns the answer to the frame.
fn answered(program: &mut Program, frame: &[u8]) -> Vec<u8> {
    for _ in 0..=LISTENER_SYNS * 2 {
        match program.run_to_frame(frame) {
            (XDP_TX, Cause::CookieSent, answer) => return answer,
            (action, cause, _) => assert_eq!((action, cause), (XDP_PASS, Cause::RuleAccepts)),
        }
    }
    panic!("never answered");
}

/// The segment that completes a connection, by what it acknowledges.
type Completes = fn(u32) -> Vec<u8>;

/// SYNs, each with the segment that completes its connection.
fn openings() -> [(Vec<u8>, Completes); 3] {
    fn tagged(frame: Vec<u8>) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
    }
    fn six(payload: &[u8]) -> Vec<u8> {
        v6("2001:db8::1", 6, 64, payload)
    }
    [
        (syn(A), |ack| v4(A, 6, 0, 0, &segment(8, ack, ACK, &[]))),
        // An IPv4 header with options, behind a VLAN tag; the first segment carries data.
        (tagged(v4(A, 6, 8, 0, &segment(7, 0, SYN, &OPTIONS))), |ack| {
            tagged(v4(A, 6, 0, 0, &[segment(8, ack, ACK, &[]), b"data".to_vec()].concat()))
        }),
        (six(&segment(7, 0, SYN, &OPTIONS)), |ack| six(&segment(8, ack, ACK, &[]))),
    ]
}

#[test]
fn a_cookie_comes_back_and_is_known_and_another_number_is_not() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    program.set(Setting::Cookies, Cookies::Always.to_word());
    for (frame, completes) in openings() {
        let mut frame = frame;
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        let answer = answered(&mut program, &frame);
        assert!(answer.len() <= frame.len() && answer.len() >= 58, "{} bytes", answer.len());
        assert_eq!((&answer[..6], &answer[6..12]), (&frame[6..12], &frame[..6]), "turned round");
        let tcp = answer.windows(4).position(|window| window == [1, 0xbb, 0xc3, 0x50]).unwrap();
        let cookie = u32::from_be_bytes(answer[tcp + 4..tcp + 8].try_into().unwrap());
        assert_eq!(answer[tcp + 8..tcp + 14], [0, 0, 0, 8, 0x60, SYN | ACK]);
        assert_eq!(answer[tcp + 20..tcp + 22], [2, 4]);
        witness(&answer);
        let right = completes(cookie.wrapping_add(1));
        assert_eq!(program.run(&right), (XDP_PASS, Cause::Cookie));
        let wrong = completes(cookie.wrapping_add(0x0100_0002));
        assert_eq!(program.run(&wrong), (XDP_DROP, Cause::CookieRefused));
        // In peace as well: the kernel answers with cookies when a queue of its own is full.
        program.set(Setting::Cookies, Cookies::Off.to_word());
        assert_eq!(program.run(&right), (XDP_PASS, Cause::Cookie));
        assert_eq!(program.run(&wrong), (XDP_DROP, Cause::NoFlow));
        program.set(Setting::Cookies, Cookies::Always.to_word());
    }
}

/// tcpdump says what the frame is, and that its checksums are right.
fn witness(frame: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
    let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    let pcap = [&header[..], &[0; 8], &length, &length, frame].concat();
    std::fs::write(file.path(), pcap).unwrap();
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-nvv", "-r"]).arg(file.path());
    let Ok(output) = process::run(&mut tcpdump, PATIENCE) else {
        skip("there is no tcpdump to look at the answer");
        return;
    };
    let seen = output.stdout;
    assert!(seen.contains("Flags [S.]") && seen.contains("(correct)"), "{seen}");
    assert!(!seen.contains("incorrect") && !seen.contains("bad cksum"), "{seen}");
    assert!(seen.contains("options [mss 14"), "{seen}");
}

#[test]
fn what_cannot_be_answered_is_dropped_over_the_budget() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    program.set(Setting::Cookies, Cookies::Always.to_word());
    let mut frame = syn(A);
    // To a group of Ethernet, and the first fragment of a SYN.
    frame[..6].copy_from_slice(&[0xff; 6]);
    let last = (0..=LISTENER_SYNS).map(|_| program.run(&frame)).last();
    assert_eq!(last, Some((XDP_DROP, Cause::SynTotal)));
    let first = v4(A, 6, 0, 0x2000, &segment(7, 0, SYN, &[1, 1, 1, 1]));
    assert_eq!(program.run(&first), (XDP_DROP, Cause::SynTotal));
}

/// SYNs from sources that do not exist, as long as it lives.
fn flood(to: IpAddr, stop: &AtomicBool) -> anyhow::Result<u64> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    // IPPROTO_RAW: the sender writes the IP header itself.
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
    let to = SocketAddr::new(to, 0);
    let (mut sent, mut state) = (0_u64, 1_u64);
    while !stop.load(Ordering::Relaxed) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [a, b, c, d, ..] = state.to_be_bytes();
        let packet = spoofed(SocketAddr::new(to.ip(), OPEN), SYN, [a, b, c, d]);
        // A full queue of the link is no reason to stop.
        sent += u64::from(socket.send_to(&packet, &to.into()).is_ok());
        // Far over the budget, and far from what fills the link: what is lost there no gateway can answer.
        if sent.is_multiple_of(16) {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
    Ok(sent)
}

/// A segment from a neighbour that does not exist.
pub(crate) fn spoofed(to: SocketAddr, flags: u8, [a, b, c, d]: [u8; 4]) -> Vec<u8> {
    let mut tcp = segment(u32::from_be_bytes([d, c, b, a]), 0, flags, &OPTIONS[..4]);
    tcp[..2].copy_from_slice(&[c | 0x80, d]);
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    match to.ip() {
        IpAddr::V4(to) => {
            // Neighbours that do not exist, so that answers to them stay on this link.
            let from = Ipv4Addr::new(203, 0, 113, 20 + a % 200);
            let checksum = sum(&[&from.octets(), &to.octets(), &[0, 6, 0, 24]], &tcp);
            tcp[16..18].copy_from_slice(&checksum);
            let frame = v4(from.octets(), 6, 0, 0, &tcp);
            let mut packet = frame[14..].to_vec();
            packet[16..20].copy_from_slice(&to.octets());
            packet
        }
        IpAddr::V6(to) => {
            let from = Ipv6Addr::from([0x20, 1, 0xd, 0xb8, 1, 0x13, a, b, 0, 0, 0, 0, 0, 0, c, d]);
            let checksum = sum(&[&from.octets(), &to.octets(), &[0, 6, 0, 24]], &tcp);
            tcp[16..18].copy_from_slice(&checksum);
            let mut packet = v6(&from.to_string(), 6, 64, &tcp)[14..].to_vec();
            packet[24..40].copy_from_slice(&to.octets());
            packet
        }
    }
}

fn sum(pseudo: &[&[u8]], segment: &[u8]) -> [u8; 2] {
    let bytes = [&pseudo.concat(), segment].concat();
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()).to_be_bytes()
}

/// A gateway whose budget is small, before an echo server in the farm.
struct Target {
    gateway: Gateway,
    servers: [SocketAddr; 2],
}

impl Target {
    fn start(scene: &Scene) -> Self {
        let mut setup = Setup::new().unwrap();
        setup.own_authority(IpAddr::from([127, 0, 0, 1])).unwrap();
        let at = scene.edge().map(|ip| SocketAddr::new(ip, OPEN));
        let keys =
            "stas = [\"local\"]\nallow = [{ to = [\"10.77.0.0/24\", \"fd77::/64\"], ports = [\"1-65535\"] }]";
        setup.listener_at("edge", "gateway", &at, keys).unwrap();
        let flood =
            "{ syn_per_source = \"1000/s\", syn_total = \"40/s\", calm = \"1s\", cookie_life = \"1s\" }";
        let xdp = format!(
            "[xdp]\npin_dir = \"{}\"\nallow_no_management = true\nflood = {flood}\n\
             interface = [{{ name = \"edge\", role = \"edge\" }}, {{ name = \"farm\", role = \"farm\" }}]",
            scene.pin_dir().display()
        );
        setup.merge(&xdp).unwrap();
        // The kernel answers only where it has a way back, as it has to all of the Internet.
        let way = scene.lab.outside.v6[0].to_string();
        let inside = scene.lab.gateway.namespace().unwrap();
        inside.ip(&["-6", "route", "add", "default", "via", &way]).unwrap();
        let gateway = setup.start_in(&scene.lab.gateway).unwrap();
        let farm = &scene.lab.farm;
        let servers = [farm.v4[0], farm.v6[0]].map(|ip| {
            let listener = farm.enter(|| Ok(TcpListener::bind((ip, 0))?)).unwrap();
            let address = listener.local_addr().unwrap();
            // It ends with the process: nobody outside its namespace could wake it.
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || echo(stream));
                }
            });
            address
        });
        // veth takes frames back from a program only where its other end works as a driver with a queue does.
        let mut ethtool = scene.lab.outside.command("ethtool");
        ethtool.args(["-K", "wan", "gro", "on"]);
        process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
        Self { gateway, servers }
    }

    /// A client's session to the server of the same family, as soon as it gets one.
    fn session(&self, scene: &Scene, from: usize) -> Client {
        let config = std::sync::Arc::new(client::trusting(&self.gateway.ca_file()).unwrap());
        let to = SocketAddr::new(scene.edge()[from], OPEN);
        let connect =
            || scene.lab.outside.enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?));
        let tcp = wait::value(PATIENCE, "a connection in spite of the flood", || connect().ok()).unwrap();
        let mut client = Client::handshake(tcp, &config, "localhost").unwrap();
        let ticket = self.gateway.issue(&self.servers[from].to_string()).unwrap();
        assert_eq!(client.socks(&ticket, 1494).unwrap(), 0);
        client
    }

    fn flood_state(&self) -> Value {
        self.gateway.cli_json(["xdp", "status"]).unwrap()["flood"].clone()
    }

    fn packets(&self, verdict: &str, reason: &str) -> f64 {
        let labels = [format!("verdict=\"{verdict}\""), format!("reason=\"{reason}\"")];
        let labels = [labels[0].as_str(), labels[1].as_str()];
        self.gateway.metrics().unwrap().sum("portcullis_xdp_packets_total", &labels).unwrap_or(0.0)
    }
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

fn syncookies(scene: &Scene) -> String {
    let read = || Ok(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies")?.trim().to_owned());
    scene.lab.gateway.enter(read).unwrap()
}

#[test]
fn under_a_flood_clients_connect_by_cookies_and_sessions_go_on_and_then_everything_is_as_before() {
    let Some(scene) = Scene::build() else { return };
    let target = Target::start(&scene);
    let before = syncookies(&scene);
    assert_eq!(target.flood_state()["cookies"], false);
    let mut live = [target.session(&scene, 0), target.session(&scene, 1)];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flooders = scene.edge().map(|to| {
            let (lab, stop) = (&scene.lab, &stop);
            scope.spawn(move || lab.outside.enter(|| flood(to, stop)))
        });
        let attempt = std::panic::AssertUnwindSafe(|| {
            wait::until(PATIENCE, "cookies to be on", || target.flood_state()["cookies"] == true).unwrap();
            assert_eq!(syncookies(&scene), "2");
            assert!(target.flood_state()["pressure_since"].is_string());
            let accepted = target.packets("pass", "cookie");
            let mut tries = 0;
            // Some of the clients' SYNs are within the budget; go on until a cookie has come back.
            while tries < 3 || (tries < 30 && target.packets("pass", "cookie") < accepted + 2.0) {
                for from in [0, 1] {
                    target.session(&scene, from).echo(&[7; 50_000]).unwrap();
                }
                tries += 1;
            }
            assert!(target.packets("pass", "cookie") >= accepted + 2.0, "cookies came back");
            for session in &mut live {
                session.echo(&[9; 100_000]).unwrap();
            }
        });
        let outcome = std::panic::catch_unwind(attempt);
        stop.store(true, Ordering::Relaxed);
        for flooder in flooders {
            assert!(flooder.join().unwrap().unwrap() > 1_000);
        }
        if let Err(panic) = outcome {
            eprintln!("{}", target.gateway.log());
            std::panic::resume_unwind(panic);
        }
    });
    assert!(target.packets("answer", "cookie") > 100.0);
    wait::until(PATIENCE, "cookies to be off", || target.flood_state()["cookies"] == false).unwrap();
    assert!(target.flood_state()["pressure_since"].is_null());
    wait::until(PATIENCE, "the sysctl to be as before", || syncookies(&scene) == before).unwrap();
    for session in &mut live {
        session.echo(b"still here").unwrap();
    }
    target.session(&scene, 0).echo(b"and in peace").unwrap();
}

/// Begins so many connections from outside, and says how many of them were not refused by silence.
pub(crate) fn begun(scene: &Scene, to: IpAddr, count: usize) -> usize {
    let connect = || {
        let socket = Socket::new(Domain::for_address(SocketAddr::new(to, OPEN)), Type::STREAM, None)?;
        // Less than the time after which a client asks again.
        Ok(socket.connect_timeout(&SocketAddr::new(to, OPEN).into(), Duration::from_millis(300))?)
    };
    let tried = || {
        Ok((0..count)
            .filter(|_| {
                let one: anyhow::Result<()> = connect();
                one.is_ok()
            })
            .count())
    };
    scene.lab.outside.enter(tried).unwrap()
}

#[test]
fn other_budgets_hold_from_the_reload_on_without_a_confirmation() {
    const MANY: usize = 20;
    let Some(scene) = Scene::build() else { return };
    // Nothing comes back into a bucket of two within the test but two a second.
    let mut gateway = scene.start("flood = { syn_per_source = \"1/s\", cookies = \"off\" }");
    let over = |gateway: &Gateway| scene.dropped(gateway, "edge", "syn_source");
    for ip in scene.edge() {
        let before = over(&gateway);
        assert!(begun(&scene, ip, 4) < 4, "{ip}");
        assert!(over(&gateway) > before, "{ip}");
    }
    gateway.setup().merge("[xdp.flood]\nsyn_per_source = \"100000/s\"").unwrap();
    gateway.setup().write().unwrap();
    let answer = gateway.cli_json(["reload"]).unwrap();
    assert!(answer["live"].as_array().unwrap().contains(&"xdp.flood".into()), "{answer}");
    assert!(answer["confirm_within_seconds"].is_null(), "{answer}");
    for ip in scene.edge() {
        let before = over(&gateway);
        assert_eq!(begun(&scene, ip, MANY), MANY, "{ip}");
        assert_eq!(over(&gateway), before, "{ip}");
    }
    // And back: the new budget is no less in force.
    gateway.setup().merge("[xdp.flood]\nsyn_per_source = \"1/s\"").unwrap();
    gateway.setup().write().unwrap();
    gateway.cli(["reload"]).unwrap().ok().unwrap();
    for ip in scene.edge() {
        assert!(begun(&scene, ip, 4) < 4, "{ip}");
    }
}

#[test]
fn a_daemon_that_stops_under_pressure_leaves_the_sysctl_as_it_was() {
    let Some(scene) = Scene::build() else { return };
    let target = Target::start(&scene);
    let before = syncookies(&scene);
    let (to, stop) = (scene.edge()[0], AtomicBool::new(false));
    let outcome = thread::scope(|scope| {
        let flooder = scope.spawn(|| scene.lab.outside.enter(|| flood(to, &stop)));
        let on = wait::until(PATIENCE, "cookies to be on", || target.flood_state()["cookies"] == true);
        stop.store(true, Ordering::Relaxed);
        flooder.join().unwrap().unwrap();
        on
    });
    outcome.unwrap();
    assert_eq!(syncookies(&scene), "2");
    target.gateway.stop().unwrap();
    assert_eq!(syncookies(&scene), before);
}
