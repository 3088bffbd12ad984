//! The worker: the process that hosts Python, the layers and the front end of one disk.
//!
//! Its agent starts it and hands it the job over the socket at standard input. Up to the
//! plugin's `after_fork` there is one thread, as plugins are promised; a worker whose agent dies goes on
//! serving, because its disk is in use.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
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
mod sectors;
mod served;
mod surroundings;
mod table;

use crate::attachment::{
    self, Activity, Connected, Cost, Folder, FromWorker, Job, Passing, Process, Role, Served, Step,
    Telling, ToWorker, patience, send,
};
use crate::disk::{Check, Disk, Emulate, Op, Request};
use crate::frontends::nbd::Server;
use crate::frontends::{self, Attached, Endpoint, Target};
use crate::python::{Plugin, ThreadModel};
use crate::{Refusal, logging, python};
use door::Door;
use sectors::WholeSectors;
use served::Layered;

/// The hidden subcommand: serve one disk for the agent at standard input.
#[must_use]
pub fn process() -> ExitCode {
    let Some((stream, receiver, job)) = attachment::received::<Job>() else {
        logging::say("pydisk: worker-process is started by its agent\n");
        return ExitCode::from(2);
    };
    crate::python::allow_descriptors(&job.passwords);
    job.logging.start(&job.name);
    // Before everything that this process has inherited is marked.
    let passing = Passing::inherited(&job.inherited);
    surroundings::settle(&job.target);
    let folder = Folder::at(job.folder.clone());
    // Held until the process ends, however that happens.
    let held = folder.hold(Role::Worker);
    let ended = match &held {
        Ok(_) => passing
            .map_err(|error| Refusal::new(format!("descriptors for the server: {error}")))
            .and_then(|passing| serve(&job, &folder, passing, &stream, receiver)),
        Err(error) => Err(Refusal::new(format!(
            "folder `{}`: {error}",
            folder.path().display()
        ))),
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
    crate::python::go_by(job.called.clone());
    let plugin = Plugin::load(&job.script)?;
    if let Some(errnos) = job.errnos {
        plugin.settle_errnos(errnos);
    }
    doing(stream, Step::of_config(&job.parameters));
    plugin.configure(&job.parameters)?;
    doing(stream, Step::GetReady);
    plugin.get_ready()?;
    if job.conduct.leaves_folder {
        std::env::set_current_dir("/")
            .map_err(|error| Refusal::new(format!("folder `/`: {error}")))?;
    }
    // What takes rights, before they are given up.
    let door = match job.target.address() {
        Some(address) => {
            let requests = at_once(job.server.requests, &plugin);
            Some(Door::open(address, job, requests, passing)?)
        }
        None => None,
    };
    let telling = attachment::telling_activity(folder)
        .map_err(|error| Refusal::new(format!("{}: {error}", job.name)))?;
    surroundings::change(&job.conduct)?;
    // As in nbdkit, `cleanup` undoes what `after_fork` did, so it follows only where that succeeded.
    doing(stream, Step::AfterFork);
    plugin.after_fork()?;
    doing(stream, Step::Open);
    if job.measured {
        // From the first handle on.
        drop(plugin.measure());
    }
    let place = Place {
        job,
        folder,
        stream,
        plugin: &plugin,
    };
    let ended = match door {
        Some(door) => {
            let exports = Arc::new(Layered::new(plugin.exports(job.read_only)));
            let parallel = plugin.thread_model() == ThreadModel::Parallel;
            place
                .events(receiver, telling)
                .and_then(|events| place.listen(door, exports, parallel, &events))
        }
        None => open(job, &plugin).and_then(|disk| {
            let events = place.events(receiver, telling)?;
            place.attach(disk, &events)
        }),
    };
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
    attachment::tell_cost(folder, count).map_err(|error| Refusal::new(format!("cost: {error}")))
}

/// Open the plugin and put the layers around it.
fn open(job: &Job, plugin: &Arc<Plugin>) -> Result<Arc<dyn Disk>, Refusal> {
    let disk = Emulate::new(Check::new(plugin.open(job.read_only)?));
    let refused = |what| Refusal::new(format!("{}: {what}", job.script.display()));
    if disk.limits().size == 0 {
        return Err(refused("the disk has a size of 0 bytes".to_owned()));
    }
    if !job.target.front_end().row().blocks {
        return Ok(Arc::new(Check::new(disk)));
    }
    let disk = WholeSectors::new(disk, job.logical_block)
        .map_err(|refusal| refused(refusal.to_string()))?;
    Ok(Arc::new(Check::new(disk)))
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

/// Where a disk is served: for whom, and in which folder.
#[derive(Clone, Copy)]
struct Place<'a> {
    job: &'a Job,
    folder: &'a Folder,
    stream: &'a UnixStream,
    plugin: &'a Plugin,
}

impl Place<'_> {
    fn failed(&self, error: &io::Error) -> Refusal {
        Refusal::new(format!("{}: {error}", self.job.name))
    }

    /// From here on the agent and signals are heard, and there may be something to remove.
    fn events(&self, receiver: attachment::Receiver, telling: Telling) -> Result<Events, Refusal> {
        let (sender, events) = channel();
        if self.job.measured {
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

    /// Start the front end of a device, say so, and stop it when it is time.
    fn attach(&self, disk: Arc<dyn Disk>, events: &Events) -> Result<Option<Refusal>, Refusal> {
        doing(self.stream, Step::FirstRead);
        let (ended, end) = channel();
        let options = frontends::Options {
            name: self.job.name.clone(),
            folder: self.folder.path().to_owned(),
            lanes: at_once(self.job.lanes, self.plugin),
            logical_block: self.job.logical_block,
            identity: self.job.identity,
        };
        let row = self.job.target.front_end().row();
        if let Some(word) = row.guard {
            guard::start(&word(&options))?;
        }
        let attached = frontends::start(&self.job.target, Arc::clone(&disk), &options, ended)?;
        let limits = disk.limits();
        if row.blocks {
            table::warn(attached.path(), limits, self.job.logical_block);
        }
        let served = Served {
            at: Endpoint::Device(attached.path().to_owned()),
            front_end: self.job.target.front_end().row().name.to_owned(),
            size: Some(limits.size),
            read_only: Some(limits.read_only),
            parallel: limits.parallel,
            lanes: if limits.parallel { options.lanes } else { 1 },
        };
        let log = self.job.logging.open(&self.folder.log());
        if let Err(error) = log.and_then(|log| self.announce(served, log, events, end)) {
            if let Err(refusal) = remove(&self.job.target, attached) {
                log::error!("{refusal}");
            }
            return Err(self.failed(&error));
        }
        if let Some(why) = self.wait(events) {
            log::warn!("ended from outside: {why}");
        }
        Ok(self.stop(attached, disk))
    }

    /// Remove the device, store what is not stored yet, and close the disk.
    fn stop(&self, attached: Box<dyn Attached>, disk: Arc<dyn Disk>) -> Option<Refusal> {
        let mut first = None;
        let mut note = |refusal: Refusal| {
            log::error!("{refusal}");
            first.get_or_insert(refusal);
        };
        doing(self.stream, Step::Requests);
        if let Err(refusal) = remove(&self.job.target, attached) {
            note(refusal);
        }
        let limits = disk.limits();
        doing(self.stream, Step::Flush);
        if limits.flush
            && !limits.read_only
            && let Err(error) = disk.serve(Request::new(Op::Flush, 0))
        {
            note(Refusal::new(format!("the last flush failed: {error}")));
        }
        if Arc::strong_count(&disk) > 1 {
            log::debug!("something still holds the disk: it is not closed");
        }
        doing(self.stream, Step::Close);
        drop(disk);
        first
    }

    /// Serve at the door, say so, and stop when it is time.
    fn listen(
        &self,
        door: Door,
        exports: Arc<Layered>,
        parallel: bool,
        events: &Events,
    ) -> Result<Option<Refusal>, Refusal> {
        let (ended, end) = channel();
        let server = door.bound.serve(exports, ended)?;
        let served = Served {
            at: Endpoint::Server {
                uri: server.uri(),
                unix_socket: server.unix_socket().map(Path::to_owned),
            },
            front_end: self.job.target.front_end().row().name.to_owned(),
            size: None,
            read_only: self.job.read_only.then_some(true),
            parallel,
            lanes: if parallel {
                at_once(self.job.server.requests, self.plugin)
            } else {
                1
            },
        };
        // Whoever asks for the clients finds none once the server is about to be stopped.
        let server = Arc::new(Mutex::new(Some(server)));
        let asked = Arc::clone(&server);
        let list = move || asked.lock().as_ref().map(connected).unwrap_or_default();
        let announced = door
            .telling
            .tell(list)
            .and_then(|()| self.announce(served, door.log, events, end));
        let why = announced.is_ok().then(|| self.wait(events)).flatten();
        doing(self.stream, Step::Requests);
        let server = server.lock().take().expect("nobody else takes it");
        let left = server.left();
        server.stop();
        announced.map_err(|error| self.failed(&error))?;
        Ok(match why {
            // Its only client has not left: it has served nobody, or serves no more.
            Some(why) if !left => Some(Refusal::new(format!("{}: {why}", self.job.name))),
            Some(why) => {
                log::info!("{why}");
                None
            }
            None => None,
        })
    }

    /// Until there is a reason to stop; which one, if it is nobody's wish. The plugin sleeps no more
    /// from then on.
    fn wait(&self, events: &Events) -> Option<String> {
        let why = loop {
            match events.events.recv() {
                Ok(Event::Orphaned) if !self.job.conduct.outlives_agent => {
                    log::warn!("the agent is gone, and this worker ends with it");
                    surroundings::end_after(patience::ORPHAN);
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

/// The clients of a server, as others are told of them.
fn connected(server: &Server) -> Vec<Connected> {
    server
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

/// Remove the device. A ublk device is stopped by a process of its own, for as long as the plugin may
/// hang: a process that stops its own device cannot be killed meanwhile.
fn remove(target: &Target, attached: Box<dyn Attached>) -> Result<(), Refusal> {
    if target.front_end().row().stopper {
        let stopped = Process::Stopper.command().and_then(|mut stopper| {
            let stopper = stopper.arg(attached.path()).stdin(Stdio::null());
            stopper.status()
        });
        match stopped {
            Ok(status) if status.success() => {}
            other => log::warn!("the device is stopped without help: {other:?}"),
        }
    }
    attached.stop()
}
