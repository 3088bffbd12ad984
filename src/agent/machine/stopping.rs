//! The times at the end of a worker: when it is told to stop, asked where it is, killed, and given up.

use std::time::Instant;

use crate::attachment::patience;

/// A worker that has been told to stop, or is about to be.
#[derive(Debug)]
pub(super) struct Stopping {
    /// Whether it has been told.
    pub(super) told: bool,
    /// When it is told, though what lies on the disk is still being stored.
    pub(super) tell_at: Option<Instant>,
    /// Whether it has been asked where it is.
    pub(super) asked: bool,
    /// When it is to be killed.
    kill_at: Option<Instant>,
    /// When it was.
    pub(super) killed_at: Option<Instant>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It has waited long enough for what is being stored: it is told to stop.
    Tell,
    /// It is asked where it is, because it is killed soon.
    Ask,
    /// It is killed.
    Kill,
    /// It was killed and does not end.
    GiveUp,
}

impl Stopping {
    pub(super) fn new(kill_at: Option<Instant>) -> Self {
        Self {
            told: false,
            tell_at: None,
            asked: false,
            kill_at,
            killed_at: None,
        }
    }

    /// It is to be killed at this time, if not before.
    pub(super) fn hurry(&mut self, at: Instant) {
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When the next step is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next().map(|(_, at)| at)
    }

    /// What is due `now`.
    pub(super) fn due(&self, now: Instant) -> Option<Due> {
        self.next().filter(|(_, at)| *at <= now).map(|(due, _)| due)
    }

    fn next(&self) -> Option<(Due, Instant)> {
        if let Some(at) = self.killed_at {
            return Some((Due::GiveUp, at + patience::DEATH.get()));
        }
        let tell_at = self.tell_at.filter(|_| !self.told);
        let all = [
            tell_at.map(|at| (Due::Tell, at)),
            self.ask_at().map(|at| (Due::Ask, at)),
            self.kill_at.map(|at| (Due::Kill, at)),
        ];
        // Of those that are due at the same time the first.
        all.into_iter().flatten().min_by_key(|(_, at)| *at)
    }

    fn ask_at(&self) -> Option<Instant> {
        let kill_at = self.kill_at.filter(|_| !self.asked)?;
        let before = patience::ASKED_BEFORE.get();
        Some(kill_at.checked_sub(before).unwrap_or(kill_at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_worker_in_a_hurry_is_told_before_it_is_asked_and_killed() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut stopping = Stopping::new(Some(now + 60 * second));
        stopping.tell_at = Some(now + second);
        stopping.hurry(now + 4 * second);
        assert_eq!(stopping.deadline(), Some(now + second));
        assert_eq!(stopping.due(now), None);
        assert_eq!(stopping.due(now + second), Some(Due::Tell));
        stopping.told = true;
        assert_eq!(stopping.due(now + second), None);
        let ask_at = now + 4 * second - patience::ASKED_BEFORE.get();
        assert_eq!(stopping.deadline(), Some(ask_at));
        assert_eq!(stopping.due(ask_at), Some(Due::Ask));
        stopping.asked = true;
        assert_eq!(stopping.due(now + 4 * second), Some(Due::Kill));
        stopping.killed_at = Some(now + 4 * second);
        let give_up = now + 4 * second + patience::DEATH.get();
        assert_eq!(stopping.deadline(), Some(give_up));
        assert_eq!(stopping.due(give_up), Some(Due::GiveUp));
    }

    #[test]
    fn hurry_never_puts_off() {
        let now = Instant::now();
        let mut stopping = Stopping::new(None);
        assert_eq!(stopping.deadline(), None);
        stopping.asked = true;
        for (asked_for, deadline) in [(9, 9), (3, 3), (7, 3)] {
            stopping.hurry(now + Duration::from_secs(asked_for));
            assert_eq!(
                stopping.deadline(),
                Some(now + Duration::from_secs(deadline))
            );
        }
    }
}
