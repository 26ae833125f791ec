//! `portcullis ica`: the file that a Citrix client opens, for a ticket and a gateway.
//!
//! The file goes to people outside: an address of the inside has no place in it, so settings that hold one are
//! refused.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use portcullis_proto::host_port::{Host, HostPort};
use portcullis_proto::ica_file::{IcaFile, IcaSession};

use super::output::{Failure, Outcome};
use super::{Context, args, ticket};
use crate::exit::Exit;

/// Settings that are the ticket's and the gateway's: `--set` must not turn the file into one for a direct
/// connection.
const FIXED: [&str; 5] = ["Address", "SSLEnable", "SSLProxyHost", "HttpBrowserAddress", "CGPAddress"];

pub(super) fn run(context: &Context, arguments: &args::Ica) -> Outcome {
    let ticket = ticket::given(arguments.ticket.as_deref())?;
    let malformed = |error| Failure::new(Exit::Data, format!("the ICA file cannot be made: {error}"));
    let session = IcaSession {
        application: &arguments.application,
        ticket: &ticket,
        gateway: &arguments.gateway,
        cgp: !arguments.no_cgp,
    };
    let mut file = IcaFile::gateway_session(&session).map_err(malformed)?;
    for (key, value) in &arguments.set {
        allowed(key, value)?;
        file.set(&arguments.application, key, value).map_err(malformed)?;
    }
    let text = file.to_string();
    match &arguments.out {
        None => context.output.bytes(text.as_bytes())?,
        Some(path) => {
            write(path, &text).map_err(|error| Failure::file("write", path, &error))?;
            if context.output.json {
                context.output.json(&serde_json::json!({"file": path}))?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// The ticket in the file is a secret, so only its owner may read it.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn allowed(key: &str, value: &str) -> Result<(), Failure> {
    if FIXED.iter().any(|fixed| fixed.eq_ignore_ascii_case(key)) {
        return Err(Failure::new(
            Exit::Usage,
            format!("{key} is set by the ticket and the gateway; leave it out of --set"),
        ));
    }
    if value.split([',', ';', ' ']).any(is_inside_address) {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{key} would show an inside address to the client; the gateway resolves tickets so that none is needed"
            ),
        ));
    }
    Ok(())
}

fn is_inside_address(text: &str) -> bool {
    let address =
        match HostPort::parse(text).map(|server| server.host().clone()).or_else(|_| Host::parse(text)) {
            Ok(Host::Ip(address)) => address,
            Ok(Host::Name(_)) | Err(_) => return false,
        };
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => {
            v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_addresses_and_fixed_settings_are_refused() {
        for (key, value) in [
            ("address", "x"),
            ("SSLProxyHost", "gw:443"),
            ("ProxyHost", "10.0.0.1:8080"),
            ("X", "a;192.168.1.1"),
            ("X", "[fd00::1]:1494"),
            ("X", "::ffff:10.0.0.1"),
        ] {
            assert!(allowed(key, value).is_err(), "{key}={value}");
        }
        for (key, value) in [("HDXoverUDP", "Preferred"), ("ScreenPercent", "80"), ("X", "198.51.100.1:443")]
        {
            assert!(allowed(key, value).is_ok(), "{key}={value}");
        }
    }
}
