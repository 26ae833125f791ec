//! Whom the machine asks: name servers as resolved.conf(5) has them, time servers as chrony.conf(5) does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use portcullis_proto::host_port::{Host, HostName};

use super::HEADER;
use crate::config::NetworkConfig;

pub(super) const RESOLVED: &str = "/run/systemd/resolved.conf.d/portcullis.conf";
pub(super) const CHRONY: &str = "/run/portcullis-settings/time/portcullis.sources";
/// Debian's, as its own configuration of chrony has it.
const TIME_DEFAULT: &str = "pool 2.debian.pool.ntp.org iburst\n";

pub(super) fn add(network: Option<&NetworkConfig>, files: &mut BTreeMap<PathBuf, String>) {
    let mut times = String::from(HEADER);
    // Writing to a String cannot fail.
    for server in network.into_iter().flat_map(|network| &network.ntp) {
        match server {
            Host::Ip(address) => writeln!(times, "server {address} iburst").ok(),
            Host::Name(name) => writeln!(times, "server {name} iburst").ok(),
        };
    }
    if times.len() == HEADER.len() {
        times.push_str(TIME_DEFAULT);
    }
    files.insert(CHRONY.into(), times);
    let Some(network) = network.filter(|network| !network.dns.is_empty() || !network.search.is_empty())
    else {
        return;
    };
    let mut names = format!("{HEADER}[Resolve]\n");
    if !network.dns.is_empty() {
        let servers: Vec<String> = network.dns.iter().map(ToString::to_string).collect();
        writeln!(names, "DNS={}\nFallbackDNS=", servers.join(" ")).ok();
    }
    if !network.search.is_empty() {
        let domains: Vec<&str> = network.search.iter().map(HostName::as_str).collect();
        writeln!(names, "Domains={}", domains.join(" ")).ok();
    }
    files.insert(RESOLVED.into(), names);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse_settings;

    use super::*;

    fn rendered(lines: &str) -> BTreeMap<PathBuf, String> {
        let text = format!("[network]\n{lines}\n[[network.interface]]\nname = \"eth0\"\ndhcp = \"ipv4\"\n");
        let settings = parse_settings(&text, Path::new("x.toml")).unwrap();
        let mut files = BTreeMap::new();
        add(settings.network.as_ref(), &mut files);
        files
    }

    #[test]
    fn servers_stand_in_the_words_of_who_asks_them() {
        let files = rendered(
            "dns = [\"10.0.0.53\", \"2001:db8::53\"]\nsearch = [\"Example.com\"]\nntp = [\"2001:db8::1\", \"time.example.com\"]",
        );
        let names = &files[Path::new(RESOLVED)];
        assert!(
            names.ends_with("[Resolve]\nDNS=10.0.0.53 2001:db8::53\nFallbackDNS=\nDomains=example.com\n"),
            "{names}"
        );
        let times = &files[Path::new(CHRONY)];
        assert!(times.ends_with("\nserver 2001:db8::1 iburst\nserver time.example.com iburst\n"), "{times}");
    }

    #[test]
    fn where_none_are_configured_there_is_a_time_and_dhcp_tells_the_names() {
        let files = rendered("");
        assert!(files[Path::new(CHRONY)].contains("pool "));
        assert!(!files.contains_key(Path::new(RESOLVED)));
    }
}
