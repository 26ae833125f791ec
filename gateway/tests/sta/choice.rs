//! Which authority a ticket goes to, and who waits for whom.

use std::sync::Arc;
use std::time::Duration;

use portcullis::config::StaConfig;
use portcullis::sta::pool::Pool;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use tokio::task::JoinSet;

use crate::double::{Double, ok, refuse};
use crate::world::{
    OTHER, OURS, PATIENCE, Server, data, eventually, id, names, pool, resolver, sta, stray_ticket,
};

#[tokio::test]
async fn a_dead_authority_delays_no_ticket_of_another() {
    let (dead, server) = (Double::hanging().await, Server::start());
    // The dead one would hold everybody up for a minute.
    let pool = pool([
        StaConfig { authority_id: Some(id(OTHER)), ..sta("dead", dead.address) },
        sta("nameless", Double::hanging().await.address),
        StaConfig { authority_id: Some(id(OURS)), ..sta("live", server.address) },
    ]);
    let allowed = Arc::new(names(&["dead", "nameless", "live"]));
    let mut stuck = JoinSet::new();
    for _ in 0..200 {
        let (pool, allowed) = (Arc::clone(&pool), Arc::clone(&allowed));
        stuck.spawn(async move { pool.redeem(&allowed, &stray_ticket(OTHER)).await });
    }
    eventually("the dead one is busy", || dead.requests() == 8).await;
    for _ in 0..50 {
        let ticket = server.issue();
        let answer = tokio::time::timeout(PATIENCE / 2, pool.redeem(&allowed, &ticket)).await.unwrap();
        assert_eq!(answer, TicketAnswer::Granted(data()));
    }
    let mut waiting = stuck.len();
    while stuck.try_join_next().is_some() {
        waiting -= 1;
    }
    // Eight in flight, eight waiting for each of these.
    assert_eq!(waiting, 72);
}

#[tokio::test]
async fn an_id_is_learned_when_the_first_ticket_needs_it_without_waiting_for_the_dead() {
    let (dead, server) = (Double::hanging().await, Server::start());
    let pool = pool([sta("dead", dead.address), sta("live", server.address)]);
    let allowed = names(&["dead", "live"]);
    let ticket = server.issue();
    let answer = tokio::time::timeout(PATIENCE / 2, pool.redeem(&allowed, &ticket)).await.unwrap();
    assert_eq!(answer, TicketAnswer::Granted(data()));
}

#[tokio::test]
async fn a_ticket_of_an_authority_that_is_not_allowed_here_reaches_nobody() {
    let (ours, other) = (Server::start(), Double::granting(OTHER).await);
    let pool = pool([sta("ours", ours.address), sta("other", other.address)]);
    assert!(pool.test("ours").await.unwrap().is_ok());
    assert!(pool.test("other").await.unwrap().is_ok());
    let before = other.requests();
    let answer = pool.redeem(&names(&["ours"]), &stray_ticket(OTHER)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::NoAuthority));
    assert_eq!(other.requests(), before);
    let answer = pool.redeem(&names(&["no-such-name"]), &stray_ticket(OTHER)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::NoAuthority));
}

#[tokio::test]
async fn a_ticket_that_may_be_of_an_authority_without_name_is_not_called_unknown() {
    let dead = Double::answering("").await;
    let pool = pool([sta("dead", dead.address)]);
    let answer = pool.redeem(&names(&["dead"]), &stray_ticket(OTHER)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Down));
}

#[tokio::test]
async fn forged_ids_do_not_make_an_authority_be_asked_again_and_again() {
    let dead = Double::answering("").await;
    let pool = pool([sta("dead", dead.address)]);
    let mut forged = JoinSet::new();
    for _ in 0..50 {
        let pool = Arc::clone(&pool);
        forged.spawn(async move { pool.redeem(&names(&["dead"]), &stray_ticket(OTHER)).await });
    }
    let started = tokio::time::Instant::now();
    forged.join_all().await;
    let most = usize::try_from(started.elapsed().as_secs()).unwrap() + 2;
    assert!(dead.connections() <= most, "{} connections", dead.connections());
}

#[tokio::test]
async fn an_authority_that_calls_itself_otherwise_than_configured_gets_no_ticket() {
    let double = Double::granting(OTHER).await;
    let pool = pool([StaConfig { authority_id: Some(id(OURS)), ..sta("a", double.address) }]);
    let error = pool.test("a").await.unwrap().unwrap_err();
    assert!(error.contains(OTHER) && error.contains(OURS), "{error}");
    assert_eq!(pool.status()[0].state, "down");
    let before = double.requests();
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OURS)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Down));
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::NoAuthority));
    assert_eq!(double.requests(), before);
}

#[tokio::test]
async fn of_two_authorities_with_one_id_the_other_serves_when_one_fails() {
    let (dead, live) = (Double::answering("").await, Double::granting(OTHER).await);
    let pool = pool([
        StaConfig { authority_id: Some(id(OTHER)), ..sta("dead", dead.address) },
        StaConfig { authority_id: Some(id(OTHER)), ..sta("live", live.address) },
    ]);
    let allowed = names(&["dead", "live"]);
    let answer = pool.redeem(&allowed, &stray_ticket(OTHER)).await;
    assert!(matches!(answer, TicketAnswer::Granted(_)), "{answer:?}");
    // From now on the live one is known to be up and is asked first.
    let before = dead.connections();
    let answer = pool.redeem(&allowed, &stray_ticket(OTHER)).await;
    assert!(matches!(answer, TicketAnswer::Granted(_)), "{answer:?}");
    assert_eq!(dead.connections(), before);
}

#[tokio::test]
async fn a_refusal_by_one_namesake_is_no_verdict_while_the_other_is_silent() {
    let dead = Double::answering("").await;
    let refusing = Double::start(|mut peer| async move {
        while let Some(request) = peer.request().await {
            peer.send(&ok(&refuse(OTHER, &request))).await;
        }
    })
    .await;
    let pool = pool([
        StaConfig { authority_id: Some(id(OTHER)), ..sta("dead", dead.address) },
        StaConfig { authority_id: Some(id(OTHER)), ..sta("refusing", refusing.address) },
    ]);
    let answer = pool.redeem(&names(&["dead", "refusing"]), &stray_ticket(OTHER)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Down));
}

#[tokio::test]
async fn our_own_authority_is_asked_without_http_and_only_where_it_is_allowed() {
    let server = Server::start();
    let pool = Pool::new(&[], Some(Arc::clone(&server.authority)), resolver()).unwrap();
    let ticket = server.issue();
    let answer = pool.redeem(&names(&["elsewhere"]), &ticket).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::NoAuthority));
    let answer = pool.redeem(&names(&["local"]), &ticket).await;
    assert_eq!(answer, TicketAnswer::Granted(data()));
    let status = pool.test("local").await.unwrap().unwrap();
    assert_eq!((status.state, status.authority_id.as_deref()), ("up", Some(OURS)));
}

#[tokio::test]
async fn while_an_authority_is_down_only_a_few_tickets_wait_for_it() {
    let hanging = Double::hanging().await;
    let timeout = Duration::from_millis(100);
    let config = StaConfig { authority_id: Some(id(OTHER)), timeout, ..sta("a", hanging.address) };
    let pool = pool([StaConfig { timeout, ..config.clone() }]);
    assert!(pool.test("a").await.unwrap().is_err());
    let before = hanging.requests();
    let mut tickets = JoinSet::new();
    for _ in 0..30 {
        let pool = Arc::clone(&pool);
        tickets.spawn(async move { pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await });
    }
    let answers = tickets.join_all().await;
    let waited = answers.iter().filter(|a| **a == TicketAnswer::Unavailable(Unavailable::Timeout)).count();
    let at_once = answers.iter().filter(|a| **a == TicketAnswer::Unavailable(Unavailable::Down)).count();
    assert_eq!((waited, at_once), (4, 26));
    assert_eq!(hanging.requests() - before, 4);
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_unchanged_authorities_only() {
    let (ours, other) = (Server::start(), Double::granting(OTHER).await);
    let (first, second) = (sta("ours", ours.address), sta("other", other.address));
    let pool = pool([first.clone(), second.clone()]);
    assert!(pool.test("ours").await.unwrap().is_ok());
    assert!(pool.test("other").await.unwrap().is_ok());
    let changed = StaConfig { connections: 1, ..second };
    pool.replace(&[Arc::new(first), Arc::new(changed)], None).unwrap();
    let status = pool.status();
    assert_eq!((status[0].state, status[0].authority_id.as_deref()), ("up", Some(OURS)));
    assert_eq!((status[1].state, status[1].authority_id.as_deref()), ("unknown", None));
    pool.replace(&[], None).unwrap();
    assert!(pool.status().is_empty());
    assert!(pool.test("ours").await.is_none());
}
