//! What the program says of itself for shells and for man(1).

use std::path::Path;

use clap::CommandFactory as _;

use super::Context;
use super::args::Cli;
use super::output::{Failure, Outcome};
use crate::exit::Exit;

pub(super) fn completions(context: &Context, shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut script);
    context.output.bytes(&script)?;
    Ok(Exit::Ok)
}

pub(super) fn man(context: &Context, out: Option<&Path>) -> Outcome {
    let Some(directory) = out else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        context.output.bytes(&page)?;
        return Ok(Exit::Ok);
    };
    std::fs::create_dir_all(directory).map_err(|error| Failure::file("make", directory, &error))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .map_err(|error| Failure::file("write to", directory, &error))?;
    Ok(Exit::Ok)
}
