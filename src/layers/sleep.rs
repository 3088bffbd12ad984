//! Waiting in a layer, which ends when there is nothing more to wait for.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::disk::{Cancel, Result, go_on};

/// How often is looked whether somebody still waits for a request that sleeps.
const LOOK: Duration = Duration::from_millis(50);

/// The sleeps of one attachment.
#[derive(Debug, Default)]
pub struct Sleep {
    /// The attachment is about to end. Held only while it is looked at or set.
    is_over: Mutex<bool>,
    told: Condvar,
}

impl Sleep {
    /// Sleep for so long. Once the attachment is about to end there are no sleeps any more: the request goes on at
    /// once.
    ///
    /// # Errors
    /// `ESHUTDOWN` if nobody waits for the request any more.
    pub fn sleep(&self, time: Duration, cancel: Option<&Cancel>) -> Result {
        if time.is_zero() {
            return Ok(());
        }
        // A sleep of centuries has no end that can be counted.
        let end = Instant::now().checked_add(time);
        let mut is_over = self.is_over.lock();
        loop {
            go_on(cancel)?;
            let left = end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
            if *is_over || left.is_zero() {
                return Ok(());
            }
            let step = if cancel.is_some() {
                left.min(LOOK)
            } else {
                left
            };
            self.told.wait_for(&mut is_over, step);
        }
    }

    /// End all sleeps, and let there be no more.
    pub fn end(&self) {
        *self.is_over.lock() = true;
        self.told.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;
    use crate::disk::Errno;

    const FOR_EVER: Duration = Duration::MAX;

    #[test]
    fn the_end_wakes_who_sleeps_and_keeps_others_awake() {
        let sleep = Sleep::default();
        let waits = Cancel::unless(|| true);
        thread::scope(|scope| {
            for cancel in [None, Some(&waits)] {
                let sleep = &sleep;
                scope.spawn(move || sleep.sleep(FOR_EVER, cancel).unwrap());
            }
            sleep.end();
        });
        sleep.sleep(FOR_EVER, None).unwrap();
    }

    #[test]
    fn a_sleep_ends_when_nobody_waits_for_it() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let cancel = Cancel::unless(move || count.fetch_add(1, Ordering::Relaxed) < 3);
        let error = Sleep::default().sleep(FOR_EVER, Some(&cancel)).unwrap_err();
        assert_eq!(error.errno, Errno::SHUTDOWN);
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_sleep_ends_by_itself() {
        let (sleep, waits) = (Sleep::default(), Cancel::unless(|| true));
        sleep.sleep(Duration::from_millis(3), None).unwrap();
        sleep.sleep(2 * LOOK, Some(&waits)).unwrap();
    }
}
