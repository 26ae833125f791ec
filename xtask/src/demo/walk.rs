//! Steps 8 to 14 of "Establishing a Secure Connection to the Server Farm": a ticket from request to relaying.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_tests::process;

use super::report::Reporter;
use super::stage::{AUTHORITY, EXCHANGE_LIMIT, KEY_HEADER, STA_NAME, Stage, hides_inside, read};

pub(crate) fn run(stage: &Stage, reporter: &mut Reporter) {
    let mut ticket = String::new();
    reporter.step("step 8: the STA keeps the server's address and issues a ticket (XML over HTTPS)", || {
        ticket = request_ticket(stage)?;
        Ok(format!("{AUTHORITY} answered with a ticket for user alice and application Files"))
    });
    let file = stage.dir.path().join("session.ica");
    reporter.step(
        "step 9: an ICA file carries the ticket and the gateway's name, never the server's address",
        || write_ica_file(stage, &ticket, &file),
    );
    reporter
        .step("step 10: TLS establishes the gateway's identity (openssl s_client)", || tls_identity(stage));
    let before = stage.metrics().and_then(|before| Ok((before, stage.sta()?.metrics()?)));
    reporter.step("step 11: the client shows the ticket, the gateway asks the STA", || {
        let (before, _) = before.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let mut connect = stage.lab.outside.command(process::binary("portcullis")?);
        connect.args(["connect", "--ica"]).arg(&file).args(["--via", "socks5", "--ca"]).arg(stage.ca());
        stage.fetch(connect)?;
        let label = format!("sta=\"{STA_NAME}\"");
        let asked = |metrics: &portcullis_tests::gateway::Metrics| {
            metrics.sum("portcullis_sta_requests_total", &[&label]).unwrap_or(0.0)
        };
        let (old, new) = (asked(before), asked(&stage.metrics()?));
        ensure!(new > old, "the gateway asked {STA_NAME} nothing");
        Ok(format!(
            "portcullis connect --ica opened a session; requests to {STA_NAME}: {old} before, {new} after"
        ))
    });
    reporter.step("step 12: the STA returns the server's address to the gateway", || {
        let (_, before) = before.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let name = "portcullis_tickets_redeemed_total";
        let old = before.sum(name, &[]).unwrap_or(0.0);
        let new = stage.sta()?.metrics()?.sum(name, &[]).unwrap_or(0.0);
        ensure!(new > old, "the STA has redeemed no ticket");
        Ok(format!("tickets redeemed by {AUTHORITY}: {old} before, {new} after"))
    });
    reporter.step("step 13: the gateway connects to the server", || {
        let log = stage.farm.web_log();
        let line =
            log.lines().find(|line| line.contains("/page.txt")).context("the server saw no request")?;
        let from = line.split_whitespace().next().unwrap_or("?");
        let gateway = stage.lab.gateway.address(1).to_string();
        ensure!(
            !stage.lab.is_isolated() || from == gateway,
            "the request came from {from}, not from {gateway}"
        );
        Ok(format!("nginx was asked by {from}"))
    });
    reporter.step("step 14: traffic is relayed, and only through the gateway", || relayed(stage));
}

/// Asks as a StoreFront would: the public XML, over HTTPS, with the security key.
fn request_ticket(stage: &Stage) -> Result<String> {
    let target = stage.farm.web;
    let inner = format!(
        "<CtxConnInfo version=\"1.0\"><ServerAddress>{target}</ServerAddress><UserName>alice</UserName>\
         <UserDomain>FARM</UserDomain><ApplicationName>Files</ApplicationName><Protocol>ICA</Protocol></CtxConnInfo>"
    );
    let body = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE CtxSTAProtocol SYSTEM \"CtxSTA.dtd\">\n<CtxSTAProtocol version=\"4.0\">\
         <RequestTicket><AllowedTicketType>STA-v4</AllowedTicketType>\
         <AllowedAuthorityIDType>STA-v1</AllowedAuthorityIDType><TicketData>\
         <Value name=\"ICAAddress\">{target}</Value><Value name=\"XData\">{}</Value></TicketData>\
         </RequestTicket></CtxSTAProtocol>",
        inner.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    );
    let (body, ca) = (stage.secret_file(&body)?, stage.dir.path().join("sta-ca.pem"));
    fs::copy(stage.sta()?.ca_file(), &ca).context("copy the STA's CA")?;
    // The key goes in a file: arguments can be seen by everybody.
    let config = format!(
        "header = \"{KEY_HEADER}: {}\"\nheader = \"Content-Type: text/xml\"\ndata-binary = \"@{}\"\n",
        stage.security_key()?,
        body.display()
    );
    let mut curl = stage.lab.farm.command("curl");
    curl.args(["-sS", "--fail", "--max-time", "20", "--cacert"]).arg(&ca);
    curl.arg("-K").arg(stage.secret_file(&config)?);
    curl.arg(format!("https://{}/scripts/ctxsta.dll", stage.sta_address));
    let answer = process::run(&mut curl, EXCHANGE_LIMIT)?.ok()?.stdout;
    let part =
        |name: &str| element(&answer, name).with_context(|| format!("the STA's answer holds no {name}"));
    let (authority, version, secret) = (part("AuthorityID")?, part("TicketVersion")?, part("Ticket")?);
    ensure!(authority == AUTHORITY, "the STA calls itself {authority}, not {AUTHORITY}");
    hides_inside(stage, "the STA's answer to a ticket request", &answer)?;
    Ok(format!(";{version};{authority};{secret}"))
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    after.split_once(&format!("</{name}>")).map(|(inside, _)| inside.trim())
}

fn write_ica_file(stage: &Stage, ticket: &str, file: &std::path::Path) -> Result<String> {
    ensure!(!ticket.is_empty(), "there is no ticket");
    let gateway = stage.gateway_name();
    let mut command = stage.gateway()?.cli_command()?;
    command.args(["ica", "--ticket", "-", "--gateway", &gateway, "--set", "CGPSecurityTicket=Off", "--out"]);
    process::run_with_input(command.arg(file), ticket.as_bytes(), EXCHANGE_LIMIT)?.ok()?;
    let text = read(file)?;
    let has = |line: &str| text.lines().any(|found| found.trim().eq_ignore_ascii_case(line));
    ensure!(has(&format!("Address={ticket}")), "the ICA file holds no ticket as its address");
    ensure!(has(&format!("SSLProxyHost={gateway}")), "the ICA file does not name the gateway {gateway}");
    hides_inside(stage, "the ICA file", &text)?;
    Ok(format!("SSLProxyHost={gateway}, Address=<ticket>, {} lines, no inside address", text.lines().count()))
}

fn tls_identity(stage: &Stage) -> Result<String> {
    let name = stage.host();
    let mut client = stage.lab.outside.command("openssl");
    client
        .args(["s_client", "-connect", &stage.gateway_name(), "-verify_return_error", "-CAfile"])
        .arg(stage.ca());
    if stage.lab.is_isolated() {
        client.args(["-servername", &name, "-verify_hostname", &name]);
    } else {
        client.args(["-verify_ip", &name]);
    }
    let output = process::run(&mut client, EXCHANGE_LIMIT)?.ok()?;
    ensure!(
        output.stdout.contains("Verify return code: 0 (ok)"),
        "openssl does not trust the gateway's chain"
    );
    let cipher = output.stdout.lines().find(|line| line.starts_with("New, ")).unwrap_or("?");
    Ok(format!("{name}: chain and name verified; {cipher}"))
}

fn relayed(stage: &Stage) -> Result<String> {
    if !stage.lab.is_isolated() {
        return Ok(String::from("the page arrived whole; on loopback nothing keeps a client from the farm"));
    }
    let url = format!("http://{}/page.txt", stage.farm.web);
    let mut curl = stage.lab.outside.command("curl");
    let direct = process::run(curl.args(["-sS", "--max-time", "5", &url]), EXCHANGE_LIMIT)?;
    if direct.success() {
        bail!("the client reached the farm without the gateway");
    }
    Ok(String::from(
        "the page arrived whole through the gateway; the same client gets no connection to the farm itself",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_found_by_its_name() {
        assert_eq!(element("<a><Ticket> x </Ticket></a>", "Ticket"), Some("x"));
        assert_eq!(element("<a><Ticket>x</a>", "Ticket"), None);
    }
}
