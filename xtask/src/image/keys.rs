//! Keys for Secure Boot: the platform's (PK), who may change the list (KEK), and who signs what starts (db).
//!
//! Generated ones are for trying it out: whoever releases images keeps keys elsewhere and gives `--keys`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;

use super::builder::{self, Builder};
use crate::shell;

const LIMIT: Duration = Duration::from_secs(120);
/// Who owns the firmware's entries: drawn once for this project.
const OWNER: &str = "6d0c5c7e-5b0f-4a2e-9d52-1f4d1f2b7a90";

/// A directory with `db.key` and `db.crt`.
#[derive(Debug)]
pub(super) struct Keys(PathBuf);

pub(super) fn given(directory: &Path) -> Result<Keys> {
    for name in ["db.key", "db.crt"] {
        if !directory.join(name).is_file() {
            bail!("{} has no {name}: a PEM key and certificate are needed", directory.display());
        }
    }
    Ok(Keys(directory.to_owned()))
}

/// The keys in `target/image/keys`, made when there are none.
pub(super) fn ensure(builder: &Builder) -> Result<Keys> {
    let directory = builder::directory()?.join("keys");
    fs::create_dir_all(&directory).context("make the keys' directory")?;
    for (name, what) in [("PK", "platform key"), ("KEK", "key exchange key"), ("db", "signature key")] {
        let (key, certificate) =
            (directory.join(format!("{name}.key")), directory.join(format!("{name}.crt")));
        if key.is_file() && certificate.is_file() {
            continue;
        }
        shell::say(&format!("making a {what} for Secure Boot in target/image/keys …"));
        let mut openssl = builder.program("usr/bin/openssl");
        openssl.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", "3650"]);
        openssl.args(["-config", "/dev/null", "-subj", &format!("/CN=Portcullis trial {what}/")]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        process::run(&mut openssl, LIMIT)?.ok()?;
    }
    Ok(Keys(directory))
}

impl Keys {
    /// Copies what signs to where mkosi finds it.
    pub(super) fn stage(&self, work: &Path) -> Result<()> {
        let to = work.join("keys");
        fs::create_dir_all(&to).context("make the keys' directory")?;
        for name in ["db.key", "db.crt"] {
            fs::copy(self.0.join(name), to.join(name)).with_context(|| format!("copy {name}"))?;
        }
        Ok(())
    }
}

/// The firmware's variables with the keys of `cargo xtask image --secure-boot` and nobody else's.
pub(super) fn enrolled(builder: &Builder, variables: &str) -> Result<PathBuf> {
    let keys = builder::directory()?.join("keys");
    if !keys.join("PK.crt").is_file() {
        bail!("there are no keys: run `cargo xtask image --secure-boot`");
    }
    let input = format!("/{variables}");
    let mut enrol = vec!["virt-fw-vars", "--input", &input, "--output", "variables.fd"];
    enrol.extend(["--set-pk", OWNER, "PK.crt", "--add-kek", OWNER, "KEK.crt"]);
    enrol.extend(["--add-db", OWNER, "db.crt", "--sb"]);
    builder.run("enrol", &keys, &enrol, |_| None)?;
    Ok(keys.join("variables.fd"))
}
