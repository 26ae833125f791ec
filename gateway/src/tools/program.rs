//! Programs of the system that know what the daemon does not: journalctl, ip, systemctl. They run with arguments that are
//! fixed or checked, without the daemon's environment and without input, for a bounded time, and a bounded part of
//! what they print is read. No shell is between.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// How long one may take.
const TIME_MAX: Duration = Duration::from_secs(15);
/// What is kept of its complaints.
const COMPLAINTS_MAX: u64 = 4096;

/// What it printed.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    pub(crate) text: Vec<u8>,
    /// There was more.
    pub(crate) cut: bool,
    pub(crate) complaints: String,
}

/// Runs a program.
///
/// # Errors
/// Why it could not run, or what it said where it printed nothing and failed.
pub(crate) async fn run(path: &str, arguments: &[String], most: u64) -> Result<Printed, String> {
    tokio::time::timeout(TIME_MAX, finish(path, arguments, most))
        .await
        .map_err(|_elapsed| format!("{path} took longer than {} s", TIME_MAX.as_secs()))?
}

async fn finish(path: &str, arguments: &[String], most: u64) -> Result<Printed, String> {
    let mut command = Command::new(path);
    command.args(arguments).env_clear().env("LC_ALL", "C.UTF-8").env("SYSTEMD_COLORS", "0").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("cannot run {path}: {error}"))?;
    let (Some(out), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(format!("{path} has no output"));
    };
    let (mut text, mut said) = (Vec::new(), Vec::new());
    let mut out = out.take(most.saturating_add(1));
    let mut complaints = complaints.take(COMPLAINTS_MAX);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let reading = async {
        out.read_to_end(&mut text).await?;
        if text.len() > most {
            // It would wait for a reader that does not come, and its complaints have no end before it has.
            child.start_kill()?;
        }
        Ok::<_, std::io::Error>(())
    };
    let (read, heard) = tokio::join!(reading, complaints.read_to_end(&mut said));
    read.and_then(|()| heard.map(drop)).map_err(|error| format!("{path}: {error}"))?;
    let cut = text.len() > most;
    text.truncate(most);
    let complaints = String::from_utf8_lossy(&said).trim().to_owned();
    if cut {
        child.wait().await.ok();
        return Ok(Printed { text, cut, complaints });
    }
    let status = child.wait().await.map_err(|error| format!("{path}: {error}"))?;
    if !status.success() && text.is_empty() {
        return Err(format!("{path} failed ({status}): {complaints}"));
    }
    Ok(Printed { text, cut, complaints })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_bounded_and_failure_is_told() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let printed = run("/bin/echo", &words(&["$HOME", ";", "id"]), 100).await.unwrap();
        assert_eq!(printed.text, b"$HOME ; id\n");
        let printed = run("/usr/bin/yes", &[], 1000).await.unwrap();
        assert!(printed.cut && printed.text.len() == 1000);
        let error = run("/bin/ls", &words(&["/nonexistent"]), 100).await.unwrap_err();
        assert!(error.contains("No such file"), "{error}");
        assert!(run("/nonexistent", &[], 1).await.unwrap_err().contains("cannot run"));
    }
}
