//! A file system in memory for the kernel to start from: a cpio archive in the `newc` form, as in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use anyhow::{Context as _, Result};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive being written. Everything belongs to root and has no time, so that the same files are the same bytes.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory; those above it come first. `path` has no slash at its beginning.
    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// A file that may be executed.
    pub(crate) fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.entry(path, PROGRAM, content)
    }

    pub(crate) fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.entry(path, LINK, to.as_bytes())
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry(TRAILER, 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large for cpio"))?;
        // The name's length counts the zero byte at its end.
        let name = u32::try_from(path.len() + 1).with_context(|| format!("{path} is too long for cpio"))?;
        let inode = self.entries;
        // inode, mode, user, group, links, time, size, device (2), special device (2), name, checksum
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// Names and contents end at multiples of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, mode and content of each entry, read as the kernel reads them.
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0);
            assert_eq!(&bytes[at..at + 6], MAGIC.as_bytes());
            let field = |index: usize| {
                let from = at + 6 + index * 8;
                let text = std::str::from_utf8(&bytes[from..from + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size) = (field(1), usize::try_from(field(6)).unwrap());
            let name = usize::try_from(field(11)).unwrap();
            let path = String::from_utf8(bytes[at + 110..at + 110 + name - 1].to_vec()).unwrap();
            assert_eq!(bytes[at + 110 + name - 1], 0);
            let content = (at + 110 + name).next_multiple_of(4);
            if path == TRAILER {
                assert_eq!(bytes.len(), content);
                return entries;
            }
            entries.push((path, mode, bytes[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
    }

    #[test]
    fn an_archive_holds_what_was_put_into_it() {
        let mut archive = Archive::default();
        archive.directory("bin").unwrap();
        archive.program("bin/sh", b"12345").unwrap();
        archive.program("init", b"").unwrap();
        archive.link("sbin", "bin").unwrap();
        let entries = read(&archive.finish().unwrap());
        let expected = [
            ("bin", 0o040_755, &b""[..]),
            ("bin/sh", 0o100_755, b"12345"),
            ("init", 0o100_755, b""),
            ("sbin", 0o120_777, b"bin"),
        ];
        let expected = expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_vec()));
        assert_eq!(entries, expected);
    }

    #[test]
    fn every_entry_has_a_number_of_its_own() {
        // The kernel takes two files with one inode number for hard links.
        let mut archive = Archive::default();
        archive.program("a", b"x").unwrap();
        let first = archive.bytes.clone();
        archive.program("a", b"x").unwrap();
        assert_ne!(first[6..14], archive.bytes[first.len() + 6..first.len() + 14]);
    }
}
