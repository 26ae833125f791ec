//! `portcullis system`: the machine as the kernel shows it to everybody (proc(5), sysfs(5)). The daemon is not asked, so
//! that it works when that is down.

use std::time::Duration;

use super::Context;
use super::output::Outcome;
use super::status::age;
use super::table::{Paint, Table};
use crate::exit::Exit;
use crate::tools::system::{Mount, System, look};

pub(super) fn run(context: &Context) -> Outcome {
    let system = look();
    if context.output.json {
        context.output.json(&system)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new().column("").wide("");
    for (name, value) in facts(&system) {
        table.row([name.to_owned(), value], &[(0, Paint::Title)]);
    }
    context.output.text(&table.render(context.output.width(), context.output.colour))?;
    Ok(Exit::Ok)
}

fn facts(system: &System) -> Vec<(&'static str, String)> {
    let version = system.image_version.as_deref().unwrap_or_default();
    let on = |on: bool| if on { "enabled" } else { "disabled" };
    let mut facts = vec![
        ("host", system.host.clone()),
        ("system", format!("{} {version}", system.product).trim_end().to_owned()),
        ("kernel", system.kernel.clone()),
        ("up", age(Duration::from_secs(system.uptime_seconds))),
        ("load", format!("{} on {} processors", system.load, system.processors)),
        ("memory", format!("{} of {} MiB in use", system.memory_used_mib, system.memory_total_mib)),
        ("lockdown", system.lockdown.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("Secure Boot", system.secure_boot.map_or("no UEFI", on).to_owned()),
    ];
    for mount in &system.mounts {
        let Mount { device, kind, options, size_mib, free_mib, .. } = mount;
        let name = if mount.place == "/" { "system files" } else { "state" };
        facts.push((name, format!("{free_mib} of {size_mib} MiB free, {kind} on {device} ({options})")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let system = look();
        assert!(!system.kernel.is_empty() && system.memory_total_mib > 0 && system.memory_used_mib > 0);
        assert!(facts(&system).iter().all(|(_, value)| !value.is_empty()));
    }
}
