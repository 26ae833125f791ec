//! `portcullis reboot` and `shutdown`.

use super::Context;
use super::output::Outcome;
use crate::ctl::protocol::{Command, MachineAction, MachineOrder};
use crate::exit::Exit;

pub(super) fn order(context: &Context, action: MachineAction) -> Outcome {
    let done: MachineOrder = context.call(&Command::Machine(MachineOrder { action }))?;
    let text = match action {
        MachineAction::Reboot => "the machine starts again; sessions have the drain's time to end",
        MachineAction::PowerOff => "the machine switches itself off; sessions have the drain's time to end",
    };
    context.output.value_or_text(&done, text)?;
    Ok(Exit::Ok)
}
