//! An image of programs that are not optimised, for the scenarios of `cargo xtask test` where no image was built.

use std::fs;

use anyhow::Result;

use super::build::{self, Built, Kernel, Order, Profile};
use super::builder::Builder;
use super::release::{self, Key};
use super::sources::Sources;
use crate::shell;

/// It goes when this is dropped: nobody is to take it for one that can be released.
#[derive(Debug)]
pub(crate) struct Draft(Built);

impl Draft {
    /// What it is made with, fetched where it is not there yet.
    pub(crate) fn tools() -> Result<(Sources, Builder)> {
        let sources = Sources::find(None, None)?;
        let builder = Builder::ensure(&sources, false)?;
        Ok((sources, builder))
    }

    /// Of the programs in `target/debug`; nothing where there is an image already.
    pub(crate) fn make((sources, builder): &(Sources, Builder)) -> Result<Option<Self>> {
        if Built::find().is_ok() {
            return Ok(None);
        }
        shell::say("making an image of the appliance for its quick scenarios …");
        let epoch = build::commit_time()?;
        let order = Order {
            version: release::version(&epoch)?,
            keys: None,
            key: &Key::find(None, builder)?,
            kernel: Kernel::Cloud,
            sources,
            epoch,
            profile: Profile::Debug,
            more: None,
        };
        build::image(builder, &order).map(|built| Some(Self(built)))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        for file in self.0.files() {
            if let Err(error) = fs::remove_file(&file) {
                shell::say(&format!("{} was made for tests and cannot be removed: {error}", file.display()));
            }
        }
    }
}
