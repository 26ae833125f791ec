//! Credentials on the system partition of a disk, as whoever writes the image to a disk can put them there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::builder::Builder;

/// The system partition is the first, behind a MiB; see mkosi.repart.
const SCRIPT: &str = r#"
esp=/mk/disk.raw@@1M
mmd -D s -i "$esp" ::/loader ::/loader/credentials || true
cd /mk/told
for name in *; do
    systemd-creds encrypt --with-key=null --name="$name" "$name" "/tmp/$name.cred"
    mcopy -D o -i "$esp" "/tmp/$name.cred" "::/loader/credentials/$name.cred"
done
"#;

/// `place` is where the disk lies.
pub(super) fn tell(builder: &Builder, place: &Path, credentials: &BTreeMap<String, String>) -> Result<()> {
    let told = place.join("told");
    fs::create_dir_all(&told).context("make a directory for credentials")?;
    for (name, value) in credentials {
        fs::write(told.join(name), value).with_context(|| format!("write {name}"))?;
    }
    builder.run("tell", place, &["/bin/sh", "-ec", SCRIPT], |_| None)
}
