//! The state partition of a machine that is switched off, reached from outside: debugfs writes to the file system in the
//! disk image, so nothing is mounted and no privileges are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;
use serde_json::Value;

use super::builder::Builder;

const LIMIT: Duration = Duration::from_secs(120);
const LABEL: &str = "state";
const SECTOR: u64 = 512;
/// What takes the room.
const FILLER: &str = "filler";
/// The file system describes the filler in a few blocks of its own, so not all is to be had at once.
const ATTEMPTS: u64 = 8;

#[derive(Debug)]
pub(super) struct State<'a> {
    builder: &'a Builder,
    /// The disk, and where on it the file system is, in the words of e2fsprogs.
    place: String,
    /// For the list of commands.
    commands: PathBuf,
}

impl<'a> State<'a> {
    pub(super) fn find(builder: &'a Builder, disk: &Path) -> Result<Self> {
        let mut sfdisk = builder.program("usr/sbin/sfdisk");
        let table = process::run(sfdisk.arg("--json").arg(disk), LIMIT)?.ok()?.stdout;
        let table: Value = serde_json::from_str(&table).context("read the partition table")?;
        let partitions = table.pointer("/partitiontable/partitions").and_then(Value::as_array);
        let state = partitions.into_iter().flatten().find(|partition| partition["name"] == LABEL);
        let start = state.and_then(|state| state["start"].as_u64());
        let start = start.context("the disk has no state partition: has it started once?")?;
        let disk = disk.to_str().context("the disk's path is no text")?;
        let commands = Path::new(disk).with_extension("debugfs");
        Ok(Self { builder, place: format!("{disk}?offset={}", start * SECTOR), commands })
    }

    /// Takes all room that there is, also what is kept for root.
    pub(super) fn fill(&self) -> Result<()> {
        self.perform(&[&format!("write /dev/null {FILLER}")])?;
        let mut begin = 0;
        for attempt in 0..ATTEMPTS {
            let free = self.free()?;
            if free == 0 {
                return Ok(());
            }
            // Later attempts take little: what is left by then are remains.
            let take = if attempt == 0 { free.saturating_sub(64).max(1) } else { free.div_ceil(2) };
            self.perform(&[&format!("fallocate {FILLER} {begin} {}", begin + take - 1)])?;
            begin += take;
        }
        match self.free()? {
            0..=4 => Ok(()),
            free => bail!("{free} blocks of the state partition are still free"),
        }
    }

    pub(super) fn empty(&self) -> Result<()> {
        self.perform(&[&format!("rm {FILLER}")]).map(drop)
    }

    fn free(&self) -> Result<u64> {
        let said = self.perform(&["stats -h"])?;
        let free = said.lines().find_map(|line| line.strip_prefix("Free blocks:"));
        free.and_then(|free| free.trim().parse().ok()).context("debugfs tells no free blocks")
    }

    fn perform(&self, commands: &[&str]) -> Result<String> {
        fs::write(&self.commands, commands.join("\n")).context("write the commands")?;
        let mut debugfs = self.builder.program("usr/sbin/debugfs");
        debugfs.args(["-w", "-f"]).arg(&self.commands).arg(&self.place);
        let output = process::run(&mut debugfs, LIMIT)?.ok()?;
        // It succeeds whatever the commands came to; the first line of its errors is its version.
        match output.stderr.lines().nth(1) {
            Some(error) => bail!("debugfs says: {error}"),
            None => Ok(output.stdout),
        }
    }
}
