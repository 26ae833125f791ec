//! Private authorities for a directory of updates: instead of the public ones, for that directory alone.
//!
//! systemd-pull(8) believes what the system's list of authorities says. `appliance-update.service` runs the job twice: first
//! it puts the authorities of the request into a file, and then, where there is one, that file is in the list's place.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use serde::{Deserialize, Serialize};

use super::{Order, Places, Request, Source, Url, read_json};
use crate::tls::pem;

/// What a private directory needs; the request has to hold them.
const AUTHORITIES_MAX: usize = 8;
/// Longest text of them; a request has room for it.
pub const AUTHORITIES_MAX_BYTES: u64 = 32 * 1024;
const MODE: u32 = 0o644;

/// Certificates of authorities, as PEM, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Authorities(String);

impl Authorities {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > AUTHORITIES_MAX_BYTES {
            return Err(format!("the authorities are longer than {} KiB", AUTHORITIES_MAX_BYTES / 1024));
        }
        let (certificates, key) = pem::given(text.as_bytes(), AUTHORITIES_MAX)?;
        if key.is_some() {
            return Err("a private key is among the authorities: hand over certificates only".to_owned());
        }
        // Written anew, so that nothing else of the text comes along.
        Ok(Self(certificates.iter().map(|der| pem::encoded("CERTIFICATE", der)).collect()))
    }

    /// SHA-256 of each certificate, by which people know it.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        // What was parsed once is parsed again.
        let (certificates, _) = pem::given(self.0.as_bytes(), AUTHORITIES_MAX).unwrap_or_default();
        let hash = |der: &[u8]| ring::digest::digest(&ring::digest::SHA256, der);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        certificates.iter().map(|der| hex(hash(der.as_ref()).as_ref())).collect()
    }
}

impl TryFrom<String> for Authorities {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Authorities> for String {
    fn from(authorities: Authorities) -> Self {
        authorities.0
    }
}

/// A directory that has served once, and who vouches for it where the public authorities do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) url: Url,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) authorities: Option<Authorities>,
}

impl Known {
    /// Where the directory that was named last is kept.
    pub(super) fn read(places: &Places) -> Option<Self> {
        read_json(&places.source()).ok()
    }

    /// What the source of an order is, where it is a directory.
    pub(super) fn of(places: &Places, source: &Source) -> Option<Self> {
        match source {
            Source::Upload => None,
            Source::Known => Self::read(places),
            Source::Private { url, authorities } => {
                Some(Self { url: url.clone(), authorities: Some(authorities.clone()) })
            }
            // The same directory again: who vouched for it still does.
            Source::Url(url) => match Self::read(places) {
                Some(known) if known.url == *url => Some(known),
                _ => Some(Self { url: url.clone(), authorities: None }),
            },
        }
    }
}

/// Puts the authorities of the request where the job that follows has them for the system's, or takes old ones away.
///
/// # Errors
/// When the file system says no: then nothing may be fetched.
pub fn prepare(places: &Places) -> io::Result<()> {
    let place = places.authorities();
    match fs::remove_file(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A request that cannot be read is refused by the job itself, which tells so.
    let Ok(Request { order, .. }) = read_json::<Request>(&places.request) else { return Ok(()) };
    let source = match &order {
        Order::List { source } | Order::Install { source, .. } => source,
        Order::Rollback {} => return Ok(()),
    };
    let Some(Known { authorities: Some(authorities), .. }) = Known::of(places, source) else { return Ok(()) };
    fs::write(&place, authorities.0)?;
    fs::set_permissions(&place, fs::Permissions::from_mode(MODE))
}

/// The request may have changed since.
pub(super) fn check(places: &Places, known: &Known) -> io::Result<()> {
    let there = match fs::read_to_string(places.authorities()) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if there == known.authorities.as_ref().map(|authorities| authorities.0.clone()) {
        return Ok(());
    }
    Err(io::Error::other("another source was named meanwhile: ask again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::write_json;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
    }

    fn asked(places: &Places, source: Source) -> Option<String> {
        let order = Order::List { source };
        write_json(&places.request, &Request { id: "1".to_owned(), order }, 0o600).unwrap();
        prepare(places).unwrap();
        fs::read_to_string(places.authorities()).ok()
    }

    #[test]
    fn only_certificates_are_taken_and_nothing_comes_along() {
        let one = authority();
        let taken = Authorities::parse(&format!("note: mine\n{one}")).unwrap();
        assert_eq!(taken, Authorities::parse(&one).unwrap());
        assert!(!String::from(taken).contains("mine"));
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for bad in
            ["", "no text of that kind", &key, &format!("{one}{key}"), &one.repeat(AUTHORITIES_MAX + 1)]
        {
            assert!(Authorities::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_has_the_authorities_that_were_named_with_it_and_no_others() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let places = Places { request: at("request"), run: at(""), kept: at("kept"), ..Places::default() };
        fs::create_dir(&places.kept).unwrap();
        let (url, other) =
            (Url::parse("https://u.example/p").unwrap(), Url::parse("https://v.example/p").unwrap());
        let authorities = Authorities::parse(&authority()).unwrap();
        let private = Source::Private { url: url.clone(), authorities: authorities.clone() };
        assert_eq!(asked(&places, private.clone()), Some(authorities.0.clone()));
        assert_eq!(asked(&places, Source::Known), None);
        let known = Known::of(&places, &private).unwrap();
        write_json(&places.source(), &known, 0o600).unwrap();
        for same in [Source::Known, Source::Url(url)] {
            assert_eq!(asked(&places, same), Some(authorities.0.clone()));
        }
        for without in [Source::Url(other), Source::Upload] {
            assert_eq!(asked(&places, without), None);
        }
    }
}
