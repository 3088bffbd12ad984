//! The second thread of a connection, as a client sees it. In the models every batch is a large one.

use std::sync::Arc;

use super::{Disk, Shape, Terms, batched, kind};
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::sync::{Mutex, refuse_threads, stand_still, thread};

/// Serve what a client says who does as `client`.
fn serve(client: impl Fn(&Link) + Sync) -> (End, Vec<u64>) {
    let link = Arc::new(Link::default());
    let terms = Terms {
        disk: Disk {
            link: Arc::clone(&link),
            inside: Mutex::default(),
        },
        shape: Shape,
        lanes: 1,
    };
    let end = thread::scope(|scope| {
        scope.spawn(|| {
            client(&link);
            link.fall_silent();
        });
        batched::run(&terms, &link)
    });
    assert!(terms.disk.inside.lock().1 <= 1, "one thread calls the disk");
    (end, link.heard())
}

/// The same with a client that hears all `replies` in their order.
fn serve_all(replies: &[u64], client: impl Fn(&Link) + Sync) {
    let (end, heard) = serve(client);
    assert!(matches!(end, End::Vanished), "{end:?}");
    assert_eq!(heard, replies);
}

fn talk() {
    serve_all(&[1, 2, 3, 4, 5, 6, 7], |link| {
        link.say(&[1, 2, 3]);
        link.say(&[4]);
        link.hear(&[3]);
        link.say(&[5, 6]);
        link.hear(&[6]);
        link.say(&[7]);
        link.hear(&[7]);
    });
}

/// Whatever the second thread does when: also leave, and be started again.
pub fn every_request_is_answered_once_and_in_order() {
    talk();
}

/// Nobody has to look after a while whether there is something.
pub fn every_request_is_answered_without_a_clock() {
    stand_still();
    talk();
}

/// The connection's own thread does it all.
pub fn every_request_is_answered_where_there_are_no_more_threads() {
    refuse_threads(true);
    talk();
}

/// A second thread can be had from some moment on, and from another one not any more.
pub fn every_request_is_answered_where_threads_come_and_go() {
    refuse_threads(true);
    serve_all(&[1, 2, 3, 4, 5, 6], |link| {
        link.say(&[1, 2]);
        link.hear(&[1]);
        refuse_threads(false);
        link.say(&[3]);
        link.hear(&[3]);
        link.say(&[4, 5]);
        refuse_threads(true);
        link.hear(&[5]);
        link.say(&[6]);
        link.hear(&[6]);
    });
}

fn slow_ones() {
    serve_all(&[1, 2, 3, 4], |link| {
        link.say(&[1]);
        link.say(&[kind::STUCK + 2, 3, kind::STUCK + 4]);
        link.hear(&[4]);
    });
}

/// The replies of a batch go out while the next one is served.
pub fn a_reply_does_not_wait_for_a_slow_request() {
    slow_ones();
}

/// The same.
pub fn a_reply_does_not_wait_for_a_slow_request_without_a_clock() {
    stand_still();
    slow_ones();
}

fn a_request_that_comes_slowly() {
    serve_all(&[1, 2, 3], |link| {
        link.say(&[1, 2]);
        link.begin_to_say();
        link.hear(&[2]);
        link.say(&[3]);
        link.hear(&[3]);
    });
}

/// Replies go out while the next request is still to come for the most part.
pub fn a_reply_does_not_wait_for_the_rest_of_the_next_request() {
    a_request_that_comes_slowly();
}

/// The same.
pub fn a_reply_does_not_wait_for_the_rest_of_the_next_request_without_a_clock() {
    stand_still();
    a_request_that_comes_slowly();
}

/// A client that says nothing more ends it, in whichever wait it is.
pub fn what_came_before_the_end_is_answered() {
    serve_all(&[1, 2, 3], |link| link.say(&[1, 2, 3]));
}

/// Both threads leave.
pub fn a_client_may_hang_up_at_any_time() {
    let (end, _) = serve(|link| {
        link.say(&[1, 2, 3]);
        link.say(&[4, 5]);
        link.hang_up();
    });
    assert!(matches!(end, End::Vanished | End::Failed(_)), "{end:?}");
}
