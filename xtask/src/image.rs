//! `cargo xtask image`: the appliance as a disk image.
//!
//! What is in it is data in `appliance-image/`; mkosi puts it together in a builder root of its own. Everything that is
//! fetched or made lies in `target/image`. It needs root, and installs nothing.

mod build;
mod builder;
mod formats;
mod installer;
mod keys;
mod licences;
mod sbom;
pub(crate) mod scenario;
mod sources;
mod state;
mod vm;
mod wiring;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::shell;
use build::{Built, Kernel, Order};
use builder::Builder;
use formats::Format;
use keys::Keys;
use sources::Sources;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to make of the image, besides the disk image itself; may be given more than once
    #[arg(long = "format", value_enum, value_name = "FORMAT")]
    formats: Vec<Format>,
    /// Which machines it is for
    #[arg(long, value_enum, default_value = "cloud", conflicts_with = "no_build")]
    kernel: Kernel,
    /// Version of the image [default: that of the workspace]
    #[arg(long, value_name = "VERSION")]
    image_version: Option<String>,
    /// Sign for Secure Boot with keys in target/image/keys, which are made when there are none
    #[arg(long)]
    secure_boot: bool,
    /// Sign with `db.key` and `db.crt` of this directory
    #[arg(long, value_name = "DIRECTORY")]
    keys: Option<PathBuf>,
    /// Build a second time and compare: both must have the same root hash
    #[arg(long)]
    twice: bool,
    /// Take the programs that are in target/release instead of building them
    #[arg(long)]
    no_cargo: bool,
    /// Take the image that is in target/image instead of building it, and only make formats of it; keys sign the ISO then
    #[arg(long, conflicts_with = "twice")]
    no_build: bool,
    /// Make the builder root anew, with the newest packages
    #[arg(long)]
    update: bool,
    /// Debian mirror, for example a snapshot of a day; the one that apt is configured for when absent
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Mirror of Debian's security updates [default: beside the other, `…/debian-security…`]
    #[arg(long, value_name = "URL")]
    security_mirror: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    shell::unwind_on_interrupt()?;
    let sources = Sources::find(arguments.mirror.as_deref(), arguments.security_mirror.as_deref())?;
    let builder = Builder::ensure(&sources, arguments.update)?;
    let keys = match &arguments.keys {
        Some(directory) => Some(keys::given(directory)?),
        None if arguments.secure_boot => Some(keys::ensure(&builder)?),
        None => None,
    };
    let built =
        if arguments.no_build { Built::find()? } else { make(arguments, &builder, &sources, keys.as_ref())? };
    let mut files = built.files();
    for format in &arguments.formats {
        let begun = Instant::now();
        let made = match format {
            Format::Iso => {
                let cargo = !arguments.no_cargo;
                installer::iso(
                    &builder,
                    &built,
                    &installer::Order { sources: &sources, keys: keys.as_ref(), cargo },
                )?
            }
            disk => disk.make(&builder, &built)?,
        };
        tell(&made, begun)?;
        files.push(made);
    }
    let sums = formats::checksums(&builder, &files)?;
    shell::print(&format!("root hash {}", built.root_hash));
    shell::print(&format!("checksums {}", sums.display()));
    Ok(true)
}

fn make(arguments: &Arguments, builder: &Builder, sources: &Sources, keys: Option<&Keys>) -> Result<Built> {
    if !arguments.no_cargo {
        build::programs()?;
    }
    // Once: somebody may commit while it builds.
    let epoch = build::commit_time()?;
    let order =
        Order { version: arguments.image_version.clone(), keys, kernel: arguments.kernel, sources, epoch };
    let begun = Instant::now();
    let built = build::image(builder, &order)?;
    tell(&built.raw, begun)?;
    if arguments.twice {
        let first = built.root_hash.clone();
        shell::say("building a second time …");
        let second = build::image(builder, &order)?;
        if second.root_hash != first {
            bail!(
                "two builds differ: root hashes {first} and {}; see appliance-image/README.md, Reproducible",
                second.root_hash
            );
        }
        shell::print("two builds have the same root hash");
        return Ok(second);
    }
    Ok(built)
}

fn tell(made: &Path, begun: Instant) -> Result<()> {
    let bytes = std::fs::metadata(made)?.len();
    let seconds = begun.elapsed().as_secs_f64();
    shell::print(&format!("{} {:.1} MB, in {seconds:.0} s", made.display(), megabytes(bytes)));
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    // Tenths are enough, and fit.
    u32::try_from(bytes / 100_000).map_or(f64::INFINITY, f64::from) / 10.0
}
