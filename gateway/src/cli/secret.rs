//! `portcullis secret`

use super::args::Secret;
use super::output::Outcome;
use super::table::{Paint, Table};
use super::{Context, terminal};
use crate::ctl::protocol::{Command, Named, SecretOrder, SecretPage, SecretText};
use crate::exit::Exit;
use crate::secrets::CREDENTIAL_KEY;

pub(super) fn run(context: &Context, command: Secret) -> Outcome {
    match command {
        Secret::Set { name } => {
            let value = terminal::password("Secret (not shown):")?;
            let order = SecretOrder { name, value: SecretText::from(value) };
            let done: Named = context.call(&Command::SecretSet(order))?;
            context.output.value_or_text(&done, &format!("the secret {} is kept", done.name))?;
        }
        Secret::List => {
            let page: SecretPage = context.call(&Command::SecretList {})?;
            context.output.value_or_table(&page, &table(&page))?;
        }
        Secret::Delete { name } => {
            let done: Named = context.call(&Command::SecretDelete { name })?;
            context.output.value_or_text(&done, &format!("the secret {} is forgotten", done.name))?;
        }
    }
    Ok(Exit::Ok)
}

fn table(page: &SecretPage) -> Table {
    let mut table =
        Table::new().column("NAME").column("SINCE").column("IN THE CONFIGURATION").column("SEALED BY");
    for row in &page.secrets {
        let (sealed, paint) = match row.sealed_by.as_deref() {
            Some(CREDENTIAL_KEY) => ("a key of this machine", Paint::Good),
            Some(_) if page.key == CREDENTIAL_KEY => ("the key file: set it again", Paint::Doubtful),
            Some(_) => ("the key file", Paint::Plain),
            None => ("another key: set it again", Paint::Bad),
        };
        let used = if row.used { "yes" } else { "no" };
        table.row([row.name.clone(), row.since.clone(), used.to_owned(), sealed.to_owned()], &[(3, paint)]);
    }
    table
}
