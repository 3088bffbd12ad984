//! Where an agent's events come from: tasks that wait for one thing each and put what happens into one queue.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pydisk_kernel::readable::readable;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

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

/// Takes what happens. It never waits.
#[derive(Clone, Debug)]
pub(super) struct Inbox(UnboundedSender<Input>);

impl Inbox {
    /// A queue and its end.
    pub(super) fn new() -> (Self, UnboundedReceiver<Input>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
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
                    if let Ok(Ok(mut ready)) = timeout(TICK, watch.readable()).await {
                        logging::seen(watch.get_ref());
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

/// Wait until a child of this process has ended. It stays a zombie, so that nobody else gets its number before it is
/// waited for.
pub(super) async fn ended(child: Pid) {
    let watched = pidfd_open(child, PidfdFlags::empty()).map_err(io::Error::from);
    let ended = match watched.and_then(readable) {
        Ok(watched) => watched.readable().await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        // Some sandboxes know no process descriptors.
        log::debug!("process {}: {error}", child.as_raw_nonzero());
        let (tell, told) = oneshot::channel();
        let started = thread::Builder::new()
            .name("process-ends".into())
            .spawn(move || {
                wait_for(child);
                tell.send(()).unwrap_or_default();
            });
        match started {
            Ok(_) => told.await.unwrap_or_default(),
            Err(error) => log::error!(
                "process {} is not seen to end: {error}",
                child.as_raw_nonzero()
            ),
        }
    }
}

fn wait_for(child: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(
        waitid(WaitId::Pid(child), options),
        Err(rustix::io::Errno::INTR)
    ) {}
}
