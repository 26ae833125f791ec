//! `[xdp.flood]`: budgets for what strangers may begin, and when SYN cookies are used.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Resolver;
use crate::config::file;
use crate::config::rate;
use crate::config::reader::{Located, shown};
use crate::config::{CookieMode, FloodConfig, Steering};

/// 0 would be a rule that drops; a rule should say so. Buckets are exact up to a million a second.
const RATES: RangeInclusive<u32> = 1..=1_000_000;
const CALM: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(10);
/// The kernel's cookies are good for up to two minutes.
const COOKIE_LIFE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(10);

impl Resolver<'_> {
    pub(super) fn flood(&mut self, typed: Option<Located<file::Flood>>) -> FloodConfig {
        let default = FloodConfig::default();
        let Some(Located { value: typed, .. }) = typed else { return default };
        let modes = CookieMode::ALL.map(|mode| (mode.as_str(), mode));
        FloodConfig {
            syn_per_source: self.budget("syn_per_source", typed.syn_per_source, default.syn_per_source),
            syn_total: self.budget("syn_total", typed.syn_total, default.syn_total),
            icmp_total: self.budget("icmp_total", typed.icmp_total, default.icmp_total),
            cookies: self.choice("cookies", typed.cookies.as_ref(), &modes).unwrap_or(default.cookies),
            calm: self.duration("calm", typed.calm, default.calm, CALM),
            cookie_life: self.duration("cookie_life", typed.cookie_life, default.cookie_life, COOKIE_LIFE),
        }
    }

    pub(super) fn steering(&mut self, typed: Option<&Located<String>>) -> Steering {
        let words = Steering::ALL.map(|steering| (steering.as_str(), steering));
        self.choice("steering", typed, &words).unwrap_or(Steering::Auto)
    }

    fn budget(&mut self, key: &str, typed: Option<Located<String>>, default: u32) -> u32 {
        let Some(typed) = typed else { return default };
        match rate::parse(&typed.value).filter(|rate| RATES.contains(rate)) {
            Some(rate) => rate,
            None => {
                let (least, most) = (rate::format(*RATES.start()), rate::format(*RATES.end()));
                self.problems
                    .add(typed.at, format!("`{key}` is \"{}\", which is no rate", shown(&typed.value)))
                    .expected(format!("a whole number a second, from {least} to {most}"));
                default
            }
        }
    }
}
