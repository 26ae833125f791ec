//! `portcullis ticket`, and where the other commands get their ticket from.

use std::io::Read as _;
use std::path::Path;

use portcullis_proto::ticket::TicketString;
use zeroize::Zeroizing;

use super::args::{Issue, IssueFormat, Ticket};
use super::output::{Failure, Outcome};
use super::table::{Paint, Table};
use super::{Context, SMALL_FILE_MAX_BYTES, read_small};
use crate::ctl::protocol::{Command, Issued, Redeemed, TicketOrder, TicketText};
use crate::exit::Exit;

/// The variable that may hold a ticket.
const VARIABLE: &str = "PORTCULLIS_TICKET";

pub(super) fn run(context: &Context, command: Ticket) -> Outcome {
    match command {
        Ticket::Issue(order) => issue(context, order),
        Ticket::Redeem { ticket } => redeem(context, ticket.as_deref()),
    }
}

fn issue(context: &Context, order: Issue) -> Outcome {
    let request = TicketOrder {
        target: order.target.to_string(),
        cgp: order.cgp.map(|server| server.to_string()),
        user: order.user,
        domain: order.domain,
        application: order.application,
        refreshable: order.refreshable,
        life_seconds: order.life.map(|life| life.as_secs()),
    };
    let issued: Issued = context.call(&Command::TicketIssue(request))?;
    if context.output.json || order.format == IssueFormat::Json {
        context.output.json(&issued)?;
    } else {
        context.output.text(issued.ticket.expose())?;
    }
    Ok(Exit::Ok)
}

fn redeem(context: &Context, ticket: Option<&str>) -> Outcome {
    let ticket = given(ticket)?;
    let request = Command::TicketRedeem { ticket: TicketText::new(ticket.expose()) };
    let redeemed: Redeemed = context.call(&request)?;
    let mut table = Table::new().column("").wide("");
    for (name, value) in [
        ("target", &redeemed.target),
        ("CGP target", &redeemed.cgp),
        ("user", &redeemed.user),
        ("domain", &redeemed.domain),
        ("application", &redeemed.application),
    ] {
        if let Some(value) = value {
            table.row([name.to_owned(), value.clone()], &[(0, Paint::Title)]);
        }
    }
    context.output.value_or_table(&redeemed, &table)?;
    Ok(Exit::Ok)
}

/// The ticket of an argument: itself, `-` for standard input, or where it is absent the variable.
pub(super) fn given(argument: Option<&str>) -> Result<TicketString, Failure> {
    match argument {
        Some("-") => {
            let mut text = Zeroizing::new(String::new());
            let read = std::io::stdin().lock().take(SMALL_FILE_MAX_BYTES).read_to_string(&mut text);
            read.map_err(|error| Failure::new(Exit::Data, format!("cannot read standard input: {error}")))?;
            parse(&text, "standard input")
        }
        Some(text) => parse(text, "the command line"),
        None => match std::env::var(VARIABLE) {
            Ok(text) => parse(&Zeroizing::new(text), VARIABLE),
            Err(_) => Err(Failure::new(
                Exit::Usage,
                format!("a ticket is needed: as an argument, as `-` for standard input, or in {VARIABLE}"),
            )),
        },
    }
}

/// Whether the variable holds a ticket.
pub(super) fn in_variable() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

pub(super) fn from_file(path: &Path) -> Result<TicketString, Failure> {
    parse(&read_small(path)?, &path.display().to_string())
}

/// `source` says where the ticket is from; the ticket itself is never shown.
pub(super) fn parse(text: &str, source: &str) -> Result<TicketString, Failure> {
    TicketString::parse(text.trim())
        .map_err(|error| Failure::new(Exit::Data, format!("no ticket in {source}: {error}")))
}
