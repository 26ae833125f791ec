//! QEMU's monitor (QMP): what happens to the machine's hardware while it runs.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// QEMU answers between two of the machine's instructions, and may have to wait for a processor.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events come between a command and its answer.
const LINES_MAX: usize = 1000;

/// Takes the cable out of a card, or puts it in.
pub(super) fn cable(socket: &Path, card: usize, plugged: bool) -> Result<()> {
    let stream = UnixStream::connect(socket).context("go to QEMU's monitor")?;
    stream.set_read_timeout(Some(PATIENCE)).context("bound the wait for QEMU's monitor")?;
    let mut reader = BufReader::new(stream.try_clone().context("go to QEMU's monitor")?);
    let link = json!({"name": format!("card{card}"), "up": plugged});
    // It takes no other command before the first.
    for command in [json!({"execute": "qmp_capabilities"}), json!({"execute": "set_link", "arguments": link})]
    {
        writeln!(&stream, "{command}").context("tell QEMU's monitor")?;
        answered(&mut reader, &command)?;
    }
    Ok(())
}

/// Reads until the command is answered, past the greeting and what happens meanwhile.
fn answered(reader: &mut impl BufRead, command: &Value) -> Result<()> {
    for line in reader.lines().take(LINES_MAX) {
        let line = line.context("hear QEMU's monitor")?;
        let said: Value = serde_json::from_str(&line).context("read what QEMU's monitor says")?;
        if said.get("return").is_some() {
            return Ok(());
        }
        if let Some(error) = said.get("error") {
            bail!("QEMU's monitor refuses {command}: {error}");
        }
    }
    bail!("QEMU's monitor did not answer {command}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_behind_greeting_and_events_and_an_error_is_told() {
        let command = json!({"execute": "set_link"});
        let said = |text: &str| answered(&mut text.as_bytes(), &command);
        assert!(said("{\"QMP\": {}}\n{\"event\": \"STOP\"}\n{\"return\": {}}\n").is_ok());
        let refused = said("{\"error\": {\"class\": \"DeviceNotFound\"}}\n").unwrap_err();
        assert!(refused.to_string().contains("DeviceNotFound"), "{refused}");
        assert!(said("{\"QMP\": {}}\n").is_err());
    }
}
