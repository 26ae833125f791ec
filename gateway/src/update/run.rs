//! systemd-sysupdate(8): it is told where updates are, and what it says is followed.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{Places, Version};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Looking takes seconds; a server that answers by drops must not keep others from updating.
const LIST_MAX: Duration = Duration::from_mins(3);
/// Longest list that is read.
const OUTPUT_MAX_BYTES: usize = 1024 * 1024;
/// Versions that are told, the newest: a status has room for them.
const VERSIONS_MAX: usize = 200;
/// Lines that are kept of what it says, for an error.
const LINES_KEPT: usize = 4;
const LINE_MAX_CHARS: usize = 300;

/// Where updates are, and what of them is for this machine.
#[derive(Clone, Debug)]
pub(super) struct From {
    /// A URL.
    pub(super) place: String,
    pub(super) kernel: String,
}

/// What it said at its end.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) output: String,
    errors: Vec<String>,
}

/// Versions that are installed or offered, the newest first.
pub(super) fn list(places: &Places, from: &From) -> io::Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Listed {
        #[serde(default)]
        all: Vec<String>,
    }
    let said = run(places, from, &["list", "--json=short"], Some(LIST_MAX), |_, _| {})?;
    let mut listed: Listed = serde_json::from_str(said.output.trim())
        .map_err(|error| io::Error::other(format!("systemd-sysupdate said what it never said: {error}")))?;
    listed.all.truncate(VERSIONS_MAX);
    Ok(listed.all)
}

/// Puts a version into the slot that does not run. `tell` gets what it does, and how much of it is done.
pub(super) fn install(
    places: &Places,
    from: &From,
    version: Option<&Version>,
    tell: impl FnMut(&str, Option<u8>),
) -> io::Result<()> {
    let mut arguments = vec!["update"];
    arguments.extend(version.map(Version::as_str));
    // As long as the unit lets it.
    run(places, from, &arguments, None, tell).map(drop)
}

fn run(
    places: &Places,
    from: &From,
    arguments: &[&str],
    most: Option<Duration>,
    mut tell: impl FnMut(&str, Option<u8>),
) -> io::Result<Said> {
    let definitions = define(places, from)?;
    let notify = places.run.join("notify");
    fs::remove_file(&notify).ok();
    let progress = UnixDatagram::bind(&notify)?;
    progress.set_nonblocking(true)?;
    let mut sysupdate = Command::new(&places.sysupdate);
    sysupdate.arg(format!("--definitions={}", definitions.display())).arg("--no-pager").args(arguments);
    sysupdate.env("NOTIFY_SOCKET", &notify).env("SYSTEMD_COLORS", "0").env("SYSTEMD_EMOJI", "0");
    sysupdate.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = sysupdate.spawn()?;
    let begun = Instant::now();
    let (sender, lines) = mpsc::channel();
    let readers = [child.stdout.take().map(Pipe::Output), child.stderr.take().map(Pipe::Errors)];
    let readers: Vec<_> = readers
        .into_iter()
        .flatten()
        .map(|pipe| {
            let sender = sender.clone();
            std::thread::spawn(move || pipe.read(&sender))
        })
        .collect();
    drop(sender);
    let mut said = Said::default();
    let (mut step, mut percent) = ("looking for updates".to_owned(), None);
    loop {
        match lines.recv_timeout(LOOK) {
            Ok((true, line)) if said.output.len() + line.len() <= OUTPUT_MAX_BYTES => {
                said.output += &(line + "\n");
            }
            Ok((true, _)) => {}
            Ok((false, line)) => {
                tracing::info!("{line}");
                if let Some(now) = step_of(&line) {
                    step = now;
                }
                said.note(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(most) = most.filter(|most| begun.elapsed() > *most) {
            // What it has started ends with it.
            child.kill()?;
            child.wait()?;
            let seconds = most.as_secs();
            return Err(io::Error::other(format!("the directory has not answered whole for {seconds} s")));
        }
        percent = told_percent(&progress).or(percent);
        tell(&step, percent);
    }
    for reader in readers {
        // It has ended: its end of the channel is gone.
        drop(reader.join());
    }
    finish(child.wait()?, said)
}

fn finish(status: ExitStatus, said: Said) -> io::Result<Said> {
    if status.success() {
        return Ok(said);
    }
    // The end of what it says is often only that something else has failed; the cause comes before.
    Err(io::Error::other(said.errors.join("; ")))
}

impl Said {
    fn note(&mut self, line: String) {
        let harmless =
            ["Discovering", "Determining", "Operation completed", "Exiting.", "Acquired", "Pulling "];
        if line.is_empty() || harmless.iter().any(|begin| line.starts_with(begin)) {
            return;
        }
        if self.errors.len() == LINES_KEPT {
            self.errors.remove(0);
        }
        self.errors.push(line.chars().take(LINE_MAX_CHARS).collect());
    }
}

/// What it does, for people.
fn step_of(line: &str) -> Option<String> {
    let steps = [
        ("Discovering installed", "looking at what is installed"),
        ("Discovering available", "looking for updates"),
        ("Making room", "making room"),
        ("Signature verification succeeded", "the signature is good"),
    ];
    if let Some((_, step)) = steps.iter().find(|(begin, _)| line.contains(begin)) {
        return Some((*step).to_owned());
    }
    let (_, rest) = line.split_once("Acquiring ")?;
    let name = rest.split(' ').next()?.rsplit('/').next()?;
    Some(format!("writing {}", name.trim_end_matches('…')))
}

/// The last word about progress that has come.
fn told_percent(progress: &UnixDatagram) -> Option<u8> {
    let mut buffer = [0; 1024];
    let mut last = None;
    while let Ok(length) = progress.recv(&mut buffer) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let told = text.lines().find_map(|line| line.strip_prefix("X_SYSUPDATE_PROGRESS="));
        last = told.and_then(|percent| percent.parse().ok()).or(last);
    }
    last
}

enum Pipe {
    Output(std::process::ChildStdout),
    Errors(std::process::ChildStderr),
}

impl Pipe {
    fn read(self, lines: &mpsc::Sender<(bool, String)>) {
        let (is_output, from): (bool, Box<dyn io::Read>) = match self {
            Self::Output(pipe) => (true, Box::new(pipe)),
            Self::Errors(pipe) => (false, Box::new(pipe)),
        };
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if lines.send((is_output, text)).is_err() {
                return;
            }
            line.clear();
        }
    }
}

/// Writes what is to be fetched, from where, and where to.
fn define(places: &Places, from: &From) -> io::Result<std::path::PathBuf> {
    let definitions = places.run.join("definitions");
    match fs::remove_dir_all(&definitions) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir(&definitions)?,
    }
    for entry in fs::read_dir(&places.transfers)? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        // sysupdate.d(5): a `%` begins a specifier.
        let text = text.replace("@SOURCE@", &from.place.replace('%', "%%")).replace("@KERNEL@", &from.kernel);
        fs::write(definitions.join(entry.file_name()), text)?;
    }
    Ok(definitions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn places(place: &std::path::Path, script: &str) -> Places {
        let transfers = place.join("transfers");
        fs::create_dir(&transfers).unwrap();
        fs::write(transfers.join("10-x.transfer"), "[Source]\nPath=@SOURCE@\nMatchPattern=@KERNEL@\n")
            .unwrap();
        let sysupdate = place.join("sysupdate");
        fs::write(&sysupdate, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&sysupdate, fs::Permissions::from_mode(0o755)).unwrap();
        Places { run: place.to_owned(), transfers, sysupdate, ..Places::default() }
    }

    fn from(place: &str) -> From {
        From { place: place.to_owned(), kernel: "cloud".to_owned() }
    }

    #[test]
    fn versions_are_listed_from_the_source_that_was_named() {
        let place = tempfile::tempdir().unwrap();
        let script = r#"test "$(cat definitions/10-x.transfer)" = "$(printf '[Source]\nPath=https://u.example/a%%%%20b\nMatchPattern=cloud')"
            echo '{"current":"1","all":["2","1"],"appstreamUrls":[]}'"#;
        let places = places(place.path(), &format!("cd {} || exit 1\n{script}", place.path().display()));
        assert_eq!(list(&places, &from("https://u.example/a%20b")).unwrap(), ["2", "1"]);
    }

    #[test]
    fn what_it_does_is_told_and_why_it_failed() {
        let place = tempfile::tempdir().unwrap();
        let script = "echo 'Discovering available instances…' >&2\n\
                      echo '⤵️ Acquiring https://u.example/portcullis_2.efi → /efi/x...' >&2\n\
                      echo 'Checksum of file did not check out' >&2; exit 1";
        let places = places(place.path(), script);
        let mut steps = Vec::new();
        let error = install(&places, &from("https://u.example"), None, |step, _| steps.push(step.to_owned()));
        assert!(steps.contains(&"writing portcullis_2.efi".to_owned()), "{steps:?}");
        assert!(error.unwrap_err().to_string().contains("did not check out"));
    }

    #[test]
    fn a_directory_that_never_ends_its_answer_is_given_up() {
        let place = tempfile::tempdir().unwrap();
        let places = places(place.path(), "exec sleep 1000");
        let most = Some(Duration::from_millis(1));
        let error = run(&places, &from("https://u.example"), &["list"], most, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("has not answered whole"), "{error}");
    }

    #[test]
    fn a_list_without_an_end_is_not_kept() {
        let place = tempfile::tempdir().unwrap();
        let versions: Vec<String> = (0..1000).map(|number| format!("\"{number}\"")).collect();
        let script = format!("echo '{{\"all\":[{}]}}'", versions.join(","));
        assert_eq!(
            list(&places(place.path(), &script), &from("https://u.example")).unwrap().len(),
            VERSIONS_MAX
        );
        let place = tempfile::tempdir().unwrap();
        let places = places(place.path(), "head -c 3000000 /dev/zero | tr '\\0' 'x\\n' | fold -w 100");
        assert!(list(&places, &from("https://u.example")).is_err());
    }
}
