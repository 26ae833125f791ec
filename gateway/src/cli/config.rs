//! `portcullis config` and `portcullis check`

use std::path::Path;

use serde_json::{Value, json};

use super::output::{Failure, Outcome};
use super::table::Paint;
use super::{Context, terminal};
use crate::authn::local::UserDb;
use crate::check::check as findings_of;
use crate::config::{Severity, load};
use crate::ctl::protocol::Command;
use crate::exit::Exit;

pub(super) fn show(context: &Context, file: Option<&Path>) -> Outcome {
    let effective: Value = match file {
        Some(path) => load(path).map_err(|error| Failure::new(Exit::Config, error.to_string()))?.to_json(),
        None => context.call(&Command::ConfigShow {})?,
    };
    if context.output.json {
        context.output.json(&effective)?;
    } else {
        // Nested values read best as JSON with indents, whoever reads.
        let text = serde_json::to_string_pretty(&effective);
        context.output.text(&text.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?)?;
    }
    Ok(Exit::Ok)
}

/// 78 when the file is wrong or an error was found, 1 for warnings, else 0.
pub(super) fn check(context: &Context, file: Option<&Path>) -> Outcome {
    let path = file.map_or_else(|| context.config_path(), Path::to_path_buf);
    let output = &context.output;
    let config = match load(&path) {
        Ok(config) => config,
        Err(error) => {
            if output.json {
                output.json(&json!({"ok": false, "problems": error.to_json(), "findings": []}))?;
                return Ok(Exit::Config);
            }
            return Err(Failure::new(Exit::Config, error.to_string()));
        }
    };
    let findings = findings_of(&config);
    let worst = findings.iter().map(|finding| finding.severity).max();
    let exit = match worst {
        Some(Severity::Error) => Exit::Config,
        Some(Severity::Warning) => Exit::Negative,
        Some(Severity::Info) | None => Exit::Ok,
    };
    if output.json {
        output.json(&json!({"ok": exit == Exit::Ok, "problems": [], "findings": findings}))?;
        return Ok(exit);
    }
    let mut text = String::new();
    for finding in &findings {
        let paint = match finding.severity {
            Severity::Error => Paint::Bad,
            Severity::Warning => Paint::Doubtful,
            Severity::Info => Paint::Faint,
        };
        let severity = paint.paint(finding.severity.as_str(), output.colour);
        text.push_str(&format!("{severity}: {}: {}\n", finding.subject, finding.message));
        if !finding.remedy.is_empty() {
            text.push_str(&format!("  {}\n", finding.remedy));
        }
    }
    let verdict = match exit {
        Exit::Ok => "is good",
        Exit::Negative => "works, but needs attention",
        _ => "does not work",
    };
    text.push_str(&format!("{} {verdict}\n", path.display()));
    output.text(&text)?;
    Ok(exit)
}

pub(super) fn hash_password(context: &Context, user: Option<&str>) -> Outcome {
    let illegal =
        |user: &str| user.is_empty() || user.chars().any(|c| c == ':' || c == '#' || c.is_control());
    if user.is_some_and(illegal) {
        return Err(Failure::new(Exit::Usage, "a user name has no colon, no `#` and no control character"));
    }
    let password = terminal::password("Password (not shown):")?;
    if password.is_empty() {
        return Err(Failure::new(Exit::Data, "the password is empty"));
    }
    let hash = UserDb::hash(password.as_bytes());
    let hash = hash.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let line = user.map_or_else(|| hash.clone(), |user| format!("{user}:{hash}"));
    context.output.value_or_text(&json!({"user": user, "hash": hash}), &line)?;
    Ok(Exit::Ok)
}
