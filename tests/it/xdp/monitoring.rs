//! What monitoring sees of the filter: every metric that dashboard and alerts ask for, and whether the gateway is ready.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use portcullis_tests::process;
use portcullis_tests::wait::{self, PATIENCE};

use crate::wire::Scene;

#[test]
fn every_metric_of_the_filter_in_dashboard_and_alerts_is_told_and_without_the_filter_the_gateway_is_not_ready()
 {
    let Some(scene) = Scene::build() else { return };
    let mut setup = scene.setup("");
    let at = setup.metrics([127, 0, 0, 1].into()).unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    let get = |path: &str| {
        let ask = || {
            let mut stream = TcpStream::connect(at)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        scene.lab.gateway.enter(ask).unwrap()
    };
    let page = get("/metrics");
    let mut asked = BTreeSet::new();
    for name in ["alerts.yml", "dashboard.json"] {
        let text =
            std::fs::read_to_string(process::repository().join("gateway/monitoring").join(name)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let of_filter =
            |word: &&str| word.starts_with("portcullis_xdp_") || word.starts_with("portcullis_node_network_");
        asked.extend(words.filter(of_filter).map(str::to_owned));
    }
    assert!(asked.len() > 10, "{asked:?}");
    for name in asked {
        assert!(
            page.contains(&format!("\n{name}{{")) || page.contains(&format!("\n{name} ")),
            "{name} in {page}"
        );
    }

    assert!(get("/readyz").starts_with("HTTP/1.1 200"), "{}", get("/readyz"));
    gateway.cli(["xdp", "detach"]).unwrap().ok().unwrap();
    let refuses = || {
        let answer = get("/readyz");
        answer.starts_with("HTTP/1.1 503") && answer.contains("packets are not filtered at ")
    };
    wait::until(PATIENCE, "the gateway not to be ready", refuses).unwrap();
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
}
