use super::*;

fn round_trip(command: &Command) -> Command {
    Command::from_line(&command.to_line()).unwrap()
}

#[test]
fn earlier_names_of_requests_about_bans_are_understood() {
    let read = |line: &str| Command::from_line(line.as_bytes()).unwrap();
    assert_eq!(read(r#"{"v":1,"cmd":"xdp-bans"}"#), Command::BansList(BanFilter::default()));
    let order = BanOrder { prefix: "192.0.2.7".into(), seconds: 5, note: None };
    assert_eq!(read(r#"{"v":1,"cmd":"xdp-ban","prefix":"192.0.2.7","seconds":5}"#), Command::BanAdd(order));
    let remove = Command::BanRemove { prefix: "192.0.2.7".into() };
    assert_eq!(read(r#"{"v":1,"cmd":"xdp-unban","prefix":"192.0.2.7"}"#), remove);
}

#[test]
fn every_command_survives_its_line() {
    let order = TicketOrder { target: "10.0.0.9:22".into(), refreshable: true, ..TicketOrder::default() };
    for command in [
        Command::Status {},
        Command::SessionsList(SessionFilter { user: Some("ann".into()), ..SessionFilter::default() }),
        Command::SessionShow { id: "0".into() },
        Command::SessionKill(KillWhich { all: true, ..KillWhich::default() }),
        Command::StaList {},
        Command::StaTest { name: "sta1".into() },
        Command::TicketIssue(order),
        Command::TicketRedeem { ticket: TicketText::new(";40;STA123456789;00".into()) },
        Command::ConfigShow {},
        Command::Reload {},
        Command::Metrics {},
        Command::XdpStatus {},
        Command::BansList(BanFilter { source: Some("192.0.2.7".into()), after: None }),
        Command::BanAdd(BanOrder { prefix: "192.0.2.0/24".into(), seconds: 60, note: None }),
        Command::BanRemove { prefix: "192.0.2.0/24".into() },
        Command::BansClear { automatic: true },
        Command::ForwardStatus {},
        Command::ForwardDrain(ServerRef { server: "a".into(), listener: None }),
        Command::ForwardUndrain(ServerRef { server: "a".into(), listener: Some("l".into()) }),
        Command::LogLevel { level: None },
        Command::Health {},
        Command::UpdateStatus {},
        Command::Update(UpdateOrder::List { source: UpdateSource::Known }),
        Command::Update(UpdateOrder::Install { source: UpdateSource::Upload, version: None }),
        Command::Update(UpdateOrder::Rollback {}),
        Command::Machine(MachineOrder { action: MachineAction::PowerOff, keep_network: false }),
    ] {
        assert_eq!(round_trip(&command), command);
        assert_eq!(command.to_line().iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}

#[test]
fn the_documented_lines_are_understood() {
    let parse = |line: &str| Command::from_line(line.as_bytes());
    assert_eq!(parse(r#"{"v":1,"cmd":"status"}"#), Ok(Command::Status {}));
    let kill = KillWhich { id: Some("000000010000000a".into()), ..KillWhich::default() };
    let line = r#"{"v":1,"cmd":"session-kill","id":"000000010000000a"}"#;
    assert_eq!(parse(line), Ok(Command::SessionKill(kill)));
    let line = r#"{"v":1,"cmd":"log-level","level":"debug"}"#;
    assert_eq!(parse(line), Ok(Command::LogLevel { level: Some("debug".into()) }));
}

#[test]
fn what_is_not_a_request_of_this_version_is_refused() {
    for line in [
        "",
        "status",
        "[]",
        r#"{"cmd":"status"}"#,
        r#"{"v":2,"cmd":"status"}"#,
        r#"{"v":"1","cmd":"status"}"#,
        r#"{"v":1}"#,
        r#"{"v":1,"cmd":"shutdown"}"#,
        r#"{"v":1,"cmd":"status","verbose":true}"#,
        r#"{"v":1,"cmd":"sessions-list","usr":"ann"}"#,
        r#"{"v":1,"cmd":"ticket-issue","target":"a:1","lifetime":3}"#,
        r#"{"v":1,"cmd":"status"} {"v":1,"cmd":"status"}"#,
    ] {
        let failure = Command::from_line(line.as_bytes()).unwrap_err();
        assert_eq!(failure.code, ErrorCode::BadRequest, "{line}");
    }
}

#[test]
fn debug_output_of_a_command_holds_no_ticket() {
    let command = Command::TicketRedeem { ticket: TicketText::new(";40;STA1;ABCDEF".into()) };
    assert!(!format!("{command:?}").contains("ABCDEF"));
}

#[test]
fn answers_have_the_documented_shape() {
    let answer = Answer::from(Ok(serde_json::json!({"killed": 2})));
    assert_eq!(answer.to_line(), b"{\"ok\":true,\"data\":{\"killed\":2}}\n");
    assert_eq!(answer.into_result::<Killed>(), Ok(Killed { killed: 2, revoked: None }));
    let answer = Answer::from(Err(Failure::new(ErrorCode::NotFound, "no such session")));
    let text = r#"{"ok":false,"error":{"code":"not-found","message":"no such session"}}"#;
    assert_eq!(String::from_utf8(answer.to_line()).unwrap().trim_end(), text);
    assert_eq!(answer.into_result::<Killed>().unwrap_err().code, ErrorCode::NotFound);
}
