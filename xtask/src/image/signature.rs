//! Signatures of what the firmware starts, on the system partition of a machine that is switched off: taken away, made by
//! a stranger, or made again by the image's keys. mtools reaches the file system in the disk image.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::builder::{self, Builder};

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Signed {
    /// What the firmware starts.
    Loader,
    /// What the boot loader starts.
    Kernel,
}

/// By whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Signer {
    Nobody,
    /// A key that the firmware does not know.
    Stranger,
    /// The key in `target/image/keys`.
    Owner,
}

/// Arguments: place, signer. Beside the disk: the system partition is the first on it, behind a MiB; see mkosi.repart.
const SCRIPT: &str = r#"
place=$1 signer=$2 esp=/mk/disk.raw@@1M
cd "$(mktemp -d)"
mdir -b -i "$esp" "$place" >names
grep -i '\.efi$' names | while read -r file; do
    mcopy -n -o -i "$esp" "$file" it.efi
    # Without a signature there is nothing to be taken away.
    sbattach --remove it.efi || true
    case $signer in
    stranger) openssl req -new -x509 -newkey rsa:2048 -sha256 -nodes -days 30 -config /dev/null -subj /CN=stranger/ \
        -keyout by.key -out by.crt ;;
    owner) cp /mk/db.key by.key; cp /mk/db.crt by.crt ;;
    esac
    if test -f by.key; then sbsign --key by.key --cert by.crt --output it.efi it.efi; fi
    mcopy -D o -i "$esp" it.efi "$file"
    echo "$file: signed by $signer" | tee -a done
done
test -s done
"#;

pub(super) fn sign(builder: &Builder, disk: &Path, what: Signed, by: Signer) -> Result<()> {
    let place = match what {
        Signed::Loader => "::/EFI/BOOT",
        Signed::Kernel => "::/EFI/Linux",
    };
    let signer = match by {
        Signer::Nobody => "nobody",
        Signer::Stranger => "stranger",
        Signer::Owner => "owner",
    };
    let beside = disk.parent().context("the disk is nowhere")?;
    if by == Signer::Owner {
        let keys = builder::directory()?.join("keys");
        for name in ["db.key", "db.crt"] {
            fs::copy(keys.join(name), beside.join(name)).with_context(|| format!("copy {name}"))?;
        }
    }
    builder.run("sign", beside, &["/bin/sh", "-ec", SCRIPT, "sh", place, signer], |_| None)
}
