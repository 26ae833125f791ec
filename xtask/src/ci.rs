//! `cargo xtask ci`, also called `test`: everything that must hold before a change lands.
//!
//! Steps run in order and all of them run, whatever failed before, so that one run shows everything. What cannot run
//! on this machine is counted as skipped and says why. The last line is `N passed, N failed, N skipped`.

mod filtered;
mod steps;
mod tally;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use portcullis_tests::wait;

use crate::shell;
pub(crate) use steps::target_directory;
use steps::{STEPS, Step};
pub(crate) use tally::Tally;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Run only this step; may be given more than once
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Name the steps and do nothing
    #[arg(long)]
    list: bool,
    /// Leave out what takes minutes: documentation, fuzz targets, integration tests, the demo
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let chosen = choose(arguments)?;
    if arguments.list {
        for step in chosen {
            shell::print(&format!("{:<11} {}", step.name, step.about));
        }
        return Ok(true);
    }
    shell::unwind_on_interrupt()?;
    let mut rows = Vec::new();
    for step in chosen {
        shell::say(&format!("── {}: {}", step.name, step.about));
        let begun = Instant::now();
        let tally = (step.run)(arguments.quick).unwrap_or_else(|error| Tally::failed(&format!("{error:#}")));
        rows.push((step.name, tally, begun.elapsed()));
        if wait::interrupted() {
            break;
        }
    }
    Ok(tally::summarise(&rows))
}

fn choose(arguments: &Arguments) -> Result<Vec<&'static Step>> {
    let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
    if let Some(unknown) = arguments.only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no step `{unknown}`; there are: {}", names.join(", "));
    }
    let wanted = |step: &&Step| {
        let quick = !arguments.quick || step.quick;
        if arguments.only.is_empty() { quick } else { arguments.only.iter().any(|name| name == step.name) }
    };
    Ok(STEPS.iter().filter(wanted).collect())
}
