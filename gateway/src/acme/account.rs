//! The account at the issuer: its key is made once and kept in the state directory, one for each issuer.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::http::Http;
use crate::config::AcmeConfig;
use crate::disk::Disk;

/// Below the state directory.
const DIRECTORY: &str = "acme";

/// What is kept of an account. It holds the account's key.
#[derive(Serialize, Deserialize)]
struct Kept<C> {
    contact: Vec<String>,
    credentials: C,
}

/// The account of this gateway, opened where there is none yet.
pub(super) async fn open(acme: &AcmeConfig, state: &Path, http: Http) -> Result<Account, String> {
    let path = path(acme, state);
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let builder = Account::builder_with_http(Box::new(http));
    if let Some(kept) = read(&path)? {
        let told = |error| format!("the account at the issuer cannot be used: {error}");
        let account = builder.from_credentials(kept.credentials).await.map_err(told)?;
        if kept.contact != acme.contact {
            account.update_contacts(&contact).await.map_err(told)?;
            note_contact(&path, &acme.contact)?;
        }
        return Ok(account);
    }
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = acme.external_account.as_ref().map(|external| {
        let key = URL_SAFE_NO_PAD.decode(external.key.trim_end_matches('=')).map(Zeroizing::new);
        let key = key.map_err(|_| "the secret of `eab_key_secret` is no base64url")?;
        Ok::<_, String>(ExternalAccountKey::new(external.id.clone(), &key))
    });
    let external = external.transpose()?;
    let opened = builder.create(&new, acme.directory.clone(), external.as_ref()).await;
    let (account, credentials) = opened.map_err(|error| format!("the issuer opens no account: {error}"))?;
    write(&path, &Kept { contact: acme.contact.clone(), credentials })?;
    tracing::info!(directory = acme.directory, "an account was opened at the certificates' issuer");
    Ok(account)
}

/// The issuer does not know the account any more: the next attempt opens another.
pub(super) fn forget(acme: &AcmeConfig, state: &Path) {
    if let Err(error) = Disk::default().remove(&path(acme, state)) {
        tracing::error!(%error, "an account that the issuer does not know cannot be forgotten");
    }
}

fn path(acme: &AcmeConfig, state: &Path) -> PathBuf {
    let hash = digest(&SHA256, acme.directory.as_bytes());
    let name: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    state.join(DIRECTORY).join(format!("account-{name}.json"))
}

fn read(path: &Path) -> Result<Option<Kept<AccountCredentials>>, String> {
    let text = match fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    let kept = serde_json::from_slice(&text);
    kept.map(Some).map_err(|error| format!("{} is damaged, remove it: {error}", path.display()))
}

/// Credentials cannot be written again once they were read, so the rest of the file is changed around them.
fn note_contact(path: &Path, contact: &[String]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let text = Zeroizing::new(fs::read(path).map_err(failed)?);
    let kept: Kept<serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    write(path, &Kept { contact: contact.to_vec(), ..kept })
}

fn write<C: Serialize>(path: &Path, kept: &Kept<C>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{} cannot be written: {error}", path.display());
    let text = Zeroizing::new(serde_json::to_vec(kept).map_err(|error| failed(error.into()))?);
    Disk::default().write_below(path, &text).map_err(failed)
}
