//! What a machine is told besides credentials: a NoCloud volume in its optical drive, and what somebody types at its serial
//! console.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_tests::process;

use super::builder::Builder;

const MOMENT: Duration = Duration::from_secs(60);
/// Stands for the administrator's public key.
const KEY: &str = "{key}";

/// Text with the administrator's key where it says so.
pub(super) fn with_key(text: &str, key: &Path) -> Result<String> {
    let key = fs::read_to_string(key).context("read the key")?;
    Ok(text.replace(KEY, key.trim()))
}

/// A line of the command line with the public keys of users (`{key:viewer}`) and their fingerprints (`{print:viewer}`), where
/// it says so.
pub(super) fn with_keys_of_users(line: &str, key_of: impl Fn(&str) -> PathBuf) -> Result<String> {
    let mut line = line.to_owned();
    for user in ["admin", "operator", "viewer"] {
        let (key, print) = (format!("{{key:{user}}}"), format!("{{print:{user}}}"));
        let file = key_of(user);
        if line.contains(&key) {
            line = line.replace(&key, fs::read_to_string(&file).context("read a key")?.trim());
        }
        if line.contains(&print) {
            let mut program = Command::new("ssh-keygen");
            let told = process::run(program.arg("-lf").arg(&file), MOMENT)?.ok()?;
            line = line.replace(&print, told.stdout.split(' ').nth(1).unwrap_or_default());
        }
    }
    Ok(line)
}

/// Makes the volume.
pub(super) fn volume(
    builder: &Builder,
    files: &BTreeMap<String, String>,
    key: &Path,
    at: &Path,
) -> Result<PathBuf> {
    let content = at.join("seed");
    fs::create_dir_all(&content).context("make a directory")?;
    for (name, text) in files {
        fs::write(content.join(name), with_key(text, key)?).context("write a file of the volume")?;
    }
    let iso = at.join("seed.iso");
    let mut xorriso = builder.program("usr/bin/xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o"]).arg(&iso).arg(&content);
    process::run(&mut xorriso, MOMENT)?.ok()?;
    Ok(iso)
}

/// A keyboard at the serial line.
#[derive(Debug)]
pub(super) struct Keyboard(UnixStream);

impl Keyboard {
    pub(super) fn at(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("go to the console")?;
        let mut screen = stream.try_clone().context("go to the console")?;
        // What it shows is in its log, too; unread it would stop the machine.
        thread::spawn(move || io::copy(&mut screen, &mut io::sink()));
        Ok(Self(stream))
    }

    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        self.0.write_all(format!("{text}\r").as_bytes()).context("type at the console")
    }
}
