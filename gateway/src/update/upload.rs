//! An update as one file: how an administrator's command line puts it on the state partition, and how the job takes it
//! apart. Nothing of it is believed here; systemd-pull checks the signature of what comes out.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, statvfs};

use super::{Places, UPLOAD_MAX_BYTES};

const NAME: &str = "update.tar";
/// What stays free on the state partition: for logs, and for commits.
const SPARE_BYTES: u64 = 96 * 1024 * 1024;
const PIECE_BYTES: u64 = 1024 * 1024;
/// Files of an update: four, and room for what later ones bring.
const FILES_MAX: usize = 32;

/// Takes an update from a reader, whole or not at all; returns how long it is.
///
/// # Errors
/// When it is too long, or the file system says no.
pub(crate) fn receive(places: &Places, from: &mut impl Read) -> io::Result<u64> {
    let staged = places.uploads.join(format!("{NAME}.{}", std::process::id()));
    let outcome = write(&staged, from).and_then(|length| {
        // Two administrators: whose whole file comes last counts.
        fs::rename(&staged, places.uploads.join(NAME))?;
        Ok(length)
    });
    if outcome.is_err() {
        // What is not there needs no removing.
        fs::remove_file(&staged).ok();
    }
    outcome
}

fn write(staged: &Path, from: &mut impl Read) -> io::Result<u64> {
    fs::remove_file(staged).ok();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(staged)?;
    let mut length = 0;
    loop {
        if free(staged)? < SPARE_BYTES {
            return Err(io::Error::other("the state partition has too little room for it"));
        }
        let written = io::copy(&mut from.by_ref().take(PIECE_BYTES), &mut file)?;
        length += written;
        if length > UPLOAD_MAX_BYTES {
            let most = UPLOAD_MAX_BYTES >> 20;
            return Err(io::Error::other(format!("it is longer than {most} MiB, which no update is")));
        }
        if written == 0 {
            break;
        }
    }
    if length == 0 {
        return Err(io::Error::other("nothing came: hand over the file, `update install - < FILE`"));
    }
    file.flush()?;
    file.sync_all()?;
    Ok(length)
}

fn free(path: &Path) -> io::Result<u64> {
    let space = statvfs(path.parent().unwrap_or(path))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Takes what was handed over last apart, into a directory that only root writes to, and forgets it.
pub(super) fn unpack(places: &Places) -> io::Result<PathBuf> {
    let path = places.uploads.join(NAME);
    let nofollow = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).custom_flags(nofollow).open(&path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            io::Error::other("no update was handed over: `update install - < FILE`")
        } else {
            error
        }
    })?;
    let length = file.metadata()?.len();
    // From here on nobody can change it but by a hand that holds it open, and what counts is checked as it is used.
    fs::remove_file(&path)?;
    let place = place(places);
    clear(&place)?;
    fs::create_dir(&place)?;
    if free(&place.join("x"))? < length.saturating_add(SPARE_BYTES) {
        return Err(io::Error::other("the state partition has too little room to unpack it"));
    }
    untar(&mut file, &place)?;
    let mut count = 0;
    for entry in fs::read_dir(&place)? {
        let entry = entry?;
        count += 1;
        if !entry.file_type()?.is_file() || count > FILES_MAX || !is_plain(&entry.file_name()) {
            return Err(io::Error::other("it holds what an update does not hold"));
        }
    }
    Ok(place)
}

/// By tar(1), from a pipe: then it starts no program to uncompress.
fn untar(file: &mut File, place: &Path) -> io::Result<()> {
    let mut tar = Command::new("/usr/bin/tar");
    tar.args(["--extract", "--file=-", "--no-same-owner", "--no-same-permissions", "--directory"]);
    tar.arg(place).env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = tar.spawn()?;
    let fed = match child.stdin.take() {
        Some(mut input) => io::copy(&mut file.take(UPLOAD_MAX_BYTES), &mut input).map(drop),
        None => Ok(()),
    };
    let status = child.wait()?;
    if status.success() {
        return fed;
    }
    Err(io::Error::other("it is no update: an uncompressed tar archive is expected"))
}

fn is_plain(name: &OsStr) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    name.as_encoded_bytes().iter().all(|byte| plain(*byte))
}

fn place(places: &Places) -> PathBuf {
    places.kept.join("incoming")
}

/// Forgets what was unpacked, and what was never wholly handed over.
pub(super) fn forget(places: &Places) {
    // What cannot be removed now is removed by the next job.
    clear(&place(places)).ok();
}

fn clear(place: &Path) -> io::Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// At the start of the machine nobody hands anything over yet.
pub(super) fn forget_all(places: &Places) {
    forget(places);
    for entry in fs::read_dir(&places.uploads).into_iter().flatten().flatten() {
        fs::remove_file(entry.path()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(place: &Path) -> Places {
        let places = Places { uploads: place.join("uploads"), kept: place.join("kept"), ..Places::default() };
        fs::create_dir(&places.uploads).unwrap();
        fs::create_dir(&places.kept).unwrap();
        places
    }

    fn archive(place: &Path, make: &str) -> Vec<u8> {
        let script = format!("mkdir -p t && cd t && {make} && tar -cf - *");
        let made = Command::new("sh").args(["-ec", &script]).current_dir(place).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        made.stdout
    }

    #[test]
    fn an_update_is_handed_over_and_unpacked_once() {
        let place = tempfile::tempdir().unwrap();
        let places = places(place.path());
        let bytes = archive(place.path(), "echo a > SHA256SUMS && echo b > portcullis_1.efi");
        assert_eq!(receive(&places, &mut &*bytes).unwrap(), u64::try_from(bytes.len()).unwrap());
        let unpacked = unpack(&places).unwrap();
        assert_eq!(fs::read_to_string(unpacked.join("SHA256SUMS")).unwrap(), "a\n");
        assert!(unpack(&places).unwrap_err().to_string().contains("no update was handed over"));
        forget(&places);
        assert!(!unpacked.exists());
    }

    #[test]
    fn what_is_no_update_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let places = places(place.path());
        assert!(receive(&places, &mut io::empty()).is_err());
        assert!(fs::read_dir(&places.uploads).unwrap().next().is_none());
        for make in ["ln -s /etc/passwd SHA256SUMS", "mkdir x", "echo a > 'a b'"] {
            let bytes = archive(place.path(), make);
            receive(&places, &mut &*bytes).unwrap();
            assert!(unpack(&places).is_err(), "{make}");
            fs::remove_dir_all(place.path().join("t")).unwrap();
        }
        receive(&places, &mut &b"no archive"[..]).unwrap();
        assert!(unpack(&places).unwrap_err().to_string().contains("tar archive"));
    }
}
