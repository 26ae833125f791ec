//! `meta-data` and `user-data` of cloud-init: the host name, who may log in, the time. An appliance is no machine to
//! install things on; what it is asked besides is told and not done.

use yaml_rust2::Yaml;

use portcullis_installer::keys::is_key;

use crate::yaml::{entries, is_true, read, text, texts};

/// What was understood, and notes about the rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub host_name: Option<String>,
    pub time_zone: Option<String>,
    pub ntp: Vec<String>,
    /// Lines of `authorized_keys`.
    pub keys: Vec<String>,
    pub notes: Vec<String>,
}

/// What Proxmox and others always write, and what changes nothing here.
const HARMLESS: [&str; 12] = [
    "manage_etc_hosts",
    "package_update",
    "package_upgrade",
    "preserve_hostname",
    "prefer_fqdn_over_hostname",
    "create_hostname_file",
    "disable_root",
    "ssh_deletekeys",
    "locale",
    "final_message",
    "instance-id",
    "growpart",
];

/// Notes for people; nobody reads more.
const NOTES_MAX: usize = 40;
/// As many as `access` lets one user have. Each is judged by a process of its own.
const KEYS_MAX: usize = 64;

impl Told {
    /// Takes in `meta-data`.
    pub fn meta_data(&mut self, data: &str) {
        match read(data) {
            Ok(document) => {
                let found = entries(&document).into_iter();
                let name = found.filter(|(key, _)| matches!(key.as_str(), "local-hostname" | "hostname"));
                self.host_name = name.filter_map(|(_, value)| text(value)).next_back();
            }
            Err(error) => self.note(format!("meta-data: {error:#}")),
        }
    }

    /// Takes in `user-data`; what it says goes before what `meta-data` say.
    pub fn user_data(&mut self, data: &str) {
        if data.trim().is_empty() {
            return;
        }
        if !data.starts_with("#cloud-config") {
            self.note("user-data: only `#cloud-config` is taken; scripts are not run here".to_owned());
            return;
        }
        let document = match read(data) {
            Ok(document) => document,
            Err(error) => return self.note(format!("user-data: {error:#}")),
        };
        for (key, value) in entries(&document) {
            self.user_key(&key, value);
        }
    }

    fn user_key(&mut self, key: &str, value: &Yaml) {
        match key {
            "hostname" => self.host_name = text(value).or_else(|| self.host_name.take()),
            // With both it is the short one that the machine is called.
            "fqdn" => self.host_name = self.host_name.take().or_else(|| text(value)),
            "timezone" => self.time_zone = text(value),
            "ssh_authorized_keys" => self.add_keys(value),
            "ntp" => {
                for (key, value) in entries(value) {
                    match key.as_str() {
                        "servers" | "pools" => self.ntp.extend(texts(value).unwrap_or_default()),
                        "enabled" => {}
                        other => self.note(format!("user-data: `ntp.{other}` is not taken")),
                    }
                }
            }
            "user" => {
                let named = text(value).unwrap_or_default();
                if named != "admin" {
                    self.note(format!("user-data: there is no user `{named}` here: log in as `admin`"));
                }
            }
            "users" => self.users(value),
            "ssh_pwauth" if !is_true(value) => {}
            "password" | "chpasswd" | "ssh_pwauth" => {
                let plain = key == "chpasswd" && entries(value).iter().all(|(key, _)| key == "expire");
                if !plain {
                    self.note(format!(
                        "user-data: `{key}` is not taken: there are no passwords here, only SSH keys"
                    ));
                }
            }
            harmless if HARMLESS.contains(&harmless) => {}
            other => self.note(format!(
                "user-data: `{other}` is not done: the appliance takes names, keys and networks"
            )),
        }
    }

    fn users(&mut self, value: &Yaml) {
        for user in value.as_vec().into_iter().flatten() {
            if text(user).is_some_and(|name| name == "default") {
                continue;
            }
            let mut name = String::new();
            for (key, value) in entries(user) {
                match key.as_str() {
                    "name" => name = text(value).unwrap_or_default(),
                    "ssh_authorized_keys" | "ssh-authorized-keys" => self.add_keys(value),
                    _ => {}
                }
            }
            if name != "admin" {
                self.note(format!(
                    "user-data: there is no user `{name}` here: these keys are those of `admin`"
                ));
            }
        }
    }

    fn add_keys(&mut self, value: &Yaml) {
        for line in texts(value).unwrap_or_default().iter().flat_map(|text| text.lines()) {
            let line = line.trim();
            if line.is_empty() || self.keys.iter().any(|key| key == line) {
            } else if is_key(line) && self.keys.len() == KEYS_MAX {
                self.note(format!("user-data: more than {KEYS_MAX} keys are not taken"));
                return;
            } else if is_key(line) {
                self.keys.push(line.to_owned());
            } else {
                self.note(
                    "user-data: a line of `ssh_authorized_keys` is no public key (options are not taken)"
                        .to_owned(),
                );
            }
        }
    }

    fn note(&mut self, note: String) {
        match self.notes.len() {
            NOTES_MAX => {}
            count if count + 1 == NOTES_MAX => self.notes.push("and more that is not taken".to_owned()),
            _ => self.notes.push(note),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq6YKy4vT3L0bKQ admin@desk";

    fn told(user_data: &str) -> Told {
        let mut told = Told::default();
        told.meta_data("instance-id: x\nlocal-hostname: from-meta\n");
        told.user_data(user_data);
        told
    }

    /// As Proxmox VE 8 writes it.
    #[test]
    fn what_proxmox_writes_is_understood_whole() {
        let told = told(&format!(
            "#cloud-config\nhostname: gate1\nmanage_etc_hosts: true\nfqdn: gate1.example.com\nuser: admin\n\
             ssh_authorized_keys:\n  - {KEY}\nchpasswd:\n  expire: False\nusers:\n  - default\npackage_upgrade: true\n"
        ));
        assert_eq!(told.host_name.as_deref(), Some("gate1"));
        assert_eq!(told.keys, [KEY]);
        assert!(told.notes.is_empty(), "{told:?}");
    }

    #[test]
    fn what_is_not_done_is_told() {
        let told = told(&format!(
            "#cloud-config\npassword: hunter2\nruncmd: [reboot]\nuser: ubuntu\nusers:\n  - name: alice\n    \
             ssh_authorized_keys: [\"{KEY}\", \"nonsense\"]\ntimezone: Europe/Berlin\nntp:\n  servers: [10.0.0.1]\n"
        ));
        assert_eq!(told.host_name.as_deref(), Some("from-meta"));
        assert_eq!(
            (told.keys.len(), told.ntp.len(), told.time_zone.as_deref()),
            (1, 1, Some("Europe/Berlin"))
        );
        let notes = told.notes.join("\n");
        for part in [
            "`password` is not taken",
            "`runcmd` is not done",
            "no user `ubuntu`",
            "`alice`",
            "no public key",
        ] {
            assert!(notes.contains(part), "{part} in {notes}");
        }
        assert!(!notes.contains("hunter2"));
    }

    #[test]
    fn more_keys_than_a_user_may_have_are_told_and_not_taken() {
        let keys: String = (0..=KEYS_MAX).map(|number| format!("  - {KEY}{number}\n")).collect();
        let told = told(&format!("#cloud-config\nssh_authorized_keys:\n{keys}"));
        assert_eq!(told.keys.len(), KEYS_MAX);
        assert_eq!(told.notes, ["user-data: more than 64 keys are not taken"]);
    }

    #[test]
    fn what_is_not_done_is_told_with_an_end() {
        let many: String = (0..1000).map(|number| format!("key{number}: x\n")).collect();
        let told = told(&format!("#cloud-config\n{many}"));
        assert_eq!(told.notes.len(), NOTES_MAX);
        assert!(told.notes[NOTES_MAX - 1].contains("and more"));
    }

    #[test]
    fn scripts_are_not_run() {
        assert!(told("#!/bin/sh\nreboot\n").notes[0].contains("scripts are not run"));
        assert!(told("#cloud-config\na: [\n").notes[0].contains("no YAML"));
    }
}
