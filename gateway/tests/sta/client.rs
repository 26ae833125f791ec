//! Our client against our server and against doubles: redemption, kept connections, keys, bounds.

use std::sync::Arc;

use portcullis::config::StaConfig;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_core::ticket_store::TicketRefusal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::double::{Double, grant, ok, refuse, status};
use crate::world::{
    OTHER, OURS, PATIENCE, Server, data, eventually, id, key, names, pool, server_config, sta, stray_ticket,
};

#[tokio::test]
async fn a_ticket_is_granted_once_with_everything_it_carries() {
    let server = Server::start();
    let pool = pool([sta("a", server.address)]);
    let ticket = server.issue();
    assert_eq!(pool.redeem(&names(&["a"]), &ticket).await, TicketAnswer::Granted(data()));
    assert_eq!(pool.redeem(&names(&["a"]), &ticket).await, TicketAnswer::Refused(TicketRefusal::Unknown));
}

#[tokio::test]
async fn expired_and_forged_tickets_are_refused_as_what_they_are() {
    let server = Server::start();
    // Without the id the pool would ask for a ticket first, and issuing one clears expired ones away.
    let pool = pool([StaConfig { authority_id: Some(id(OURS)), ..sta("a", server.address) }]);
    let expired = server.authority.issue(data(), false, Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!(
        pool.redeem(&names(&["a"]), expired.first()).await,
        TicketAnswer::Refused(TicketRefusal::Expired)
    );
    assert_eq!(
        pool.redeem(&names(&["a"]), &stray_ticket(OURS)).await,
        TicketAnswer::Refused(TicketRefusal::Unknown)
    );
}

/// A proxy that counts connections to our real server.
async fn counted(server: &Server) -> Double {
    let target = server.address;
    Double::start(move |mut peer| async move {
        let mut onward = TcpStream::connect(target).await.unwrap();
        tokio::io::copy_bidirectional(&mut peer.stream, &mut onward).await.ok();
    })
    .await
}

#[tokio::test]
async fn one_connection_serves_many_redemptions() {
    let server = Server::start();
    let proxy = counted(&server).await;
    let pool = pool([sta("a", proxy.address)]);
    for _ in 0..20 {
        let ticket = server.issue();
        assert_eq!(pool.redeem(&names(&["a"]), &ticket).await, TicketAnswer::Granted(data()));
    }
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn redemptions_at_once_use_no_more_connections_than_configured() {
    let server = Server::start();
    let proxy = counted(&server).await;
    let config = StaConfig { authority_id: Some(id(OURS)), connections: 3, ..sta("a", proxy.address) };
    let pool = pool([config]);
    let mut redemptions = JoinSet::new();
    for _ in 0..24 {
        let (pool, ticket) = (Arc::clone(&pool), server.issue());
        redemptions.spawn(async move { pool.redeem(&names(&["a"]), &ticket).await });
    }
    for answer in redemptions.join_all().await {
        assert_eq!(answer, TicketAnswer::Granted(data()));
    }
    assert!((1..=3).contains(&proxy.connections()), "{}", proxy.connections());
}

#[tokio::test]
async fn past_a_full_queue_redemptions_are_turned_away_at_once() {
    let hanging = Double::hanging().await;
    let pool =
        pool([StaConfig { authority_id: Some(id(OURS)), connections: 2, ..sta("a", hanging.address) }]);
    // Two in flight and eight waiting for each.
    let mut stuck = JoinSet::new();
    for _ in 0..18 {
        let pool = Arc::clone(&pool);
        stuck.spawn(async move { pool.redeem(&names(&["a"]), &stray_ticket(OURS)).await });
    }
    eventually("two requests in flight", || hanging.requests() == 2).await;
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OURS)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Overloaded));
    assert_eq!((hanging.connections(), stuck.len()), (2, 18));
    assert!(stuck.try_join_next().is_none(), "the others still wait");
}

#[tokio::test]
async fn a_kept_connection_that_the_authority_closed_loses_no_redemption() {
    // Each connection serves one request and is closed without a word, as by an idle time-out.
    let double = Double::start(|mut peer| async move {
        if let Some(request) = peer.request().await {
            peer.send(&ok(&grant(OTHER, &request))).await;
        }
    })
    .await;
    let pool = pool([sta("a", double.address)]);
    for _ in 0..20 {
        let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
        assert!(matches!(answer, TicketAnswer::Granted(_)), "{answer:?}");
    }
}

/// Serves one request on the first connection and closes at the second; the later ones are served by `second`.
async fn closing_under_a_request(second: fn(&str, &str) -> String) -> Double {
    Double::start(move |mut peer| async move {
        if peer.number == 0 {
            let request = peer.request().await.unwrap();
            peer.send(&ok(&grant(OTHER, &request))).await;
            let mut byte = [0];
            assert_eq!(peer.stream.read(&mut byte).await.unwrap(), 1);
            return;
        }
        while let Some(request) = peer.request().await {
            peer.send(&ok(&second(OTHER, &request))).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_meets_a_closing_kept_connection_is_repeated_once() {
    let double = closing_under_a_request(grant).await;
    let pool = pool([sta("a", double.address)]);
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
    assert!(matches!(answer, TicketAnswer::Granted(_)), "{answer:?}");
    assert_eq!(double.connections(), 2);
}

#[tokio::test]
async fn a_refusal_of_a_repeated_request_does_not_count_against_the_ticket() {
    let double = closing_under_a_request(refuse).await;
    let pool = pool([sta("a", double.address)]);
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Down));
}

#[tokio::test]
async fn a_request_over_a_fresh_connection_is_never_repeated() {
    let double = Double::start(|mut peer| async move {
        peer.request().await;
    })
    .await;
    let pool = pool([StaConfig { authority_id: Some(id(OURS)), ..sta("a", double.address) }]);
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OURS)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Down));
    assert_eq!((double.connections(), double.requests()), (1, 1));
}

#[tokio::test]
async fn the_second_key_is_tried_once_and_remembered() {
    let server_config =
        portcullis::config::StaServerConfig { security_key: key(&["new"]), ..server_config() };
    let server = Server::start_with(server_config, None);
    let pool = pool([StaConfig { security_key: key(&["old", "new"]), ..sta("a", server.address) }]);
    for _ in 0..3 {
        let ticket = server.issue();
        assert_eq!(pool.redeem(&names(&["a"]), &ticket).await, TicketAnswer::Granted(data()));
    }
}

#[tokio::test]
async fn a_key_that_works_again_is_found_again_and_no_key_is_tried_twice() {
    // Accepts `one` for the first two requests with it, and `two` from then on.
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let double = Double::start(move |mut peer| {
        let log = Arc::clone(&log);
        async move {
            while let Some(request) = peer.request().await {
                let shown =
                    if request.to_ascii_lowercase().contains("x-test-key: one") { "one" } else { "two" };
                let accepted = {
                    let mut log = log.lock().unwrap();
                    log.push(shown);
                    if log.len() <= 2 { "one" } else { "two" }
                };
                let answer =
                    if shown == accepted { ok(&grant(OTHER, &request)) } else { status("401 Unauthorized") };
                peer.send(&answer).await;
            }
        }
    })
    .await;
    let pool = pool([StaConfig {
        authority_id: Some(id(OTHER)),
        security_key: key(&["one", "two"]),
        ..sta("a", double.address)
    }]);
    for _ in 0..4 {
        let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
        assert!(matches!(answer, TicketAnswer::Granted(_)), "{answer:?}");
    }
    assert_eq!(*seen.lock().unwrap(), ["one", "one", "one", "two", "two"]);
    assert_eq!(double.connections(), 1);
}

#[tokio::test]
async fn keys_that_are_all_refused_make_the_authority_down_and_stay_out_of_the_error() {
    let config = portcullis::config::StaServerConfig { security_key: key(&["other"]), ..server_config() };
    let server = Server::start_with(config, None);
    let pool = pool([StaConfig { security_key: key(&["sesame-1", "sesame-2"]), ..sta("a", server.address) }]);
    let error = pool.test("a").await.unwrap().unwrap_err();
    assert!(error.contains("security key") && !error.contains("sesame"), "{error}");
    assert!(!format!("{pool:?}{:?}", pool.status()).contains("sesame"));
}

#[tokio::test]
async fn an_authority_that_nobody_runs_is_down_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let pool = pool([StaConfig { authority_id: Some(id(OURS)), ..sta("a", address) }]);
    let (allowed, ticket) = (names(&["a"]), stray_ticket(OURS));
    let answer = tokio::time::timeout(PATIENCE / 2, pool.redeem(&allowed, &ticket)).await.unwrap();
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Down));
}

#[tokio::test]
async fn an_authority_whose_name_cannot_be_resolved_is_down() {
    let address = "127.0.0.1:1".parse().unwrap();
    let mut config = StaConfig { authority_id: Some(id(OURS)), ..sta("a", address) };
    config.url.server = portcullis_proto::host_port::HostPort::parse("sta.invalid:80").unwrap();
    let pool = pool([config]);
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OURS)).await;
    assert!(matches!(answer, TicketAnswer::Unavailable(Unavailable::Down | Unavailable::Timeout)));
    let status = pool.status();
    assert!(status[0].last_error.as_ref().unwrap().contains("resolved"), "{status:?}");
}

#[tokio::test]
async fn a_redemption_that_is_given_up_frees_its_connection() {
    let hanging = Double::hanging().await;
    let pool =
        pool([StaConfig { authority_id: Some(id(OURS)), connections: 1, ..sta("a", hanging.address) }]);
    for given_up in 1..=3 {
        let allowed = names(&["a"]);
        let ticket = stray_ticket(OURS);
        tokio::select! {
            answer = pool.redeem(&allowed, &ticket) => panic!("{answer:?}"),
            () = eventually("the request is in flight", || hanging.requests() == given_up) => {}
        }
    }
    assert_eq!(hanging.connections(), 3);
}
