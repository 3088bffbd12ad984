//! What the table and the targets say of each other.

use super::*;

#[test]
fn the_free_target_of_a_row_leads_back_to_it() {
    for row in ALL {
        let target = (row.free)(Path::new("/run/x"));
        assert_eq!(target.front_end().row().name, row.name);
        assert!(!(row.blocks && row.clients), "{}", row.name);
        let text = serde_json::to_string(&target).unwrap();
        assert_eq!(serde_json::from_str::<Target>(&text).unwrap(), target);
    }
}

#[test]
fn each_form_of_a_target_has_its_front_end() {
    for (text, name, is_one_place, uses_stdio) in [
        ("/dev/ublkb7", "ublk", true, false),
        ("/dev/nbd7", "nbd-kernel", true, false),
        ("/dev/loop7", "loop", true, false),
        ("/tmp/x.img", "fuse", true, false),
        ("nbd://localhost", "nbd", true, false),
        ("nbd://localhost:0", "nbd", false, false),
        ("nbd+vsock://:0/", "nbd", false, false),
        ("nbd+unix:", "nbd", false, false),
        ("nbd+unix:///?socket=/s", "nbd", true, false),
        ("nbd+systemd:", "nbd", false, false),
        ("nbds+stdio:", "nbd", false, true),
    ] {
        let target: Target = text.parse().unwrap();
        let front_end = target.front_end();
        assert_eq!(front_end.row().name, name, "{text}");
        assert_eq!(front_end.is_one_place(), is_one_place, "{text}");
        assert_eq!(front_end.uses_stdio(), uses_stdio, "{text}");
        assert_eq!(
            target.address().is_some(),
            front_end.row().clients,
            "{text}"
        );
        assert_eq!(target.path().is_some(), front_end.row().mounts, "{text}");
        assert!(target.is(text) && !target.is("/dev/ublkb8"), "{text}");
    }
}

#[test]
fn a_worker_that_was_asked_for_a_device_is_no_server_and_the_other_way_round() {
    let folder = Path::new("/run/x");
    let device = Endpoint::Device("/dev/x".into());
    let server = Endpoint::Server {
        uri: "nbd+unix:///?socket=/run/x/nbd.sock".into(),
        unix_socket: Some("/run/x/nbd.sock".into()),
    };
    for row in ALL {
        let front_end = (row.free)(folder).front_end();
        let name = row.name;
        assert_eq!(front_end.may_be_at(folder, &device), !row.clients, "{name}");
        assert_eq!(front_end.may_be_at(folder, &server), row.clients, "{name}");
    }
}

#[test]
fn only_a_file_may_be_new() {
    let folder = tempfile::tempdir().unwrap();
    for row in ALL {
        let front_end = (row.free)(folder.path()).front_end();
        assert_eq!(front_end.is_new(), row.mounts, "{}", row.name);
    }
    let there: Target = folder.path().to_str().unwrap().parse().unwrap();
    assert!(!there.front_end().is_new());
}
