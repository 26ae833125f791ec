//! `portcullis version`: what is installed here and what runs. The daemon need not run: then nothing is told of it.

use std::fs;

use serde::Serialize;

use super::Context;
use super::output::Outcome;
use crate::ctl::protocol::{Command, Status};
use crate::exit::Exit;
use crate::version::{COMMIT, KERNEL_SIDE, assigned};

#[derive(Debug, Serialize)]
struct Versions {
    /// Of this program.
    version: &'static str,
    commit: &'static str,
    /// Whether it was built with the kernel side: `built`, `absent`.
    kernel_side: &'static str,
    /// Of the appliance's image; `null` elsewhere.
    image: Option<String>,
    /// Which kernel that image has: `cloud`, `full`.
    image_kernel: Option<String>,
    system: String,
    /// The Linux that runs.
    linux: String,
    /// `null` where it does not answer.
    daemon: Option<Daemon>,
}

#[derive(Debug, Serialize)]
struct Daemon {
    version: String,
    /// As in `status`.
    ebpf: String,
}

pub(super) fn run(context: &Context) -> Outcome {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let linux = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let status = context.call::<Status>(&Command::Status {}).ok();
    let image = assigned(&release, "IMAGE_VERSION");
    let versions = Versions {
        version: env!("CARGO_PKG_VERSION"),
        commit: COMMIT,
        kernel_side: KERNEL_SIDE,
        image_kernel: assigned(&release, "VARIANT_ID").filter(|_| image.is_some()),
        image,
        system: assigned(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
        linux: linux.trim().to_owned(),
        daemon: status.map(|status| Daemon { version: status.version, ebpf: status.ebpf }),
    };
    if context.output.json {
        context.output.json(&versions)?;
        return Ok(Exit::Ok);
    }
    let Versions { version, commit, kernel_side, image, image_kernel, system, linux, daemon } = versions;
    let mut text = format!("portcullis {version} (commit {commit}, kernel side: {kernel_side})\n");
    if let Some(image) = image {
        let kernel = image_kernel.map(|kernel| format!(" (kernel: {kernel})")).unwrap_or_default();
        text += &format!("appliance {image}{kernel}\n");
    }
    text += &format!("system: {system}, Linux {linux}\n");
    text += &match daemon {
        Some(daemon) => format!("daemon: {}, packet filter: {}", daemon.version, daemon.ebpf),
        None => "daemon: does not answer".to_owned(),
    };
    context.output.text(&text)?;
    Ok(Exit::Ok)
}
