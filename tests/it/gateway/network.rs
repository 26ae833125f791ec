//! `[network]`, applied by the real `settings-job` and read by the real systemd-networkd, in namespaces of their own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_tests::process;
use portcullis_tests::skip::skip;

use super::fixture::without_namespaces;

const NETWORKD: &str = "/lib/systemd/systemd-networkd";
const LIMIT: Duration = Duration::from_secs(60);
/// What the unit of the appliance has ready, and cards. networkd takes a read-only sysfs for one without udev.
const SCRIPT: &str = r#"
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib || exit 9
mkdir -p /run/etc/up /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/up,workdir=/run/etc/work /etc || exit 9
mount -o remount,ro,bind /sys 2>/dev/null || mount -t sysfs -o ro sysfs /sys || exit 9
mkdir -p /etc/portcullis /run/portcullis-requests
cat >/etc/portcullis/portcullis.toml
ip link set lo up
for number in 0 1; do
    ip link add eth$number type veth peer name far$number && ip link set far$number up || exit 9
done
"$1" settings-job || { cat /run/portcullis-settings/status.json; exit 1; }
"$2" >/run/networkd.log 2>&1 &
networkd=$!
for attempt in $(seq 300); do
    ip -br address show eth1 | grep -q '2001:db8:77::1' && ip route | grep -q '^10.0.0.0' && break
    sleep 0.1
done
hostname
ip -o address show eth0
ip -o address show eth1
ip route
ip -o link show eth1
kill $networkd
wait $networkd
cat /run/networkd.log
"#;

const CONFIGURATION: &str = r#"
[network]
host_name = "gate9.example.com"
dns = ["10.77.0.53"]

[[network.interface]]
name = "eth0"
addresses = ["203.0.113.1/24"]
gateways = ["203.0.113.254"]

[[network.interface]]
name = "eth1"
addresses = ["10.77.0.1/24", "2001:db8:77::1/64"]
mtu = 1400
route = [{ to = "10.0.0.0/8", via = "10.77.0.254", metric = 5 }]
"#;

#[test]
fn networkd_makes_of_it_what_the_configuration_says() {
    if without_namespaces() {
        return;
    }
    if !Path::new(NETWORKD).exists() {
        return skip(&format!("there is no {NETWORKD} here"));
    }
    let portcullis = process::binary("portcullis").unwrap();
    let mut inside = Command::new("unshare");
    inside.args(["--net", "--mount", "--uts", "sh", "-c", SCRIPT, "sh"]).arg(portcullis).arg(NETWORKD);
    let output = process::run_with_input(&mut inside, CONFIGURATION.as_bytes(), LIMIT).unwrap();
    let said = format!("{}{}", output.stdout, output.stderr);
    if output.code == Some(9) {
        return skip(&format!("file systems cannot be mounted here: {said}"));
    }
    for expected in [
        "gate9.example.com\n",
        "inet 203.0.113.1/24",
        "inet 10.77.0.1/24",
        "inet6 2001:db8:77::1/64",
        "default via 203.0.113.254 dev eth0",
        "10.0.0.0/8 via 10.77.0.254 dev eth1",
        "metric 5",
        "mtu 1400",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    // It complains of every key and value that it does not know.
    for wrong in ["Unknown", "Failed to parse", "ignoring", "invalid"] {
        assert!(!said.contains(wrong), "{wrong} in {said}");
    }
}
