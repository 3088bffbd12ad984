//! A device that is served: its threads, and how it starts and ends.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use super::handler::{Handler, in_lane};
use super::handoff::serve_by_pool;
use super::lane::{Seat, serve_inline};
use super::params::Params;
use super::queue::Descriptors;
use super::{CLEAN_UP, LET_GO, SET_UP};
use crate::device_error::DeviceError;
use crate::first_read::first_read;
use crate::node::{Node, open_when_ours};
use crate::threads;

/// Which threads serve which tags.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// Each thread fetches, serves and commits its own tags.
    Inline { threads: u16, tags: u16 },
    /// One thread fetches and commits, others serve.
    Pool { threads: u16 },
}

/// A device that is served. Dropping it stops and removes it.
pub struct Running {
    id: u32,
    control: Control,
    /// In the order in which they go once the threads have ended.
    descriptors: Option<Arc<Descriptors>>,
    character: Option<(Arc<File>, Node)>,
    block: Option<Node>,
    threads: Vec<JoinHandle<()>>,
    end: Arc<End>,
    size_bytes: u64,
    logical_block: u32,
    identity: u64,
    removed: bool,
}

type Ended = Box<dyn FnOnce(String) + Send>;

/// What the threads say when they end.
struct End {
    /// The end is wanted.
    stopping: AtomicBool,
    /// A thread has ended.
    any: AtomicBool,
    /// Taken by the first thread that ends unasked. Not held while it is called.
    ended: Mutex<Option<Ended>>,
}

impl End {
    fn of_thread(&self, outcome: Result<(), String>) {
        self.any.store(true, Ordering::Release);
        if let Err(why) = &outcome {
            log::error!("ublk: a serving thread ended: {why}");
        }
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        let ended = self
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(ended) = ended {
            ended(match outcome {
                Ok(()) => "the device was removed from outside".into(),
                Err(why) => why,
            });
        }
    }
}

impl Running {
    pub(super) fn start(
        control: Control,
        id: u32,
        params: &Params,
        plan: Plan,
        handler: &Arc<dyn Handler>,
        ended: Ended,
    ) -> Result<Self, DeviceError> {
        let mut this = Self {
            id,
            control,
            descriptors: None,
            character: None,
            block: None,
            threads: Vec::new(),
            end: Arc::new(End {
                stopping: AtomicBool::new(true),
                any: AtomicBool::new(false),
                ended: Mutex::new(Some(ended)),
            }),
            size_bytes: params.size_bytes,
            logical_block: params.logical_block,
            identity: params.identity,
            removed: false,
        };
        let started = this.bring_up(params, plan, handler);
        match started {
            Ok(()) => Ok(this),
            Err(error) => {
                if let Err(second) = this.remove(Some(CLEAN_UP)) {
                    log::error!("ublk: removing device {id}: {second}");
                }
                Err(error)
            }
        }
    }

    fn bring_up(
        &mut self,
        params: &Params,
        plan: Plan,
        handler: &Arc<dyn Handler>,
    ) -> Result<(), DeviceError> {
        let node = Node::character(&format!("ublkc{}", self.id), "ublk-char")
            .map_err(DeviceError::Node)?;
        let file = Arc::new(open_when_ours(node.path()).map_err(DeviceError::Node)?);
        self.character = Some((Arc::clone(&file), node));
        let (threads, count, depth) = match plan {
            Plan::Inline { threads, tags } => (threads, tags, threads * tags),
            Plan::Pool { threads } => (1, threads, threads),
        };
        let descriptors = Arc::new(Descriptors::map(&file, depth)?);
        self.descriptors = Some(Arc::clone(&descriptors));
        let buffer = usize::try_from(params.max_io_bytes).expect("32 MiB fit");
        let (ready, told) = mpsc::channel();
        for number in 0..threads {
            let seat = Seat {
                node: Arc::clone(&file),
                descriptors: Arc::clone(&descriptors),
                handler: Arc::clone(handler),
                buffer,
                first: number * count,
                count,
            };
            let (end, ready) = (Arc::clone(&self.end), ready.clone());
            let name = format!("ublk-{}", self.id);
            let own_name = match plan {
                Plan::Inline { .. } => format!("{name}-{number}"),
                Plan::Pool { .. } => name.clone(),
            };
            let thread = threads::deep(own_name).spawn(move || {
                let outcome = match plan {
                    Plan::Inline { .. } => in_lane(&*seat.handler, || serve_inline(&seat, &ready)),
                    // Calls the handler in threads of its own only.
                    Plan::Pool { .. } => serve_by_pool(&seat, &name, &ready),
                };
                drop(seat);
                end.of_thread(outcome);
            });
            self.threads
                .push(thread.map_err(DeviceError::io("thread"))?);
        }
        drop(ready);
        all_ready(&told, threads)?;
        // START_DEV waits until the driver has all tags, and they are with it.
        let end = Arc::clone(&self.end);
        Control::start(self.id, || end.any.load(Ordering::Acquire))?;
        self.block = Some(Node::block(&format!("ublkb{}", self.id)).map_err(DeviceError::Node)?);
        self.end.stopping.store(false, Ordering::Release);
        if self.end.any.load(Ordering::Acquire) {
            return Err(DeviceError::Lane(
                "the device ended while it was started".into(),
            ));
        }
        Ok(())
    }

    /// The device's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The block device's node.
    #[must_use]
    pub fn device_path(&self) -> &Path {
        self.block
            .as_ref()
            .expect("made when it was started")
            .path()
    }

    /// Wait until the device can be opened, has its size, and its first block can be read.
    ///
    /// # Errors
    /// [`DeviceError::Node`] with the reason, [`DeviceError::Timeout`] when there was no answer `within` that
    /// time.
    pub fn wait_until_usable(&self, within: Duration) -> Result<(), DeviceError> {
        first_read(
            self.device_path(),
            self.size_bytes,
            self.logical_block,
            within,
        )
    }

    /// Remove the device. What is under way, and what the kernel still has to write, is served
    /// first; that takes as long as the handler takes. Who has the device open gets errors.
    ///
    /// Not to be called from a serving thread.
    ///
    /// # Errors
    /// [`DeviceError::StillOpen`] when somebody keeps a dead device open; otherwise what could not be
    /// removed. The threads have ended unless the device could not be stopped.
    pub fn stop(mut self) -> Result<(), DeviceError> {
        self.remove(None)
    }

    /// Leave the device as it is, for as long as this process lives: its threads go on serving it.
    pub fn abandon(mut self) {
        self.removed = true;
    }

    fn remove(&mut self, within: Option<Duration>) -> Result<(), DeviceError> {
        self.removed = true;
        self.end.stopping.store(true, Ordering::Release);
        // Also ends threads of a device that was not started.
        if self.character.is_some() {
            // Nobody else has this number as long as it is open here.
            self.control.stop_any(self.id, within)?;
        } else {
            self.control.stop(self.id, self.identity, within)?;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("ublk: a thread of device {} panicked", self.id);
            }
        }
        self.block = None;
        self.descriptors = None;
        let node = self.character.take().map(|(file, node)| {
            drop(file);
            node
        });
        let deleted = self.control.delete(self.id, self.identity, LET_GO);
        drop(node);
        deleted
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove(None)
        {
            log::error!("ublk: removing device {}: {error}", self.id);
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("id", &self.id)
            .field("threads", &self.threads.len())
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

/// Wait for the word of each thread.
fn all_ready(told: &Receiver<Result<(), DeviceError>>, threads: u16) -> Result<(), DeviceError> {
    for _ in 0..threads {
        match told.recv_timeout(SET_UP) {
            Ok(outcome) => outcome?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(DeviceError::Timeout {
                    what: "setting up the serving threads",
                    after: SET_UP,
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(DeviceError::Lane(
                    "a serving thread ended before it was set up".into(),
                ));
            }
        }
    }
    Ok(())
}
