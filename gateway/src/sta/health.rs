//! When an authority is checked: at an interval while it is up, with growing pauses while it is down, at once
//! when a redemption failed. Each authority has a task of its own, so none waits for another.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::sleep;

use super::member::Member;

/// The first pause after a failed check; each further one is twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_mins(5);
/// However many redemptions fail, checks are at least so far apart.
const RECHECK_PAUSE: Duration = Duration::from_secs(1);

/// Checks one authority, for ever.
pub(super) async fn watch(member: Arc<Member>) {
    loop {
        member.check().await;
        let failed = member.knowledge().failed_checks;
        let pause = jittered(pause(member.config.health_interval, failed), random_byte());
        let early = async {
            member.doubt.notified().await;
            sleep(RECHECK_PAUSE).await;
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = early => {}
        }
    }
}

/// The pause before the next check.
fn pause(interval: Duration, failed_checks: u32) -> Duration {
    match failed_checks.checked_sub(1) {
        None => interval,
        Some(doublings) => {
            let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
            RETRY_FIRST.saturating_mul(factor).min(RETRY_MAX)
        }
    }
}

/// Spreads the checks of many gateways by a fifth of the pause either way.
fn jittered(pause: Duration, random: u8) -> Duration {
    pause.mul_f64(0.8 + 0.4 * f64::from(random) / 255.0)
}

fn random_byte() -> u8 {
    let mut byte = [0];
    match SystemRandom::new().fill(&mut byte) {
        Ok(()) => byte[0],
        // Without randomness all gateways check at the same pace, which is harmless.
        Err(_unspecified) => u8::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_is_up_is_checked_at_its_interval() {
        assert_eq!(pause(Duration::from_secs(30), 0), Duration::from_secs(30));
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> = (1..=11).map(|n| pause(Duration::from_secs(30), n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(pause(Duration::from_secs(30), u32::MAX), RETRY_MAX);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        let pause = Duration::from_secs(100);
        assert_eq!(jittered(pause, 0), Duration::from_secs(80));
        assert_eq!(jittered(pause, u8::MAX), Duration::from_secs(120));
    }
}
