//! Looking again before going to sleep, by a clock that moves only when it is told to.

use std::time::Duration;

use super::vigil::Vigil;
use crate::sync::pass;

/// Sleep for so long; whether it looked first, which finds something.
fn looks(vigil: &mut Vigil, sleep: Duration) -> bool {
    vigil.keep(
        &mut (),
        |()| Some(true),
        |()| {
            pass(sleep);
            false
        },
    )
}

/// Each sleep is measured, and the next wait begins as that says.
pub fn who_slept_long_goes_to_sleep_at_once_and_who_did_not_looks() {
    let mut vigil = Vigil::default();
    for _ in 0..3 {
        assert!(!looks(&mut vigil, Duration::from_micros(100)));
    }
    assert!(!looks(&mut vigil, Duration::from_micros(99)));
    assert!(looks(&mut vigil, Duration::ZERO));
}

/// It looks for a while only.
pub fn who_looks_in_vain_goes_to_sleep() {
    let mut vigil = Vigil::default();
    assert!(!looks(&mut vigil, Duration::ZERO));
    let mut times = 0;
    vigil.keep(
        &mut times,
        |times| {
            *times += 1;
            None
        },
        |times| assert!(*times > 1, "it looks again"),
    );
    assert!(!looks(&mut vigil, Duration::ZERO), "it sleeps");
}
