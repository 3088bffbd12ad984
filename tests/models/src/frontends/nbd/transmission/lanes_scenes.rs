//! The lanes of a connection, as a client sees them.

use std::sync::Arc;

use super::{Disk, Shape, Terms, kind, lanes};
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::sync::{Mutex, refuse_threads, thread};

/// Serve what a client says who does as `client`.
fn serve(lanes: u16, client: impl Fn(&Link) + Sync) -> (End, Vec<u64>) {
    let link = Arc::new(Link::default());
    let terms = Terms {
        disk: Disk {
            link: Arc::clone(&link),
            inside: Mutex::default(),
        },
        shape: Shape,
        lanes,
    };
    let end = thread::scope(|scope| {
        scope.spawn(|| {
            client(&link);
            link.fall_silent();
        });
        lanes::run(&terms, &link)
    });
    let (now, most) = *terms.disk.inside.lock();
    assert!(now == 0 && most <= lanes, "{now} inside, {most} at most");
    let mut heard = link.heard();
    heard.sort_unstable();
    (end, heard)
}

fn talk(lanes: u16) {
    let (end, heard) = serve(lanes, |link| {
        link.say(&[1]);
        link.hear(&[1]);
        link.say(&[2, kind::SLOW + 3]);
        link.say(&[4]);
        link.hear(&[2, 3, 4]);
        link.say(&[5, 6]);
        link.hear(&[5, 6]);
    });
    assert!(matches!(end, End::Vanished) && heard == [1, 2, 3, 4, 5, 6]);
}

/// A client that waits for its replies gets them, with each number of lanes.
pub fn every_request_is_answered_once_by_two_lanes() {
    talk(2);
}

/// See above.
pub fn every_request_is_answered_once_by_three_lanes() {
    talk(3);
}

/// The first lane is all there is.
pub fn every_request_is_answered_where_there_are_no_more_threads() {
    refuse_threads(true);
    talk(3);
}

/// A reply that waits for the next one goes out, too, when that one takes long, or all lanes are taken.
pub fn a_reply_does_not_wait_for_a_slow_request() {
    for lanes in [2, 3] {
        serve(lanes, |link| {
            link.say(&[1]);
            link.hear(&[1]);
            link.say(&[2, kind::STUCK + 3, kind::STUCK + 4]);
            link.hear(&[4]);
        });
    }
}

/// Requests behind a slow one are served, and their replies sent, while it is under way.
pub fn a_slow_request_holds_up_nobody() {
    serve(2, |link| {
        link.say(&[1]);
        link.hear(&[1]);
        link.say(&[kind::EARLY + 2, 3, 4]);
        link.hear(&[2]);
        link.say(&[kind::EARLY + 5, 6]);
        link.hear(&[3, 4, 5]);
    });
}

/// What was said before the end is answered, although nobody waits for it.
pub fn what_came_before_the_end_is_answered() {
    let (end, heard) = serve(3, |link| link.say(&[1, kind::SLOW + 2, 3]));
    assert!(matches!(end, End::Vanished) && heard == [1, 2, 3]);
}

/// The same where the end comes as a request, right behind the last one.
pub fn what_came_before_a_goodbye_is_answered() {
    let (end, heard) = serve(2, |link| {
        link.say(&[1]);
        link.hear(&[1]);
        link.say(&[2, 3, kind::GOODBYE]);
    });
    assert!(matches!(end, End::Disconnected) && heard == [1, 2, 3]);
}

/// All lanes leave.
pub fn a_client_may_hang_up_at_any_time() {
    let (end, _) = serve(3, |link| {
        link.say(&[1, 2]);
        link.say(&[kind::SLOW + 3, 4]);
        link.hang_up();
    });
    assert!(matches!(end, End::Vanished | End::Failed(_)), "{end:?}");
}
