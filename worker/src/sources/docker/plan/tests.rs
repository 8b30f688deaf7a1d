use super::*;

fn changes(list: &[(&str, char)]) -> Vec<FilesystemChange> {
    list.iter()
        .map(|(path, kind)| FilesystemChange {
            path: (*path).to_owned(),
            kind: match kind {
                'C' => ChangeType::_0,
                'A' => ChangeType::_1,
                _ => ChangeType::_2,
            },
        })
        .collect()
}

fn paths(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|path| path.as_bytes().to_vec()).collect()
}

fn shown(plan: &Plan) -> Vec<String> {
    plan.wants
        .iter()
        .map(|want| {
            let mark = match want.extent {
                Extent::Single => "",
                Extent::Changed => "?",
                Extent::Whole => "*",
            };
            format!("{}{mark}", String::from_utf8_lossy(&want.path))
        })
        .collect()
}

#[test]
fn what_is_its_own_is_wanted_with_the_folders_above() {
    let plan = Plan::new(Given {
        volumes: paths(&["data", "var/lib/db"]),
        other_mounts: paths(&["home/host"]),
        changes: changes(&[
            ("/data", 'A'),
            ("/etc", 'C'),
            ("/etc/hosts", 'C'),
            ("/etc/passwd", 'C'),
            ("/home", 'C'),
            ("/home/host", 'A'),
            ("/opt", 'C'),
            ("/opt/gone", 'D'),
            ("/srv.d", 'A'),
            ("/srv", 'A'),
            ("/srv/x", 'A'),
            ("/srv/x/y", 'A'),
            ("/proc/x", 'A'),
        ]),
        ..Given::default()
    });
    assert_eq!(
        shown(&plan),
        [
            "",
            "data*",
            "etc",
            "etc/passwd",
            "home",
            "opt",
            "srv*",
            "srv.d*",
            "var",
            "var/lib",
            "var/lib/db*"
        ]
    );
    assert_eq!(plan.deleted, paths(&["opt/gone"]));
    assert!(plan.captures(b"srv/x/new") && plan.captures(b"etc") && plan.captures(b""));
    assert!(!plan.captures(b"etc/group") && !plan.captures(b"opt/kept"));
    assert!(plan.captures_mount(b"data") && !plan.captures_mount(b"home/host"));
    assert!(!plan.on_one_mount(b"data/x", b"srv/x") && plan.on_one_mount(b"etc/x", b"srv/x"));
}

#[test]
fn what_was_added_around_a_bind_mount_is_taken_apart() {
    let plan = Plan::new(Given {
        other_mounts: paths(&["srv/host"]),
        changes: changes(&[
            ("/srv", 'A'),
            ("/srv/a", 'A'),
            ("/srv/a/b", 'A'),
            ("/srv/host", 'A'),
        ]),
        ..Given::default()
    });
    assert_eq!(shown(&plan), ["", "srv", "srv/a*"]);
}

#[test]
fn registered_paths_are_wanted_whole() {
    let plan = Plan::new(Given {
        names_paths: true,
        registered: paths(&["srv", "opt/app", "srv/host/part"]),
        links: paths(&["app"]),
        volumes: paths(&["srv/data", "other"]),
        other_mounts: paths(&["srv/host", "srv/secret"]),
        changes: changes(&[("/srv/gone", 'D'), ("/etc/gone", 'D'), ("/etc/x", 'A')]),
        ..Given::default()
    });
    assert_eq!(shown(&plan), ["", "app", "opt", "opt/app*", "srv*"]);
    assert_eq!(plan.deleted, paths(&["srv/gone"]));
    assert!(plan.captures(b"srv/data/x") && plan.captures(b"srv/host/part/x"));
    assert!(!plan.captures(b"srv/secret/x") && !plan.captures(b"other/x"));
    assert!(plan.captures_mount(b"srv/data") && !plan.captures_mount(b"other"));
    assert!(plan.captures_mount(b"srv/host") && !plan.captures_mount(b"srv/secret"));
}

#[test]
fn names_that_are_no_text_are_found_by_looking_through_their_folder() {
    let plan = Plan::new(Given {
        volumes: paths(&["opt/vol"]),
        changes: changes(&[
            ("/opt", 'C'),
            ("/opt/a", 'A'),
            ("/opt/n\u{fffd}", 'A'),
            ("/opt/n\u{fffd}/below", 'A'),
            ("/zzz", 'A'),
        ]),
        ..Given::default()
    });
    assert_eq!(shown(&plan), ["", "opt?", "zzz*"]);
    let opt = &plan.wants[1];
    assert!(plan.accepts(opt, b"opt/n\xfe") && plan.accepts(opt, b"opt/n\xfe/below"));
    assert!(plan.accepts(opt, b"opt/a") && !plan.accepts(opt, b"opt/b"));
    assert!(plan.accepts(opt, b"opt/vol/x") && plan.accepts(opt, b"opt/vol"));
    assert!(plan.captures(b"opt/vol/x") && plan.captures(b"opt/n\xfe"));
    assert!(plan.captures_mount(b"opt/vol"));
}

#[test]
fn what_is_gone_is_told_with_the_folders_above() {
    let plan = Plan::new(Given {
        changes: changes(&[("/opt", 'C'), ("/opt/b", 'D'), ("/opt/back", 'A')]),
        gone_before: paths(&["usr/lib/a", "opt/back", "opt/b"]),
        ..Given::default()
    });
    assert_eq!(shown(&plan), ["", "opt", "opt/back*", "usr", "usr/lib"]);
    assert_eq!(plan.deleted, paths(&["opt/b", "usr/lib/a"]));
}

#[test]
fn nothing_of_its_own_still_has_a_root() {
    let plan = Plan::new(Given::default());
    assert_eq!(shown(&plan), [""]);
}

#[test]
fn nothing_is_wanted_below_what_is_left_out() {
    let patterns = ["/srv/", "db", "!db/keep"].map(str::to_owned);
    let plan = Plan::new(Given {
        volumes: paths(&["data", "var/lib/db"]),
        changes: changes(&[
            ("/etc", 'C'),
            ("/etc/db", 'C'),
            ("/etc/db/keep", 'A'),
            ("/srv", 'C'),
            ("/srv/x", 'A'),
        ]),
        patterns: Arc::new(Patterns::new(&patterns).unwrap()),
        ..Given::default()
    });
    // Whether a want itself is left out shows when it comes.
    assert_eq!(
        shown(&plan),
        [
            "",
            "data*",
            "etc",
            "etc/db",
            "srv",
            "var",
            "var/lib",
            "var/lib/db*"
        ]
    );
    assert!(plan.captures_mount(b"data"));
    assert!(!plan.captures_mount(b"var/lib/db"));
    assert!(plan.captures(b"data/x"));
    assert!(!plan.captures(b"data/db"));
}
