//! From the start of a worker to a disk that somebody knows of, or not.

use super::*;

#[test]
fn a_disk_that_is_detached_is_stopped_and_everybody_is_told() {
    let mut life = Life::at_device().serving(device());
    assert_eq!(
        life.on(detach(1, false)),
        "user waits for the end; stop; save"
    );
    assert_eq!(life.machine.state().phase, Phase::Stopping);
    // A second one is told what the first waits for.
    assert_eq!(
        life.on(detach(2, false)),
        "2: waits for what lies on the disk"
    );
    assert_eq!(
        life.on(heard(FromWorker::Doing(Step::Flush))),
        "user waits for the last `flush`; 1: waits for the last `flush`; 2: waits for the last `flush`"
    );
    assert_eq!(life.on(stopped()), "");
    assert_eq!(life.worker_ends(), "reap");
    assert_eq!(
        life.on(Event::Reaped(String::new())),
        "remove folder; 1: done; 2: done"
    );
    assert_eq!(life.outcome(), "stopped");
    assert_eq!(
        life.logged,
        ["attached as /dev/ublkb7", "detached"].map(str::to_owned)
    );
}

#[test]
fn the_steps_of_a_start_are_told_to_the_launcher_and_never_backwards() {
    let mut life = Life::at_device();
    let mut doing = |step| life.on(heard(FromWorker::Doing(step)));
    assert_eq!(
        doing(Step::Open),
        "user waits for `open`; launcher waits for `open`"
    );
    assert_eq!(doing(Step::Config), "");
    assert_eq!(doing(Step::Open), "");
}

#[test]
fn a_refusal_is_passed_on_and_only_what_was_made_is_removed() {
    let mut life = Life::at_device();
    assert_eq!(
        life.on(heard(FromWorker::Refused(told("no such disk")))),
        ""
    );
    assert_eq!(life.worker_ends(), "reap");
    assert_eq!(
        life.on(Event::Reaped(String::new())),
        "remove folder; launcher: no such disk"
    );
    assert_eq!(life.outcome(), "refused: no such disk");

    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    life.on(heard(FromWorker::Refused(told("no answer"))));
    assert_eq!(life.worker_ends(), "reap");
    assert_eq!(life.on(Event::Reaped(String::new())), "remove leftovers");
    assert_eq!(
        life.on(Event::Removed(Ok(()))),
        "remove folder; launcher: no answer"
    );
    assert_eq!(life.outcome(), "refused: no answer");
}

#[test]
fn a_worker_that_cannot_be_started_is_told_of() {
    let job = job(Path::new(FOLDER), "/dev/ublkb7");
    let mut machine = Machine::new(&job, state(&job));
    let event = Event::NotStarted(Refusal::new("no memory"));
    let actions = machine.step(event, Instant::now());
    let words: Vec<_> = actions.iter().filter_map(word).collect();
    assert_eq!(words, ["remove folder", "launcher: no memory"]);
    let refused = Outcome::Refused(Refusal::new("no memory"));
    assert_eq!(machine.outcome(), Some(&refused));
}

#[test]
fn a_worker_that_dies_before_it_serves_is_told_of_with_how_it_ended() {
    let mut life = Life::at_device();
    assert_eq!(life.worker_ends(), "kill group; reap");
    assert_eq!(life.on(killed()), "remove leftovers");
    assert_eq!(
        life.on(Event::Removed(Ok(()))),
        "remove folder; launcher: x: the worker was killed by SIGSEGV"
    );
}

#[test]
fn a_launcher_that_goes_before_it_knows_gives_the_disk_up() {
    // The plugin is being loaded: there is nothing to flush.
    let mut life = Life::at_device();
    assert_eq!(life.on(Event::LauncherGone), "kill; save");
    assert_eq!(life.worker_ends(), "kill group; reap");
    assert_eq!(life.on(killed()), "remove leftovers");
    let words = "x: it was stopped before it could be used";
    assert_eq!(
        life.on(Event::Removed(Ok(()))),
        format!("remove folder; launcher: {words}")
    );
    assert_eq!(life.outcome(), format!("refused: {words}"));
    // The disk was there.
    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    assert_eq!(
        life.on(Event::LauncherGone),
        "user waits for the end; stop; save"
    );
    assert_eq!(life.on(heard(FromWorker::Ready(device()))), "");
    assert_eq!(life.after(1_000), "locate");
    // One that has gone after it knew is nothing to it.
    let mut life = Life::at_device().serving(device());
    assert_eq!(life.on(Event::LauncherGone), "");
}

#[test]
fn a_disk_that_is_not_what_was_asked_for_is_given_up() {
    let mut life = Life::at_server();
    life.on(heard(FromWorker::Starting));
    let elsewhere = served(Endpoint::Server {
        uri: "nbd://example.org".into(),
        unix_socket: None,
    });
    assert_eq!(
        life.on(heard(FromWorker::Ready(elsewhere))),
        "user waits for the end; stop; save"
    );
    life.worker_ends();
    assert_eq!(life.on(killed()), "remove leftovers");
    assert_eq!(
        life.on(Event::Removed(Ok(()))),
        "remove folder; launcher: x: the worker says that it serves `nbd://example.org`, which is not what it was asked for"
    );
}

#[test]
fn a_disk_that_cannot_be_told_of_is_given_up() {
    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    life.on(heard(FromWorker::Ready(device())));
    let event = Event::Published(Published {
        taken: true,
        command: false,
        result: Err(Refusal::new("x: pidfile `/x`: no such folder")),
    });
    assert_eq!(life.on(event), "user waits for the end; stop; save");
    life.on(stopped());
    life.worker_ends();
    assert_eq!(
        life.on(Event::Reaped(String::new())),
        "remove folder; launcher: x: pidfile `/x`: no such folder"
    );
}

#[test]
fn nothing_goes_by_what_a_worker_says_at_the_wrong_time() {
    let mut life = Life::at_device().serving(device());
    assert_eq!(life.on(heard(FromWorker::Ready(server()))), "");
    assert_eq!(life.machine.state().disk, Some(device()));
    assert_eq!(life.on(heard(FromWorker::Refused(told("a child's")))), "");
    assert_eq!(life.worker_ends(), "kill group; reap");

    let mut life = Life::at_device();
    assert_eq!(life.on(stopped()), "");
    assert_eq!(life.worker_ends(), "kill group; reap");

    // A child of the plugin refused what its parent then made.
    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    life.on(heard(FromWorker::Refused(told("a child's"))));
    life.on(heard(FromWorker::Ready(device())));
    life.on(published());
    life.on(Event::Taken);
    assert_eq!(life.worker_ends(), "kill group; reap");
    assert_eq!(life.on(killed()), "save; examine");
}
