use super::*;

fn weak() -> Standing {
    Standing::Weak("no ticket authority is up".into())
}

#[test]
fn a_fault_counts_at_once_and_everything_else_when_it_has_lasted() {
    let ha = Ha::default();
    let inner = &mut *lock(&ha.inner);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(!inner.settle(Standing::Serves, at(0)));
    assert!(!inner.settle(Standing::Serves, at(2)));
    assert!(inner.settle(Standing::Serves, at(3)));
    assert_eq!(inner.standing, Standing::Serves);
    assert!(!inner.settle(weak(), at(10)));
    assert!(!inner.settle(Standing::Serves, at(12)), "it was weak for a moment only");
    assert!(!inner.settle(weak(), at(13)));
    assert!(inner.settle(weak(), at(16)));
    assert!(inner.settle(Standing::Faulty("draining".into()), at(16)));
    assert_eq!(inner.standing.reason(), Some("draining"));
}

#[test]
fn keepalived_gets_files_and_loses_them_with_the_section() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let text = format!(
        "[high_availability]\ninterface = \"lo\"\nrouter_id = 7\ndirectory = \"{}\"\n\
         [[high_availability.virtual_address]]\naddress = \"192.0.2.9/24\"\n\
         [high_availability.node]\npriority = 100\naddress = \"192.0.2.1\"\npeer = \"192.0.2.2\"\n",
        run.display()
    );
    let config = config::parse(&text, &directory.path().join("x.toml")).unwrap().high_availability.unwrap();
    fs::create_dir(&run).unwrap();
    fs::write(run.join(SERVING), "1\n").unwrap();
    let ha = Ha::default();
    assert!(ha.report().is_none());
    ha.apply(Some(&config)).unwrap();
    assert!(!run.join(SERVING).exists(), "what was left behind does not count");
    assert!(fs::read_to_string(run.join(CONFIGURATION)).unwrap().contains("192.0.2.9/24 dev lo"));
    {
        let inner = &mut *lock(&ha.inner);
        inner.standing = weak();
        inner.tell(&run);
        assert_eq!(fs::read_to_string(run.join(HANDICAP)).unwrap(), "-253\n");
        inner.standing = Standing::Serves;
        inner.tell(&run);
    }
    assert_eq!(fs::read_to_string(run.join(SERVING)).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(run.join(HANDICAP)).unwrap(), "0\n");
    let (_, report) = ha.report().unwrap();
    assert_eq!((report.state, report.here), (State::Stopped, vec![false]));
    ha.leave("draining");
    assert!(!run.join(SERVING).exists());
    ha.apply(None).unwrap();
    assert!(!run.join(CONFIGURATION).exists());
}
