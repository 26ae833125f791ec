//! `cargo xtask image`: the appliance as a disk image.
//!
//! What is in it is data in `appliance-image/`; mkosi puts it together in a builder root of its own. Everything that is
//! fetched or made lies in `target/image`. It needs root, and installs nothing.

mod build;
mod builder;
mod draft;
mod esp;
mod formats;
mod installer;
mod keys;
mod licences;
mod monitor;
mod release;
mod sbom;
pub(crate) mod scenario;
mod seed;
mod signature;
mod sources;
mod state;
mod twice;
mod vm;
mod wiring;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::shell;
use build::{Built, Kernel, Order, Profile};
use builder::Builder;
pub(crate) use draft::Draft;
use formats::Format;
use keys::Keys;
use release::Key;
use sources::Sources;
use twice::Fingerprint;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to make of the image, besides the disk image itself; may be given more than once
    #[arg(long = "format", value_enum, value_name = "FORMAT")]
    formats: Vec<Format>,
    /// Which machines it is for
    #[arg(long, value_enum, default_value = "cloud", conflicts_with = "no_build")]
    kernel: Kernel,
    /// Version of the image [default: that of the workspace and the time of the commit]
    #[arg(long, value_name = "VERSION", alias = "image-version", value_parser = release::version_of)]
    version: Option<String>,
    /// Sign for Secure Boot with keys in target/image/keys, which are made when there are none
    #[arg(long)]
    secure_boot: bool,
    /// Sign with keys of this directory: `db.key` and `db.crt` for Secure Boot, `update.key` for updates
    #[arg(long, value_name = "DIRECTORY")]
    keys: Option<PathBuf>,
    /// Build also what scenarios update to: the same as newer versions, of which one does not work
    #[arg(long, conflicts_with = "no_build")]
    trials: bool,
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
    let key = Key::find(arguments.keys.as_deref(), &builder)?;
    let (built, mut files) = if arguments.no_build {
        let built = Built::find()?;
        let files = built.files();
        (built, files)
    } else {
        make(arguments, &builder, Given { keys: keys.as_ref(), key: &key, sources: &sources })?
    };
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
        if *format == Format::Iso {
            files.push(installer::sbom()?);
        }
    }
    let directory = builder::directory()?;
    let sums = formats::checksums(&builder, &directory, &files)?;
    key.sign(&builder, &directory)?;
    shell::print(&format!("root hash {}", built.root_hash));
    shell::print(&format!("checksums {}", sums.display()));
    Ok(true)
}

/// What a build needs of what is there already.
struct Given<'a> {
    keys: Option<&'a Keys>,
    key: &'a Key,
    sources: &'a Sources,
}

/// Builds everything; returns the image and all files that go with it.
fn make(arguments: &Arguments, builder: &Builder, given: Given<'_>) -> Result<(Built, Vec<PathBuf>)> {
    if !arguments.no_cargo {
        build::programs()?;
    }
    // Once: somebody may commit while it builds.
    let epoch = build::commit_time()?;
    let version = arguments.version.clone().map_or_else(|| release::version(&epoch), Ok)?;
    let Given { keys, key, sources } = given;
    let mut order = Order {
        version,
        keys,
        key,
        kernel: arguments.kernel,
        sources,
        epoch,
        profile: Profile::Release,
        more: None,
    };
    if arguments.trials {
        trials(builder, &mut order)?;
    }
    let begun = Instant::now();
    let built = build::image(builder, &order)?;
    tell(&built.raw, begun)?;
    let mut files = built.files();
    let begun = Instant::now();
    let bundle = release::make(builder, &order, &built, None)?;
    tell(&bundle, begun)?;
    files.push(bundle);
    if arguments.twice {
        shell::say("building a second time …");
        let first = Fingerprint::of(builder, &built)?;
        let second = build::image(builder, &order)?;
        first.compare(&Fingerprint::of(builder, &second)?)?;
    }
    Ok((built, files))
}

/// What scenarios update to. The image itself is built after it, and takes its place.
fn trials(builder: &Builder, order: &mut Order<'_>) -> Result<()> {
    let version = order.version.clone();
    for (trial, number) in release::TRIALS.into_iter().zip(1..) {
        shell::say(&format!("building the update `{trial}` for scenarios …"));
        order.version = release::version_of(&format!("{version}.{number}"))?;
        order.more = release::overlay(trial);
        let begun = Instant::now();
        let built = build::image(builder, order)?;
        tell(&release::make(builder, order, &built, Some(trial))?, begun)?;
    }
    (order.version, order.more) = (version, None);
    Ok(())
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
