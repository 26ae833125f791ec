//! What the health checks find, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis::config::StaConfig;
use portcullis::sta::pool::Pool;
use portcullis_core::answer::TicketAnswer;
use portcullis_proto::sta::encode_error;
use tokio::task::JoinSet;

use crate::double::{Double, grant, ok, status};
use crate::world::{OTHER, OURS, Server, eventually, id, names, pool, sta, stray_ticket};

fn watched(pool: &Arc<Pool>) -> JoinSet<()> {
    let pool = Arc::clone(pool);
    let mut health = JoinSet::new();
    health.spawn(async move { pool.run_health().await });
    health
}

fn state(pool: &Pool, name: &str) -> &'static str {
    pool.status().into_iter().find(|sta| sta.name == name).unwrap().state
}

/// An authority with a switch.
async fn switched() -> (Double, Arc<AtomicBool>) {
    let alive = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&alive);
    let double = Double::start(move |mut peer| {
        let alive = Arc::clone(&switch);
        async move {
            while let Some(request) = peer.request().await {
                let answer = if alive.load(Ordering::SeqCst) {
                    ok(&grant(OTHER, &request))
                } else {
                    status("503 Service Unavailable")
                };
                peer.send(&answer).await;
            }
        }
    })
    .await;
    (double, alive)
}

#[tokio::test]
async fn ids_are_learned_at_the_start_past_a_dead_authority() {
    let (server, dead) = (Server::start(), Double::hanging().await);
    let pool = pool([sta("dead", dead.address), sta("live", server.address)]);
    assert_eq!(state(&pool, "live"), "unknown");
    let _health = watched(&pool);
    eventually("the live one is up", || state(&pool, "live") == "up").await;
    assert_eq!(pool.status()[1].authority_id.as_deref(), Some(OURS));
    assert!(pool.status()[1].latency_ms.is_some() && pool.status()[1].last_check_age_ms.is_some());
    assert_eq!(state(&pool, "dead"), "unknown");
}

#[tokio::test]
async fn a_failed_redemption_makes_an_authority_be_checked_at_once_and_it_comes_back_by_itself() {
    let (double, alive) = switched().await;
    // The interval alone would find out after a minute.
    let pool = pool([sta("a", double.address)]);
    let _health = watched(&pool);
    eventually("it is up", || state(&pool, "a") == "up").await;

    alive.store(false, Ordering::SeqCst);
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
    assert!(matches!(answer, TicketAnswer::Unavailable(_)), "{answer:?}");
    eventually("it is down", || state(&pool, "a") == "down").await;
    assert!(pool.status()[0].last_error.as_ref().unwrap().contains("503"));

    alive.store(true, Ordering::SeqCst);
    eventually("it is up again", || state(&pool, "a") == "up").await;
    assert_eq!(pool.status()[0].last_error, None);
}

#[tokio::test]
async fn an_authority_that_is_up_is_checked_at_its_interval() {
    let (double, _alive) = switched().await;
    let health_interval = Duration::from_millis(20);
    let pool = pool([StaConfig { health_interval, ..sta("a", double.address) }]);
    let _health = watched(&pool);
    eventually("it has been checked often", || double.requests() >= 5).await;
    assert_eq!(double.connections(), 1);
}

#[tokio::test]
async fn a_successful_redemption_counts_as_up() {
    let (double, alive) = switched().await;
    let pool = pool([StaConfig { authority_id: Some(id(OTHER)), ..sta("a", double.address) }]);
    alive.store(false, Ordering::SeqCst);
    assert!(pool.test("a").await.unwrap().is_err());
    assert_eq!(state(&pool, "a"), "down");
    alive.store(true, Ordering::SeqCst);
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
    assert!(matches!(answer, TicketAnswer::Granted(_)), "{answer:?}");
    assert_eq!(state(&pool, "a"), "up");
}

#[tokio::test]
async fn an_authority_whose_connections_all_hang_is_still_found_out() {
    let hanging = Double::hanging().await;
    let config = StaConfig { authority_id: Some(id(OTHER)), connections: 1, ..sta("a", hanging.address) };
    let pool = pool([config]);
    let mut stuck = JoinSet::new();
    for _ in 0..9 {
        let pool = Arc::clone(&pool);
        stuck.spawn(async move { pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await });
    }
    eventually("its connection is busy", || hanging.requests() == 1).await;
    let _health = watched(&pool);
    eventually("it is checked all the same", || hanging.requests() == 2).await;
}

#[tokio::test]
async fn an_authority_that_issues_nothing_is_of_use_when_its_id_is_configured() {
    let double = Double::answering(ok(&encode_error("not for you"))).await;
    let pool = pool([
        StaConfig { authority_id: Some(id(OTHER)), ..sta("configured", double.address) },
        sta("nameless", double.address),
    ]);
    assert!(pool.test("configured").await.unwrap().is_ok());
    let error = pool.test("nameless").await.unwrap().unwrap_err();
    assert!(error.contains("not for you") && error.contains("authority_id"), "{error}");
}

#[tokio::test]
async fn a_reload_starts_watching_new_authorities_and_leaves_removed_ones_alone() {
    let (first, second) = (Double::granting(OURS).await, Double::granting(OTHER).await);
    let health_interval = Duration::from_millis(20);
    let old = StaConfig { health_interval, ..sta("old", first.address) };
    let pool = pool([old]);
    let _health = watched(&pool);
    eventually("the old one is up", || state(&pool, "old") == "up").await;
    pool.replace(&[Arc::new(StaConfig { health_interval, ..sta("new", second.address) })], None).unwrap();
    eventually("the new one is up", || state(&pool, "new") == "up").await;
    let left = first.requests();
    let seen = second.requests();
    eventually("the new one is watched", || second.requests() > seen + 5).await;
    assert!(first.requests() <= left + 1);
}
