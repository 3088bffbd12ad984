//! What becomes of an attachment whose worker has ended.

use super::*;

#[test]
fn what_a_crashed_worker_left_is_removed_where_it_does_not_fail() {
    let mut life = Life::at_device().serving(device());
    assert_eq!(life.worker_ends(), "kill group; reap");
    assert_eq!(life.on(killed()), "save; examine");
    let state = life.machine.state();
    let cause = "the worker was killed by SIGSEGV".to_owned();
    let told = (state.phase, state.cause.as_ref());
    assert_eq!(told, (Phase::Crashed, Some(&cause)));
    assert_eq!(life.on(Event::Fails(false)), "remove leftovers");
    assert_eq!(life.on(Event::Removed(Ok(()))), "keep log; remove folder");
    assert_eq!(
        life.outcome(),
        "failed: x: the worker was killed by SIGSEGV"
    );
    assert!(life.logged.contains(&cause), "{:?}", life.logged);
}

/// A file whose worker has died, and it is not known yet whether it stays.
fn failing(taken: bool) -> Life {
    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    life.on(heard(FromWorker::Ready(device())));
    life.on(published());
    if taken {
        life.on(Event::Taken);
    }
    life.worker_ends();
    assert_eq!(life.on(killed()), "save; examine");
    life
}

#[test]
fn a_file_that_fails_stays_where_somebody_knows_of_it() {
    let mut life = failing(true);
    assert_eq!(life.on(Event::Fails(true)), "");
    assert_eq!(
        life.outcome(),
        "failed: x: the worker was killed by SIGSEGV"
    );
    assert_eq!(life.machine.state().phase, Phase::Crashed);

    // A launcher that was told passes that on at once.
    let mut life = failing(false);
    assert_eq!(life.on(Event::Fails(true)), "");
    assert!(life.machine.outcome().is_none());
    assert_eq!(life.on(Event::Taken), "");
    assert_eq!(
        life.outcome(),
        "failed: x: the worker was killed by SIGSEGV"
    );
}

#[test]
fn a_file_that_fails_goes_where_nobody_knows_of_it_or_somebody_wants_it_to_go() {
    let wanted = [
        Event::LauncherGone,
        Event::Signal(TERM),
        detach(1, false),
        Event::Tick,
    ];
    for event in wanted {
        let mut life = failing(false);
        assert_eq!(life.on(Event::Fails(true)), "");
        life.now += patience::LAST_WORDS.get();
        assert_eq!(life.on(event.clone()), "remove leftovers", "{event:?}");
    }
    // Before it was known that it fails.
    let mut life = failing(true);
    assert_eq!(life.on(detach(1, true)), "");
    assert_eq!(life.on(Event::Fails(true)), "remove leftovers");
    assert_eq!(
        life.on(Event::Removed(Ok(()))),
        "keep log; remove folder; 1: unstored x: the worker was killed by SIGSEGV"
    );
}

#[test]
fn a_file_that_fails_stays_for_as_long_as_the_users_command() {
    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    life.on(heard(FromWorker::Ready(device())));
    life.on(Event::Published(Published {
        taken: true,
        command: true,
        result: Ok(()),
    }));
    life.worker_ends();
    life.on(killed());
    assert_eq!(life.on(Event::Fails(true)), "");
    // The terminal sends this one to the command, too.
    assert_eq!(life.on(Event::Signal(INT)), "");
    assert_eq!(life.on(Event::Signal(TERM)), "end command");
    assert_eq!(life.on(Event::CommandEnded(5)), "remove leftovers");
    assert_eq!(life.on(Event::Removed(Ok(()))), "keep log; remove folder");
    assert_eq!(
        life.outcome(),
        "failed: x: the worker was killed by SIGSEGV"
    );
}

#[test]
fn last_words_may_come_after_the_end() {
    let mut life = Life::at_device().serving(device());
    life.on(detach(1, false));
    assert_eq!(life.on(Event::Ended), "");
    assert_eq!(life.on(heard(FromWorker::Shutdown)), "");
    assert_eq!(life.on(stopped()), "reap");
    assert_eq!(
        life.on(Event::Reaped(String::new())),
        "remove folder; 1: done"
    );
    // They do not come where a child of the plugin has the socket, too.
    let mut life = Life::at_device().serving(device());
    life.on(detach(1, false));
    assert_eq!(life.on(Event::Ended), "");
    assert_eq!(life.after(1_000), "kill group; reap");
    // A disk that could be used for a moment.
    let mut life = Life::at_device();
    life.on(heard(FromWorker::Starting));
    assert_eq!(life.on(Event::Ended), "");
    assert_eq!(life.on(heard(FromWorker::Ready(device()))), "publish");
    assert_eq!(life.on(published()), "");
    assert_eq!(life.on(Event::Silent), "kill group; reap");
    assert_eq!(life.on(killed()), "save; examine");
}

#[test]
fn what_could_not_be_removed_keeps_the_folder() {
    let mut life = Life::at_device().serving(device());
    life.worker_ends();
    life.on(killed());
    life.on(Event::Fails(false));
    let busy = Refusal::new("x: busy");
    assert_eq!(life.on(detach(3, true)), "");
    assert_eq!(
        life.on(Event::Removed(Err(busy))),
        "save; keep log; 3: refused x: the worker was killed by SIGSEGV"
    );
    assert_eq!(life.machine.state().phase, Phase::Stopping);
}

#[test]
fn a_worker_that_became_another_user_may_have_left_its_socket() {
    let mut job = job(Path::new(FOLDER), "nbd+unix:///?socket=/tmp/x.sock");
    job.conduct.user = Some(1000);
    let mut life = Life::of(&job).serving(server());
    life.on(detach(1, false));
    life.on(stopped());
    life.worker_ends();
    assert_eq!(life.on(Event::Reaped(String::new())), "remove leftovers");
    assert_eq!(life.on(Event::Removed(Ok(()))), "remove folder; 1: done");
}
