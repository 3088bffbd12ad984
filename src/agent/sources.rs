//! Where an agent's events come from: tasks that wait for one thing each and put what happens into one queue.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pydisk_kernel::readable::readable;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::{Instant as Clock, sleep, timeout, timeout_at};

use super::machine::Event;
use crate::{Refusal, logging};

/// Something for the agent to look at.
#[derive(Debug)]
pub(super) enum Input {
    /// It has happened.
    Event(Event),
    /// Somebody asks for the device to be removed; nobody uses it, or that does not matter.
    Detach {
        /// Where the answer goes.
        stream: UnixStream,
        /// Whether the worker is killed if it does not stop soon.
        force: bool,
        /// What its users have written and could not be stored.
        unstored: Vec<Refusal>,
    },
}

/// So many inputs are looked at when a deadline has passed: what has happened by then counts, but a flood of it must not
/// put the deadline off.
const MOST_OVERDUE: usize = 64;

/// What has happened, in this order.
#[derive(Debug)]
pub(super) struct Queue {
    inputs: UnboundedReceiver<Input>,
    /// How many were looked at since a deadline has passed.
    overdue: usize,
}

impl Queue {
    /// The next input, or none when the deadline has passed.
    pub(super) async fn next(&mut self, deadline: Option<Instant>) -> Option<Input> {
        let deadline = deadline.map(Clock::from_std);
        if deadline.is_some_and(|at| at <= Clock::now()) {
            return self.before_the_deadline().await;
        }
        self.overdue = 0;
        match deadline {
            Some(at) => timeout_at(at, self.inputs.recv()).await.unwrap_or(None),
            // It does not end: the agent can put something into it, too.
            None => self.inputs.recv().await,
        }
    }

    async fn before_the_deadline(&mut self) -> Option<Input> {
        if self.overdue == 0 {
            // The sources may not have had their turn yet.
            yield_now().await;
        }
        if self.overdue < MOST_OVERDUE
            && let Ok(input) = self.inputs.try_recv()
        {
            self.overdue += 1;
            return Some(input);
        }
        self.overdue = 0;
        None
    }
}

/// Takes what happens. It never waits.
#[derive(Clone, Debug)]
pub(super) struct Inbox(UnboundedSender<Input>);

impl Inbox {
    /// A queue and its end.
    pub(super) fn new() -> (Self, Queue) {
        let (sender, inputs) = unbounded_channel();
        (Self(sender), Queue { inputs, overdue: 0 })
    }

    /// Put it into the queue. After the agent's end nobody needs to know.
    pub(super) fn put(&self, input: Input) {
        self.0.send(input).unwrap_or_default();
    }

    pub(super) fn happened(&self, event: Event) {
        self.put(Input::Event(event));
    }

    /// Do `work`, which may wait for the kernel or for somebody else, in a thread; what it gives has happened then.
    ///
    /// # Errors
    /// If there is no thread to be had; the work is not done.
    pub(super) fn in_thread(
        &self,
        name: &str,
        work: impl FnOnce() -> Event + Send + 'static,
    ) -> io::Result<()> {
        let inbox = self.clone();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || inbox.happened(work()))?;
        Ok(())
    }
}

/// Turn the signals that end an agent into events. No signal is blocked, so that nothing the agent starts inherits a
/// mask.
pub(super) fn signals(inbox: &Inbox) -> io::Result<()> {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ];
    for kind in kinds {
        let (mut source, inbox): (Signal, _) = (signal(kind)?, inbox.clone());
        tokio::spawn(async move {
            while source.recv().await.is_some() {
                inbox.happened(Event::Signal(kind.as_raw_value()));
            }
        });
    }
    Ok(())
}

/// How often the log is looked at, though nobody is seen to write to it.
const TICK: Duration = Duration::from_secs(10);
/// How long the log may grow unseen while a plugin prints.
const PAUSE: Duration = Duration::from_millis(50);

/// Keep the log at `path` from growing for ever, whoever writes to it: what a plugin prints does not come by here.
pub(super) fn limit_log(path: &Path) {
    if !logging::is_bounded() {
        return;
    }
    let watch = logging::watch(path).and_then(readable);
    let watch = watch.inspect_err(|error| log::debug!("the log is not watched: {error}"));
    tokio::spawn(async move {
        loop {
            match &watch {
                Ok(watch) => {
                    if let Ok(Ok(mut ready)) = timeout(TICK, watch.readable()).await
                        && !logging::seen(watch.get_ref())
                    {
                        ready.clear_ready();
                    }
                }
                Err(_) => sleep(TICK).await,
            }
            logging::limit();
            sleep(PAUSE).await;
        }
    });
}

/// How often it is looked whether a process has ended that the kernel does not tell of.
const LOOK: Duration = Duration::from_millis(50);

/// Wait until a child of this process can be waited for. It stays a zombie, so that nobody else gets its number before
/// that.
pub(super) async fn ended(child: Pid) {
    let watched = pidfd_open(child, PidfdFlags::empty()).map_err(io::Error::from);
    match watched.and_then(readable) {
        Ok(watched) => {
            if let Err(error) = watched.readable().await {
                log::debug!("process {}: {error}", child.as_raw_nonzero());
            }
        }
        // Some sandboxes know no process descriptors.
        Err(error) => log::debug!("process {}: {error}", child.as_raw_nonzero()),
    }
    // A debugger's process has ended before its parent can know.
    while !can_be_waited_for(child) {
        sleep(LOOK).await;
    }
}

fn can_be_waited_for(child: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    match waitid(WaitId::Pid(child), options) {
        Ok(status) => status.is_some(),
        Err(error) => error != Errno::INTR,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn waited_for(child: &Child) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(ended(Pid::from_child(child)));
    }

    #[test]
    fn what_has_happened_comes_before_a_deadline_and_a_flood_does_not() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (inbox, mut queue) = Inbox::new();
            let now = Some(Instant::now());
            assert!(queue.next(now).await.is_none());
            for _ in 0..2 * MOST_OVERDUE {
                inbox.happened(Event::Silent);
            }
            for _ in 0..2 {
                for _ in 0..MOST_OVERDUE {
                    assert!(queue.next(now).await.is_some());
                }
                assert!(queue.next(now).await.is_none());
            }
        });
    }

    #[test]
    fn a_child_that_has_ended_stays_until_it_is_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        waited_for(&child);
        assert!(can_be_waited_for(Pid::from_child(&child)));
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_child_that_runs_cannot_be_waited_for() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert!(!can_be_waited_for(Pid::from_child(&child)));
        drop(child.stdin.take());
        waited_for(&child);
        assert!(child.wait().unwrap().success());
    }
}
