//! The worker: the process that hosts Python, the layers and the front end of one disk.
//!
//! Its agent starts it and hands it the job over the socket at standard input. Up to the
//! plugin's `after_fork` there is one thread, as plugins are promised; a worker whose agent dies goes on
//! serving, because its disk is in use.

use std::io;
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;
use pydisk_kernel::fork_signals::handle_here_only;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

mod door;
mod guard;
mod offer;
mod served;
mod surroundings;
mod table;

use crate::attachment::{
    self, Activity, Connected, Cost, Folder, FromWorker, Job, Passing, Process, Role, Served, Step,
    Telling, ToWorker, patience, send,
};
use crate::disk::OpenDisk;
use crate::frontends::{self, Options, Published, Row};
use crate::layers::Stack;
use crate::python::{Plugin, ThreadModel};
use crate::{Refusal, ResultExt, logging, python};
use door::{Clients, Door};
use offer::Offer;
use served::Layered;

/// The hidden subcommand: serve one disk for the agent at standard input.
#[must_use]
pub fn process() -> ExitCode {
    let Some((stream, receiver, job)) = attachment::received::<Job>() else {
        logging::say("pydisk: worker-process is started by its agent\n");
        return ExitCode::from(2);
    };
    crate::python::allow_descriptors(&job.descriptors.passwords);
    job.logging.start(&job.name);
    // Before everything that this process has inherited is marked.
    let passing = Passing::inherited(&job.descriptors.inherited);
    surroundings::settle(&job.target);
    let folder = Folder::at(job.folder.clone());
    // Held until the process ends, however that happens.
    let held = folder.hold(Role::Worker);
    let ended = match &held {
        Ok(_) => passing
            .refuse("descriptors for the server")
            .and_then(|passing| serve(&job, &folder, passing, &stream, receiver)),
        Err(error) => Err(Refusal::caused(
            format_args!("folder `{}`", folder.path().display()),
            error,
        )),
    };
    let (message, code) = match ended {
        Ok(None) => (FromWorker::Stopped(None), 0),
        Ok(Some(refusal)) => (FromWorker::Stopped(Some(refusal.into())), 1),
        Err(refusal) => (FromWorker::Refused(refusal.into()), 1),
    };
    if code == 0
        && let Err(error) = attachment::note_good_end(&folder)
    {
        log::debug!("folder `{}`: {error}", folder.path().display());
    }
    if let Err(error) = send(&stream, &message) {
        log::debug!("the agent is gone: {error}");
    }
    // Without running destructors: threads of the plugin may still be inside Python.
    std::process::exit(code)
}

/// From the script to a disk that is gone again; what went wrong at its end, if anything.
fn serve(
    job: &Job,
    folder: &Folder,
    passing: Passing,
    stream: &UnixStream,
    receiver: attachment::Receiver,
) -> Result<Option<Refusal>, Refusal> {
    doing(stream, Step::Load);
    crate::python::go_by(job.plugin.called.clone());
    let plugin = Plugin::load(&job.plugin.script)?;
    if let Some(errnos) = job.plugin.errnos {
        plugin.settle_errnos(errnos);
    }
    doing(stream, Step::of_config(&job.plugin.parameters));
    plugin.configure(&job.plugin.parameters)?;
    doing(stream, Step::GetReady);
    plugin.get_ready()?;
    if job.conduct.leaves_folder {
        std::env::set_current_dir("/").refuse("folder `/`")?;
    }
    // What takes rights, before they are given up.
    let front_end = job.target.front_end();
    let options = options(job, front_end.row(), &plugin);
    let door = Door::open(&*front_end, &options, job, passing)?;
    let telling = attachment::telling_activity(folder).refuse(&job.name)?;
    surroundings::change(&job.conduct)?;
    // As in nbdkit, `cleanup` undoes what `after_fork` did, so it follows only where that succeeded.
    doing(stream, Step::AfterFork);
    plugin.after_fork()?;
    doing(stream, Step::Open);
    if job.disk.measured {
        // From the first handle on.
        drop(plugin.measure());
    }
    let stack = Arc::new(stack(job, front_end.row())?);
    let place = Place {
        job,
        row: front_end.row(),
        options: &options,
        stack: &stack,
        folder,
        stream,
        plugin: &plugin,
    };
    let ended = offer(job, front_end.row(), &stack, &plugin).and_then(|offer| {
        let events = place.events(receiver, telling)?;
        place.publish(door, offer, &events)
    });
    frontends::tell_hidden();
    doing(stream, Step::Cleanup);
    plugin.cleanup();
    ended
}

/// What the plugin is busy with.
fn activity() -> Activity {
    let busy = python::busy();
    Activity::new(busy.under_way, busy.longest)
}

/// Tell the agent what may take long from here on.
fn doing(stream: &UnixStream, step: Step) {
    if let Err(error) = send(stream, &FromWorker::Doing(step)) {
        log::debug!("the agent is gone: {error}");
    }
}

/// Count what this worker spends, and tell everybody who asks.
fn measure(plugin: &Plugin, folder: &Folder) -> Result<(), Refusal> {
    let stopwatch = plugin.measure();
    let count = move || {
        let (callbacks, inside) = stopwatch.read();
        Cost {
            callbacks,
            inside,
            cpu: pydisk_kernel::process::cpu_time(),
        }
    };
    attachment::tell_cost(folder, count).refuse("cost")
}

/// What the plugin has for the front end of this `row`.
fn offer(job: &Job, row: &Row, stack: &Arc<Stack>, plugin: &Arc<Plugin>) -> Result<Offer, Refusal> {
    if row.clients {
        let exports = Layered::new(plugin.exports(job.disk.read_only), Arc::clone(stack));
        let parallel = plugin.thread_model() == ThreadModel::Parallel;
        return Ok(Offer::of_exports(exports, job.disk.read_only, parallel));
    }
    open(job, stack, plugin).map(Offer::of_disk)
}

/// The layers between the plugin and the front end of this `row`.
fn stack(job: &Job, row: &Row) -> Result<Stack, Refusal> {
    let stack = match (row.clients, row.blocks) {
        (true, _) => Stack::for_exports(),
        (false, true) => Stack::for_device(job.disk.logical_block),
        (false, false) => Stack::for_file(),
    };
    stack.with_layers(&job.disk.layers)
}

/// Open the plugin and put the layers around it.
fn open(job: &Job, stack: &Stack, plugin: &Arc<Plugin>) -> Result<Arc<dyn OpenDisk>, Refusal> {
    stack
        .wrap(plugin.open(job.disk.read_only)?)
        .map_err(|refusal| refusal.within(job.plugin.script.display()))
}

/// Requests that a parallel plugin serves at the same time, unless the user says how many.
const AT_ONCE: u16 = 16;
/// The same where they are coroutines, which are made for waiting and share the interpreter.
const COROUTINES_AT_ONCE: u16 = 64;

fn at_once(wanted: Option<u16>, plugin: &Plugin) -> u16 {
    wanted.unwrap_or(if plugin.is_async() {
        COROUTINES_AT_ONCE
    } else {
        AT_ONCE
    })
}

/// What the front end is told.
fn options(job: &Job, row: &Row, plugin: &Plugin) -> Options {
    let wanted = if row.clients {
        job.server.requests
    } else {
        job.disk.lanes
    };
    Options {
        name: job.name.clone(),
        folder: job.folder.clone(),
        lanes: at_once(wanted, plugin),
        logical_block: job.disk.logical_block,
        identity: job.disk.identity,
        server: job.server.clone(),
    }
}

/// Where a disk is served: for whom, by what, and in which folder.
#[derive(Clone, Copy)]
struct Place<'a> {
    job: &'a Job,
    row: &'a Row,
    options: &'a Options,
    stack: &'a Stack,
    folder: &'a Folder,
    stream: &'a UnixStream,
    plugin: &'a Plugin,
}

impl Place<'_> {
    fn failed(&self, error: &io::Error) -> Refusal {
        Refusal::caused(&self.job.name, error)
    }

    /// From here on the agent and signals are heard, and there may be something to remove.
    fn events(&self, receiver: attachment::Receiver, telling: Telling) -> Result<Events, Refusal> {
        let (sender, events) = channel();
        if self.job.disk.measured {
            measure(self.plugin, self.folder)?;
        }
        listen(receiver, &sender)
            .and_then(|()| telling.tell(activity))
            .and_then(|()| send(self.stream, &FromWorker::Starting))
            .map_err(|error| self.failed(&error))?;
        let asked = Mutex::new(sender.clone());
        self.plugin.on_shutdown(move || {
            asked.lock().send(Event::Shutdown).unwrap_or_default();
        });
        Ok(Events { sender, events })
    }

    /// Make what there is to offer reachable, say so, and take it away when it is time.
    fn publish(
        &self,
        door: Door,
        offer: Offer,
        events: &Events,
    ) -> Result<Option<Refusal>, Refusal> {
        if offer.limits().is_some() {
            doing(self.stream, Step::FirstRead);
        }
        if let Some(word) = self.row.guard {
            guard::start(&word(self.options))?;
        }
        let (ended, end) = channel();
        let published = door.prepared.publish(offer.exports(), ended)?;
        let at = published.endpoint().clone();
        if let (true, Some(path), Some(limits)) = (self.row.blocks, at.device(), offer.limits()) {
            table::warn(path, limits, self.job.disk.logical_block);
        }
        let served = offer.served(at, self.row, self.options.lanes);
        // Whoever asks for the clients finds none once all is about to be stopped.
        let shared = Arc::new(Mutex::new(Some(published)));
        let announced = self
            .open_to(door.clients, &shared)
            .and_then(|log| self.announce(served, log, events, end));
        let why = announced.is_ok().then(|| self.wait(events)).flatten();
        let published = shared.lock().take().expect("nobody else takes it");
        let failed = why.and_then(|why| published.has_ended(why).err());
        doing(self.stream, Step::Requests);
        let removed = self.remove(published);
        if let Err(refusal) = &removed {
            log::error!("{refusal}");
        }
        announced.map_err(|error| self.failed(&error))?;
        let closed = offer.close(|step| doing(self.stream, step));
        let failed = failed.map(|why| Refusal::about(&self.job.name, why));
        Ok(failed.or(removed.err()).or(closed.err()))
    }

    /// Tell everybody who asks for the clients, if there are to be any; gives the log.
    fn open_to(&self, clients: Option<Clients>, shared: &Shared) -> io::Result<logging::Opened> {
        let Some(Clients { telling, log }) = clients else {
            return self.job.logging.open(&self.folder.log());
        };
        let asked = Arc::clone(shared);
        let list = move || match &*asked.lock() {
            Some(published) => connected(&**published),
            None => Vec::new(),
        };
        telling.tell(list)?;
        Ok(log)
    }

    /// Take it away. A ublk device is stopped by a process of its own, for as long as the plugin may
    /// hang: a process that stops its own device cannot be killed meanwhile.
    fn remove(&self, published: Box<dyn Published>) -> Result<(), Refusal> {
        if self.row.stopper
            && let Some(device) = published.endpoint().device()
        {
            let stopped = Process::Stopper.command().and_then(|mut stopper| {
                let stopper = stopper.arg(device).stdin(Stdio::null());
                stopper.status()
            });
            match stopped {
                Ok(status) if status.success() => {}
                other => log::warn!("the device is stopped without help: {other:?}"),
            }
        }
        published.stop()
    }

    /// Until there is a reason to stop; which one, if it is nobody's wish. The plugin and
    /// layers sleep no more from then on.
    fn wait(&self, events: &Events) -> Option<String> {
        let why = loop {
            match events.events.recv() {
                Ok(Event::Orphaned) if !self.job.conduct.outlives_agent => {
                    log::warn!("the agent is gone, and this worker ends with it");
                    surroundings::end_after(patience::ORPHAN.get());
                    break None;
                }
                Ok(Event::Orphaned) => {
                    log::warn!(
                        "the agent is gone: this worker goes on until a signal or `pydisk detach`"
                    );
                }
                // The agent has more to do than to stop this process, such as to store what lies on
                // the device. Who ends all processes of a service does not tell it apart from this one.
                Ok(Event::Shutdown) if send(self.stream, &FromWorker::Shutdown).is_ok() => {}
                Ok(Event::Signalled) if send(self.stream, &FromWorker::Signalled).is_ok() => {}
                Ok(Event::Gone(why)) => break Some(why),
                Ok(Event::Stop | Event::Signalled | Event::Shutdown) | Err(_) => break None,
            }
        };
        self.plugin.interrupt();
        self.stack.end_sleeps();
        why
    }

    /// Tell the agent that the disk can be used, and log to a file from here on.
    fn announce(
        &self,
        served: Served,
        log: logging::Opened,
        events: &Events,
        end: Receiver<String>,
    ) -> io::Result<()> {
        forward("front-end-ends", &events.sender, end)?;
        log.take_over()?;
        send(self.stream, &FromWorker::Ready(served))?;
        // What it took to look at the plugin is not needed again.
        pydisk_kernel::process::give_back_memory();
        Ok(())
    }
}

/// What is published, until it is about to be stopped.
type Shared = Arc<Mutex<Option<Box<dyn Published>>>>;

/// The clients, as others are told of them.
fn connected(published: &dyn Published) -> Vec<Connected> {
    published
        .clients()
        .into_iter()
        .map(|found| Connected {
            number: found.client.number,
            peer: found.client.peer.to_string(),
            export: found.export,
            tls: found.tls,
            since: attachment::seconds(found.since),
        })
        .collect()
}

/// What can happen to a worker that serves.
#[derive(Debug)]
enum Event {
    /// The agent wants it to stop.
    Stop,
    /// A signal wants it to stop.
    Signalled,
    /// The agent is gone.
    Orphaned,
    /// The plugin wants it to stop.
    Shutdown,
    /// The device was removed from outside, and why.
    Gone(String),
}

/// Turn what the agent says and the signals into events. The handlers only note a signal, and no
/// signal is blocked or ignored: what the plugin starts would inherit that.
fn listen(mut receiver: attachment::Receiver, events: &Sender<Event>) -> io::Result<()> {
    let mut signals = handle_here_only(&[SIGTERM, SIGINT, SIGHUP], || {
        // An interrupt from the terminal is for the agent to act on.
        for signal in [SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
        }
        signal_hook::iterator::Signals::new([SIGTERM])
    })?;
    let sender = events.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                sender.send(Event::Signalled).unwrap_or_default();
            }
        })?;
    let sender = events.clone();
    thread::Builder::new()
        .name("agent-says".into())
        .spawn(move || {
            let event = match receiver.receive::<ToWorker>() {
                Ok(Some(ToWorker::Stop)) => Event::Stop,
                Ok(None) => Event::Orphaned,
                Err(error) => {
                    log::error!("the agent sent what is no message: {error}");
                    Event::Orphaned
                }
            };
            sender.send(event).unwrap_or_default();
        })?;
    pydisk_kernel::process::handle_signals_on_own_stacks();
    Ok(())
}

fn forward(name: &str, events: &Sender<Event>, end: Receiver<String>) -> io::Result<()> {
    let events = events.clone();
    thread::Builder::new().name(name.into()).spawn(move || {
        if let Ok(why) = end.recv() {
            events.send(Event::Gone(why)).unwrap_or_default();
        }
    })?;
    Ok(())
}

/// What happens to a worker that serves, and where to tell it.
struct Events {
    sender: Sender<Event>,
    events: Receiver<Event>,
}
