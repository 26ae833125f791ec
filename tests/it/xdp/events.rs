//! Drop events and the views that are made of them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use aya::EbpfLoader;
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use portcullis_ebpf_common::event::{SAMPLER_WORDS, Sampler, ring_bytes};
use portcullis_ebpf_common::tables::{self, Interface, Role, Setting};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use crate::object;
use crate::wire::{BpfFs, CLOSED, Scene};

#[test]
fn a_dropped_packet_is_shown_with_its_ends_and_its_reason() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    for (family, source) in ["203.0.113.10", "2001:db8:113::10"].into_iter().enumerate() {
        let is_it = |event: &&Value| {
            event["interface"] == "edge"
                && event["reason"] == "no_rule"
                && event["source"] == source
                && event["destination"] == scene.edge()[family].to_string().as_str()
                && event["protocol"] == "tcp"
                && event["destination_port"] == CLOSED
                && event["stands_for"] == 1
        };
        let seen = || {
            let events = gateway.cli_json(["xdp", "drops", "--events"]).unwrap();
            events.as_array().unwrap().iter().any(|event| is_it(&event))
        };
        wait::until(PATIENCE, "the event to be read", seen).unwrap();
    }
    let metrics = gateway.metrics().unwrap();
    assert!(metrics.sum("portcullis_xdp_events_total", &[]).unwrap() >= 2.0);
    assert_eq!(metrics.sum("portcullis_xdp_events_lost_total", &[]), Some(0.0));
}

#[test]
fn who_follows_sees_drops_as_they_happen() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    let mut command = gateway.cli_command().unwrap();
    command.args(["--json", "xdp", "drops", "--follow", "--limit", "0"]).stdout(Stdio::piped());
    let mut following = command.spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap());
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    let mut found = Vec::new();
    // Reading ends with the process, should nothing come.
    while found.len() < 2 {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended after {found:?}");
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["reason"] == "no_rule" && !found.contains(&event["source"]) {
            found.push(event["source"].clone());
        }
    }
    following.kill().unwrap();
    following.wait().unwrap();
}

#[test]
fn the_live_view_shows_what_is_dropped_and_from_where() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    let mut command = gateway.cli_command().unwrap();
    command.args(["--json", "xdp", "top", "--interval", "300ms"]).stdout(Stdio::piped());
    let mut watching = command.spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap());
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    let has =
        |rows: &Value, key: &str, value: &str| rows.as_array().unwrap().iter().any(|row| row[key] == value);
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended");
        let look: Value = serde_json::from_str(&line).unwrap();
        if has(&look["dropped_sources"], "source", "203.0.113.10") {
            assert!(has(&look["causes"], "reason", "no_rule"), "{look}");
            break;
        }
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
    let once = gateway.cli(["xdp", "top", "--once", "--interval", "200ms"]).unwrap().ok().unwrap();
    assert!(once.stdout.contains("VERDICT") && once.stdout.contains("no_rule"), "{}", once.stdout);
}

#[test]
fn no_event_is_shown_where_none_are_wanted() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("event_rate = 0");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert!(scene.dropped(&gateway, "edge", "no_rule") >= 2);
    assert_eq!(gateway.metrics().unwrap().sum("portcullis_xdp_events_total", &[]), Some(0.0));
}

#[test]
fn a_full_ring_costs_events_and_nothing_else() {
    const LOOPBACK: u32 = 1;
    const PACKETS: u32 = 3_000;
    let Some(object) = object() else { return };
    let pins = BpfFs::mount();
    let bytes = std::fs::read(object).unwrap();
    let room = ring_bytes(32);
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins.path()).map_max_entries(tables::EVENTS, room);
    let mut ebpf = loader.load(&bytes).unwrap();
    let mut table: HashMap<_, [u8; 4], [u8; 8]> =
        ebpf.map_mut(tables::INTERFACES).unwrap().try_into().unwrap();
    table.insert(LOOPBACK.to_be_bytes(), Interface::new(0, Role::Edge, (1, 1)).to_bytes(), 0).unwrap();
    let mut table: Array<_, u64> = ebpf.map_mut(tables::SETTINGS).unwrap().try_into().unwrap();
    table.set(Setting::EventRate.index(), 1_000_000, 0).unwrap();
    let program: &mut Xdp = ebpf.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();
    // Too short for anything.
    let frame = [0_u8; 14];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.repeat = PACKETS;
    const XDP_DROP: u32 = 1;
    assert_eq!(program.test_run(options).unwrap().return_value, XDP_DROP);
    let samplers: PerCpuArray<_, [u64; SAMPLER_WORDS]> =
        ebpf.map(tables::SAMPLERS).unwrap().try_into().unwrap();
    let (mut kept, mut lost) = (0, 0);
    for words in samplers.get(&0, 0).unwrap().iter() {
        let sampler = Sampler::from_words(*words);
        (kept, lost) = (kept + sampler.kept, lost + sampler.lost);
    }
    assert_eq!(kept + lost, u64::from(PACKETS));
    assert!(kept > 0 && kept <= u64::from(room / 72) && lost > 0, "{kept} kept, {lost} lost");
}
