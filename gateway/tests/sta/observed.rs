//! What operators see: metrics with the right names, logs without secrets.

use std::io::Write;
use std::sync::{Arc, Mutex};

use metrics_exporter_prometheus::PrometheusBuilder;
use portcullis::config::StaConfig;
use portcullis_core::answer::TicketAnswer;

use crate::double::{Double, ok};
use crate::world::{OTHER, OURS, Server, data, id, key, names, pool, post, server_config, sta, stray_ticket};

#[tokio::test]
async fn requests_tickets_and_states_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);

    let (server, garbage) = (Server::start(), Double::answering(ok("nonsense")).await);
    let pool = pool([
        sta("good", server.address),
        StaConfig { authority_id: Some(id(OTHER)), ..sta("bad", garbage.address) },
    ]);
    let allowed = names(&["good", "bad"]);
    let ticket = server.issue();
    assert_eq!(pool.redeem(&allowed, &ticket).await, TicketAnswer::Granted(data()));
    assert!(matches!(pool.redeem(&allowed, &ticket).await, TicketAnswer::Refused(_)));
    assert!(matches!(pool.redeem(&allowed, &stray_ticket(OTHER)).await, TicketAnswer::Unavailable(_)));
    assert!(pool.test("bad").await.unwrap().is_err());

    let text = handle.render();
    for line in [
        "portcullis_sta_requests_total{sta=\"good\",result=\"ok\"} 1",
        "portcullis_sta_requests_total{sta=\"good\",result=\"granted\"} 1",
        "portcullis_sta_requests_total{sta=\"good\",result=\"refused\"} 1",
        "portcullis_sta_requests_total{sta=\"bad\",result=\"garbage\"} 2",
        "portcullis_sta_request_duration_seconds_count{sta=\"good\"} 3",
        // Ours and the one of the check, by which the id was learned.
        "portcullis_tickets_issued_total 2",
        "portcullis_tickets_redeemed_total{result=\"granted\"} 1",
        "portcullis_tickets_redeemed_total{result=\"unknown\"} 1",
    ] {
        assert!(text.lines().any(|seen| seen == line), "no line {line} in\n{text}");
    }

    let states: Vec<_> = pool.status().into_iter().map(|sta| (sta.name, sta.state)).collect();
    assert_eq!(states, [("good".to_owned(), "up"), ("bad".to_owned(), "down")]);
    pool.replace(&[], None).unwrap();
    assert!(pool.status().is_empty());
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_tickets_nor_keys_are_logged_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let config = portcullis::config::StaServerConfig { security_key: key(&["sesame"]), ..server_config() };
    let server = Server::start_with(config, None);
    let ticket = server.issue();
    let secret = ticket.secret.expose().to_owned();
    // An authority that says the ticket back in each way it can.
    let echo = Double::start(|mut peer| async move {
        while let Some(request) = peer.request().await {
            let shown = request.split_once("<Ticket>").and_then(|(_, rest)| rest.split_once('<'));
            let shown = shown.map_or("none", |(ticket, _)| ticket);
            peer.send(&ok(&format!("<CtxSTAProtocol><Oops>no {shown} here</Oops></CtxSTAProtocol>"))).await;
        }
    })
    .await;
    let pool = pool([
        StaConfig { security_key: key(&["open", "sesame"]), ..sta("good", server.address) },
        StaConfig { authority_id: Some(id(OTHER)), ..sta("echo", echo.address) },
    ]);
    let allowed = names(&["good", "echo"]);
    assert!(matches!(pool.redeem(&allowed, &ticket).await, TicketAnswer::Granted(_)));
    assert!(matches!(pool.redeem(&allowed, &ticket).await, TicketAnswer::Refused(_)));
    let echoed = portcullis_proto::ticket::Ticket { authority: id(OTHER), ..ticket };
    assert!(matches!(pool.redeem(&allowed, &echoed).await, TicketAnswer::Refused(_)));
    let broken =
        format!("<CtxSTAProtocol><RequestData><Ticket>{secret}0</Ticket></RequestData></CtxSTAProtocol>");
    assert_eq!(post(server.address, &broken).await.status, 403);

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains(OURS) && text.contains("ticket refused by its authority"), "{text}");
    let shown = format!("{text}{:?}{pool:?}", pool.status());
    for hidden in [secret.as_str(), &secret.to_ascii_lowercase(), "sesame"] {
        assert!(!shown.contains(hidden), "{text}");
    }
}
