//! `portcullis certificate`

use std::io::{self, IsTerminal as _, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::args::{Certificate, Import, Request};
use super::output::{Failure, Outcome, complain};
use super::table::{Paint, Table};
use super::{Context, terminal};
use crate::certificates::pkcs12;
use crate::ctl::protocol::{
    CertificateImport, CertificateImported, CertificateOrder, CertificateRow, Command, Named, PemText,
    REQUEST_MAX_BYTES, SecretText,
};
use crate::exit::Exit;

/// Days before the end of which a row is marked.
const SOON_DAYS: i64 = 21;
/// What is read of standard input: an archive as base64, and its password.
const INPUT_MAX_BYTES: usize = pkcs12::ARCHIVE_MAX_BYTES * 3 / 2;

pub(super) fn run(context: &Context, command: Certificate) -> Outcome {
    match command {
        Certificate::List => {
            let rows: Vec<CertificateRow> = context.call(&Command::CertificateList {})?;
            context.output.value_or_table(&rows, &table(&rows))?;
        }
        Certificate::Show { name } => {
            let row: CertificateRow = context.call(&Command::CertificateShow { name })?;
            context.output.value_or_table(&row, &facts(&row))?;
        }
        Certificate::Request(request) => pem(context, &Command::CertificateRequest(order(request)))?,
        Certificate::ExportChain { name } => pem(context, &Command::CertificateExport { name })?,
        Certificate::Import(import) => return self::import(context, &import),
        Certificate::Renew { name } => {
            let done: Named = context.call(&Command::CertificateRenew { name })?;
            let text = format!("{0} is ordered; `certificate show {0}` says how it goes", done.name);
            context.output.value_or_text(&done, &text)?;
        }
        Certificate::Delete { name } => {
            let done: Named = context.call(&Command::CertificateDelete { name })?;
            context.output.value_or_text(&done, &format!("{} is forgotten", done.name))?;
        }
    }
    Ok(Exit::Ok)
}

fn order(request: Request) -> CertificateOrder {
    CertificateOrder {
        name: request.name,
        names: request.names,
        key: Some(request.key.as_str().to_owned()),
        organization: request.organization,
        country: request.country,
    }
}

fn pem(context: &Context, command: &Command) -> Result<(), Failure> {
    let answer: PemText = context.call(command)?;
    context.output.value_or_text(&answer, &answer.pem)
}

fn import(context: &Context, import: &Import) -> Outcome {
    let text = if import.pkcs12 { archive()? } else { plain()? };
    let order =
        CertificateImport { name: import.name.clone(), pem: SecretText::from(text), force: import.force };
    let request = Command::CertificateImport(order);
    if request.to_line().len() > REQUEST_MAX_BYTES {
        return Err(Failure::new(
            Exit::Data,
            "these are too many certificates: leave out what is not of the chain",
        ));
    }
    let done: CertificateImported = context.call(&request)?;
    let row = &done.certificate;
    let mut text = format!(
        "{} is for {} until {}\n",
        row.name,
        row.names.join(", "),
        row.not_after.as_deref().unwrap_or("-")
    );
    if done.in_force {
        text.push_str("new connections get it from now on\n");
    } else {
        text.push_str(&format!(
            "nothing shows it yet: `configure set certificate.{0}.name {0}`, name it in a listener's `certificates`, and \
             commit\n",
            row.name
        ));
    }
    context.output.value_or_text(&done, &text)?;
    for remark in &done.remarks {
        context.output.warn(remark);
    }
    Ok(Exit::Ok)
}

fn read(what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if io::stdin().is_terminal() {
        complain(&format!("{what}, then Ctrl-D on a line of its own:"));
    }
    // The whole capacity is there from the start: growing would leave copies of a key that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(INPUT_MAX_BYTES + 1));
    let most = u64::try_from(INPUT_MAX_BYTES).unwrap_or(u64::MAX);
    let read = io::stdin().lock().take(most + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new(Exit::Data, format!("cannot read standard input: {error}")))?;
    if bytes.len() > INPUT_MAX_BYTES {
        return Err(Failure::new(
            Exit::Data,
            format!("standard input is longer than {INPUT_MAX_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}

fn plain() -> Result<Zeroizing<String>, Failure> {
    let bytes = read("Paste the certificates, and the key unless it was made here (PEM)")?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        Failure::new(Exit::Data, "this is no text; an archive (.pfx, .p12) is imported with --pkcs12")
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The password never stands on a command line, and it does not leave this process.
fn archive() -> Result<Zeroizing<String>, Failure> {
    let password = terminal::password("Password of the archive (not shown):")?;
    let bytes = read("Paste the archive as base64")?;
    let decoded = decoded(&bytes)?;
    pkcs12::to_pem(decoded.as_ref().unwrap_or(&bytes), &password)
        .map_err(|error| Failure::new(Exit::Data, error))
}

/// The bytes of base64; `None` where it is none.
fn decoded(bytes: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    // DER begins with a SEQUENCE, whose byte is the digit `0`: a whole text tells them apart.
    if !bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return Ok(None);
    }
    let digits: Zeroizing<Vec<u8>> =
        Zeroizing::new(bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    match STANDARD.decode(&*digits) {
        Ok(decoded) => Ok(Some(Zeroizing::new(decoded))),
        Err(error) => Err(Failure::new(Exit::Data, format!("neither an archive nor base64: {error}"))),
    }
}

fn paint(row: &CertificateRow) -> Paint {
    let has = |severity: &str| row.findings.iter().any(|finding| finding.severity == severity);
    match row.days_left {
        _ if has("error") || row.state == "missing" => Paint::Bad,
        Some(days) if days < SOON_DAYS => Paint::Doubtful,
        _ if has("warning") => Paint::Doubtful,
        Some(_) => Paint::Good,
        None => Paint::Plain,
    }
}

fn dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

fn table(rows: &[CertificateRow]) -> Table {
    let mut table = Table::new()
        .column("NAME")
        .column("STATE")
        .column("FROM")
        .wide("FOR")
        .column("KEY")
        .column("UNTIL")
        .number("DAYS")
        .wide("SHOWN BY")
        .wide("RENEWAL");
    for row in rows {
        let state = if row.requested { format!("{}, requested", row.state) } else { row.state.clone() };
        let cells = [
            row.name.clone(),
            if row.state == "requested" { row.state.clone() } else { state },
            row.source.clone(),
            row.names.join(", "),
            dash(row.key.as_ref()),
            dash(row.not_after.as_ref()),
            row.days_left.map_or_else(|| "-".to_owned(), |days| days.to_string()),
            row.used_by.join(", "),
            renewal(row),
        ];
        table.row(cells, &[(1, paint(row))]);
    }
    table
}

fn renewal(row: &CertificateRow) -> String {
    match &row.acme {
        None => "by hand".to_owned(),
        Some(acme) => match (&acme.last_error, &acme.next_attempt) {
            (Some(error), Some(next)) => format!("failed {} times, again {next}: {error}", acme.failures),
            (_, Some(next)) => format!("{}, next {next}", acme.state),
            _ => acme.state.clone(),
        },
    }
}

fn facts(row: &CertificateRow) -> Table {
    let mut table = Table::new().column("").wide("");
    let mut add = |name: &str, value: String| {
        if !value.is_empty() && value != "-" {
            table.row([name.to_owned(), value], &[(0, Paint::Title)]);
        }
    };
    add("name", row.name.clone());
    add("state", row.state.clone());
    add("from", row.source.clone());
    add("for", row.names.join(", "));
    add("shown by", row.used_by.join(", "));
    add("key", dash(row.key.as_ref()));
    add("serial", dash(row.serial.as_ref()));
    add("SHA-256", dash(row.sha256.as_ref()));
    add("from", dash(row.not_before.as_ref()));
    add("until", dash(row.not_after.as_ref()));
    add("days left", row.days_left.map(|days| days.to_string()).unwrap_or_default());
    for link in &row.chain {
        add("chain", format!("{}, by {}, until {}", link.subject, link.issuer, link.not_after));
    }
    if row.requested {
        add("requested", "a key waits here for its certificate".to_owned());
    }
    if row.acme.is_some() {
        add("renewal", renewal(row));
    }
    for finding in &row.findings {
        add(&finding.severity, format!("{} ({})", finding.message, finding.remedy));
    }
    table
}
