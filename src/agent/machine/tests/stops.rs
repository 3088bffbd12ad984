//! The end of a worker that lives: what it is given time for, and when it is killed.

use super::*;

#[test]
fn a_plugin_that_hangs_in_a_plain_detach_goes_on_stopping() {
    let mut life = Life::at_device().serving(device());
    life.on(detach(1, false));
    assert_eq!(
        life.after(60_000),
        "1: refused x: the plugin has not finished after 60 s; it goes on stopping\n\
         hint: `pydisk detach --force x` ends it, whatever it has not stored yet"
    );
    assert_eq!(life.machine.deadline(), None);
    assert_eq!(life.on(stopped()), "");
    life.worker_ends();
    assert_eq!(life.on(Event::Reaped(String::new())), "remove folder");
    assert_eq!(life.outcome(), "stopped");
}

#[test]
fn a_plugin_that_hangs_in_a_forced_detach_is_located_and_killed() {
    let mut life = Life::at_device().serving(device());
    assert_eq!(
        life.on(detach(1, true)),
        "user waits for the end; stop; save"
    );
    assert_eq!(life.after(3_000), "locate");
    assert_eq!(life.on(Event::Hangs(" in `pread`, after 5 s".into())), "");
    assert_eq!(life.after(2_000), "kill");
    assert_eq!(life.worker_ends(), "kill group; reap");
    let words = "the plugin did not stop in time and was killed in `pread`, after 5 s; what it had not stored is lost";
    assert_eq!(life.on(killed()), "examine");
    assert_eq!(life.on(Event::Fails(false)), "remove leftovers");
    assert_eq!(
        life.on(Event::Removed(Ok(()))),
        format!("keep log; remove folder; 1: unstored x: {words}")
    );
    assert_eq!(life.outcome(), format!("failed: x: {words}"));
}

#[test]
fn nothing_is_lost_with_a_disk_that_can_only_be_read() {
    let read_only = Served {
        read_only: Some(true),
        ..device()
    };
    let mut life = Life::at_device().serving(read_only);
    life.on(detach(1, true));
    life.after(3_000);
    assert_eq!(life.after(2_000), "kill");
    life.worker_ends();
    life.on(killed());
    life.on(Event::Fails(false));
    assert_eq!(
        life.on(Event::Removed(Ok(()))),
        "keep log; remove folder; 1: done, x: the plugin did not stop in time and was killed"
    );
}

#[test]
fn a_worker_that_cannot_even_be_killed_is_given_up() {
    let mut life = Life::at_device().serving(device());
    life.on(detach(1, true));
    life.after(3_000);
    life.after(2_000);
    assert_eq!(life.after(900), "kill group; examine");
    assert_eq!(life.on(Event::Fails(false)), "remove leftovers");
    // Nor does the kernel let go of its device.
    assert_eq!(
        life.after(900),
        "keep log; 1: refused x: the plugin did not stop in time and was killed; what it had not stored is lost"
    );
    let late = "x: the kernel has not let go of the device yet\nhint: `pydisk list` tries again";
    assert!(life.logged.contains(&late.to_owned()), "{:?}", life.logged);
}

#[test]
fn a_signal_has_stored_what_lies_on_a_device_before_the_worker_is_stopped() {
    let mut life = Life::at_device().serving(device());
    assert_eq!(life.on(Event::Signal(TERM)), "store 1500 ms");
    // A plain detach waits for that, too.
    assert_eq!(
        life.on(detach(1, false)),
        "1: waits for what lies on the disk"
    );
    let lost = Refusal::new("x: /mnt: not stored");
    assert_eq!(
        life.on(Event::Stored(vec![lost.clone()])),
        "user waits for the end; stop; save"
    );
    // Two tried.
    assert_eq!(life.on(Event::Stored(vec![lost])), "");
    assert_eq!(life.after(2_500), "locate");
    assert_eq!(life.on(stopped()), "");
    life.worker_ends();
    assert_eq!(
        life.on(Event::Reaped(String::new())),
        "keep log; remove folder; 1: unstored x: /mnt: not stored"
    );
    assert_eq!(life.outcome(), "failed: x: /mnt: not stored");
}

#[test]
fn a_signal_stops_a_server_at_once_and_kills_it_after_3_s() {
    let mut life = Life::at_server().serving(server());
    assert_eq!(
        life.on(Event::Signal(TERM)),
        "user waits for the end; stop; save"
    );
    // A script that repeats its signal does not cost the plugin its time.
    life.now += Duration::from_millis(500);
    assert_eq!(life.on(Event::Signal(TERM)), "");
    assert_eq!(life.after(500), "locate");
    assert_eq!(life.after(2_000), "kill");
}

#[test]
fn a_signal_typed_twice_is_in_a_hurry() {
    let mut job = job(Path::new(FOLDER), "/dev/ublkb7");
    job.conduct.patience = Duration::from_mins(1);
    let mut life = Life::of(&job).serving(device());
    assert_eq!(life.on(Event::Signal(INT)), "store 30000 ms");
    assert_eq!(life.on(Event::Signal(INT)), "");
    assert_eq!(life.after(1_500), "user waits for the end; stop; save");
    assert_eq!(life.after(1_000), "locate");
    assert_eq!(life.after(2_000), "kill");
    life.on(stopped());
    life.worker_ends();
    life.on(Event::Reaped(String::new()));
    assert_eq!(
        life.outcome(),
        "failed: x: not all that lies on it was stored before a second signal"
    );
}

#[test]
fn a_terminal_that_is_closed_ends_no_disk_in_the_background() {
    let mut life = Life::at_server().serving(server());
    assert_eq!(life.on(Event::Signal(HUP)), "");
    let mut job = job(Path::new(FOLDER), "nbd+unix:///?socket=/tmp/x.sock");
    job.conduct.ignores_hangup = false;
    let mut life = Life::of(&job).serving(server());
    assert_eq!(
        life.on(Event::Signal(HUP)),
        "user waits for the end; stop; save"
    );
}

/// A disk with a command of the user's.
fn with_command() -> Life {
    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    life.on(heard(FromWorker::Ready(device())));
    let event = Event::Published(Published {
        taken: true,
        command: true,
        result: Ok(()),
    });
    assert_eq!(life.on(event), "");
    life
}

#[test]
fn a_command_that_ends_has_its_disk_stored_and_stopped() {
    let mut life = with_command();
    assert_eq!(life.on(Event::Signal(INT)), "");
    assert_eq!(life.on(Event::CommandEnded(3)), "release");
    assert_eq!(
        life.on(Event::Stored(Vec::new())),
        "user waits for the end; stop; save"
    );
    life.on(stopped());
    life.worker_ends();
    assert_eq!(life.on(Event::Reaped(String::new())), "remove folder");
    assert_eq!(life.outcome(), "command 3");
}

#[test]
fn a_command_is_told_of_the_end_and_waited_for() {
    let mut life = with_command();
    assert_eq!(
        life.on(heard(FromWorker::Shutdown)),
        "end command; store 30000 ms"
    );
    // Once more is no reason to hurry.
    assert_eq!(life.on(heard(FromWorker::Signalled)), "end command");
    life.on(Event::Stored(Vec::new()));
    life.on(stopped());
    life.worker_ends();
    assert_eq!(life.on(Event::Reaped(String::new())), "remove folder");
    assert!(life.machine.outcome().is_none());
    assert_eq!(life.on(Event::Signal(TERM)), "end command");
    assert_eq!(life.on(detach(9, false)), "9: done");
    assert_eq!(life.on(Event::CommandEnded(143)), "");
    assert_eq!(life.outcome(), "command 143");
}
