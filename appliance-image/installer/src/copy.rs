//! The image on its way to the disk, and back again for comparison.
//!
//! It is never there uncompressed: zstd(1) unpacks it as it is written, and once more as the disk is read. Until everything
//! else is on the disk, the disk has no partition table, so that one that was written in part is not started.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::disks::BYTES_MIN;
use crate::output;

const BLOCK_BYTES: usize = 4 << 20;
/// How often a person is told how far it is.
const TELL_BYTES: u64 = 128 << 20;
/// The smallest disk, which the image is smaller than.
const ERASED_BYTES: u64 = BYTES_MIN / 512 * 512;
/// Linux's: a block device that something else uses is not opened.
const O_EXCL: i32 = 0o200;

/// Compares the compressed image with the checksum beside it, `NAME.sha256`.
///
/// # Errors
/// When they differ, or one of them is missing.
pub fn check(image: &Path) -> Result<()> {
    let directory = image.parent().context("the image is nowhere")?;
    let mut sums = image.file_name().context("the image has no name")?.to_owned();
    sums.push(".sha256");
    let mut sum = Command::new("sha256sum");
    sum.current_dir(directory).args(["--check", "--strict", "--quiet"]).arg(sums);
    output(&mut sum).map(drop).context("the image on the medium is damaged: make the medium again")
}

/// Writes the image to the disk and waits until the disk has it. Returns its size.
///
/// # Errors
/// When the disk is in use, cannot be written, or is too small.
pub fn write(image: &Path, node: &Path, mut tell: impl FnMut(u64)) -> Result<u64> {
    // First: it insists on having the disk for itself, too.
    let zeroed = erase(node);
    let mut disk = OpenOptions::new().write(true).custom_flags(O_EXCL).open(node);
    let disk = disk.as_mut().map_err(|error| anyhow::anyhow!("{}: {error}", node.display()))?;
    let mut source = Unpacked::start(image)?;
    let mut first = Vec::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut written = 0_u64;
    loop {
        let bytes = source.fill(&mut block)?;
        let Some(part) = block.get(..bytes).filter(|part| !part.is_empty()) else { break };
        if first.is_empty() {
            first = part.to_vec();
            disk.write_all(&vec![0; bytes]).context("erase the start of the disk")?;
        } else if zeroed && part.iter().all(|byte| *byte == 0) {
            disk.seek_relative(i64::try_from(bytes)?).context("go on")?;
        } else {
            disk.write_all(part).with_context(|| format!("write at byte {written}"))?;
        }
        written += u64::try_from(bytes)?;
        progress(written, bytes, &mut tell);
    }
    source.end()?;
    if written > ERASED_BYTES {
        bail!("the image is larger than the smallest disk that is taken");
    }
    disk.sync_all().context("write to the disk")?;
    disk.seek(SeekFrom::Start(0)).context("go to the start of the disk")?;
    disk.write_all(&first).context("write the start of the disk")?;
    disk.sync_all().context("write to the disk")?;
    Ok(written)
}

/// Reads the disk and compares it with the image.
///
/// # Errors
/// Where they differ first.
pub fn verify(image: &Path, node: &Path, mut tell: impl FnMut(u64)) -> Result<()> {
    let mut disk = File::open(node).with_context(|| format!("open {}", node.display()))?;
    let mut source = Unpacked::start(image)?;
    let (mut expected, mut found) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut read = 0_u64;
    loop {
        let bytes = source.fill(&mut expected)?;
        if bytes == 0 {
            return source.end();
        }
        let found = found.get_mut(..bytes).context("a block is larger than a block")?;
        disk.read_exact(found).with_context(|| format!("read at byte {read}"))?;
        if expected.get(..bytes) != Some(&*found) {
            bail!("the disk holds something else than was written, behind byte {read}: it is broken");
        }
        read += u64::try_from(bytes)?;
        progress(read, bytes, &mut tell);
    }
}

/// Has the disk fill itself with zeros where the image goes, which most do at once; most of the image is zeros. Whether it did.
fn erase(node: &Path) -> bool {
    let mut discard = Command::new("blkdiscard");
    output(discard.args(["--zeroout", "--length", &ERASED_BYTES.to_string()]).arg(node)).is_ok()
}

fn progress(done: u64, last: usize, tell: &mut impl FnMut(u64)) {
    let before = done.saturating_sub(u64::try_from(last).unwrap_or(0));
    if done / TELL_BYTES != before / TELL_BYTES {
        tell(done);
    }
}

/// The image as zstd unpacks it.
struct Unpacked {
    zstd: Child,
    bytes: ChildStdout,
}

impl Unpacked {
    fn start(image: &Path) -> Result<Self> {
        let mut zstd = Command::new("zstd");
        zstd.args(["-q", "-d", "-c", "--no-sparse"]).arg(image).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut zstd = zstd.spawn().context("start zstd")?;
        let bytes = zstd.stdout.take().context("zstd says nothing")?;
        Ok(Self { zstd, bytes })
    }

    /// Fills a block as far as there is something.
    fn fill(&mut self, block: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.bytes.read(rest).context("read the image")? {
                0 => break,
                bytes => filled += bytes,
            }
        }
        Ok(filled)
    }

    fn end(mut self) -> Result<()> {
        let status = self.zstd.wait().context("wait for zstd")?;
        if status.success() {
            Ok(())
        } else {
            bail!("the image could not be unpacked: zstd ended with {status}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn image(directory: &Path) -> (PathBuf, Vec<u8>) {
        let bytes: Vec<u8> = (0..(9_u32 << 20)).map(|at| at.to_le_bytes()[1] ^ at.to_le_bytes()[2]).collect();
        fs::write(directory.join("raw"), &bytes).unwrap();
        let image = directory.join("image.zst");
        output(Command::new("zstd").arg("-q").arg(directory.join("raw")).arg("-o").arg(&image)).unwrap();
        let sum = output(Command::new("sha256sum").current_dir(directory).arg("image.zst")).unwrap();
        fs::write(directory.join("image.zst.sha256"), sum).unwrap();
        (image, bytes)
    }

    #[test]
    fn the_image_arrives_whole_and_a_changed_byte_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (image, bytes) = image(directory.path());
        let disk = directory.path().join("disk");
        fs::write(&disk, vec![0xaa; 12 << 20]).unwrap();
        check(&image).unwrap();
        assert_eq!(write(&image, &disk, |_| ()).unwrap(), 9 << 20);
        verify(&image, &disk, |_| ()).unwrap();
        let mut held = fs::read(&disk).unwrap();
        assert_eq!(held.get(..9 << 20), Some(bytes.as_slice()));
        held[5 << 20] ^= 1;
        fs::write(&disk, held).unwrap();
        assert!(verify(&image, &disk, |_| ()).unwrap_err().to_string().contains("behind byte 4194304"));
    }

    #[test]
    fn a_damaged_image_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let (image, _) = image(directory.path());
        let mut held = fs::read(&image).unwrap();
        let middle = held.len() / 2;
        held[middle] ^= 1;
        fs::write(&image, held).unwrap();
        assert!(format!("{:#}", check(&image).unwrap_err()).contains("medium"));
    }

    #[test]
    fn a_disk_that_was_written_in_part_has_no_partition_table() {
        let directory = tempfile::tempdir().unwrap();
        let (image, _) = image(directory.path());
        let held = fs::read(&image).unwrap();
        fs::write(&image, held.get(..held.len() - 9).unwrap()).unwrap();
        let disk = directory.path().join("disk");
        fs::write(&disk, vec![0xaa; 12 << 20]).unwrap();
        assert!(write(&image, &disk, |_| ()).is_err());
        assert!(fs::read(&disk).unwrap().get(..1 << 20).unwrap().iter().all(|byte| *byte == 0));
    }
}
