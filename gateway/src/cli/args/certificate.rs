//! What may be typed about certificates and secrets.

use clap::{Args, Subcommand, ValueEnum};

use crate::certificates::KeyKind;

const IMPORT_HELP: &str = "\
From another machine, over SSH:
  ssh admin@gateway certificate import web < chain.pem
  (cat password; cat web.pfx) | ssh admin@gateway certificate import web --pkcs12

Certificates may come in any order; roots are left out. The key is the one in the text, else the one that `certificate
request` has made for that name, else the one in use. A certificate that the configuration has is served to new
connections at once, without a restart; where it cannot be served, the one before stays.";

#[derive(Debug, Subcommand)]
pub enum Certificate {
    /// List certificates: whom they are for, who shows them, when they end
    List,
    /// Show one certificate with its chain and what is the matter with it
    Show { name: String },
    /// Make a key on the gateway and print a request for its certificate (PKCS #10); asked again, with the same key
    Request(Request),
    /// Take a certificate in, from standard input: PEM, with or without its key, or PKCS#12
    #[command(after_help = IMPORT_HELP)]
    Import(Import),
    /// Print a certificate and those behind it as PEM, without the key: keys never leave
    ExportChain { name: String },
    /// Order a certificate that comes by ACME now, instead of when it is due
    Renew { name: String },
    /// Forget a certificate that is not in the configuration, and the key that waits for one
    Delete { name: String },
}

#[derive(Clone, Debug, Args)]
pub struct Request {
    /// What the certificate is called here; one that is in the configuration keeps its key until the new one comes
    pub name: String,
    /// A host name or address that clients connect to; several times for several
    #[arg(long = "name", required = true, value_name = "DNS")]
    pub names: Vec<String>,
    /// What kind of key to make, where there is none yet
    #[arg(long, default_value = "ecdsa-p256")]
    pub key: Key,
    /// The organization in the request, where the issuer wants one
    #[arg(long, value_name = "NAME")]
    pub organization: Option<String>,
    /// Its country, two letters
    #[arg(long, value_name = "CC")]
    pub country: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Key {
    EcdsaP256,
    EcdsaP384,
}

impl Key {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => KeyKind::P256.as_str(),
            Self::EcdsaP384 => KeyKind::P384.as_str(),
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct Import {
    /// What the certificate is called, as `[[certificate]]` does
    pub name: String,
    /// Standard input is a line with the password, then a PKCS#12 archive as it is or as base64
    #[arg(long)]
    pub pkcs12: bool,
    /// Take it although names of the current certificate are missing in it
    #[arg(long)]
    pub force: bool,
}

const SECRETS_HELP: &str = "\
The configuration names secrets and does not hold them: `security_key_secrets` of [[sta]] and [sta_server], `token_secret` of
[metrics], `eab_key_secret` of [acme]. They are sealed by a key of the machine and never shown.

  portcullis secret set sta1                    # asks for it
  ssh admin@gateway secret set sta1 < key.txt   # or one line of standard input";

#[derive(Debug, Subcommand)]
#[command(after_help = SECRETS_HELP)]
pub enum Secret {
    /// Keep a secret under a name; it is asked for, or read from standard input
    #[command(after_help = SECRETS_HELP)]
    Set { name: String },
    /// List the names of secrets, never what they hold
    List,
    /// Forget a secret that the configuration does not name
    Delete { name: String },
}
