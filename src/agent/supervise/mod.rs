//! The agent's loop: one worker is started, watched and stopped, and what it leaves behind is
//! removed.
//!
//! Threads turn whatever can happen into an [`Event`]; one thread decides. Nothing here waits
//! without a bound, except for processes that may rightly take as long as they like.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::worker_process::WorkerProcess;
use super::{command, control, inuse, storing};

mod ending;
mod hearing;

use crate::attachment::{
    Answer, Folder, FromWorker, Held, Job, Passing, Phase, Served, State, Step, hung_at, masked,
    now, patience, send,
};
use crate::logging::Sink;
use crate::progress::Progress;
use crate::{Refusal, logging};
pub use ending::Outcome;

/// How often the log is looked at.
const TICK: Duration = Duration::from_secs(10);

/// What can happen to an agent.
#[derive(Debug)]
pub(super) enum Event {
    /// The worker said something.
    Heard(FromWorker),
    /// The worker will say no more.
    Silent,
    /// The worker has ended.
    Ended,
    /// The launcher has passed the device path on.
    Taken,
    /// The launcher has ended.
    LauncherGone,
    /// A signal to the agent.
    Signal(i32),
    /// Somebody asks for the device to be removed; nobody uses it, or that does not matter.
    Detach {
        /// Where the answer goes.
        stream: UnixStream,
        /// Whether the worker is killed if it does not stop soon.
        force: bool,
        /// What its users have written and could not be stored.
        unstored: Vec<Refusal>,
    },
    /// What had to be done before the worker is stopped has been done; what could not be stored.
    Stop(Vec<Refusal>),
    /// Where the worker is that is to be killed, as [`hung_at`] says it.
    Hangs(String),
    /// The user's command has ended; its exit status.
    CommandEnded(u8),
}

/// Who is to be told how it went.
pub(super) enum Launcher {
    /// The `pydisk attach` that waits at the other end.
    Process(UnixStream),
    /// This process, which is in the foreground.
    Myself {
        /// The user's, if there is one.
        command: Option<String>,
        /// Tells the user that the disk can be used.
        tell: Box<dyn Fn(&Served)>,
    },
}

/// One attachment, from the start of its worker to the end.
pub(super) struct Agent {
    job: Job,
    /// Until there is a worker.
    passing: Passing,
    folder: Folder,
    held: Held,
    launcher: Launcher,
    state: State,
    sender: Sender<Event>,
    events: Receiver<Event>,
    /// Whether the launcher has been told that the disk can be used.
    told: bool,
    /// Whether it has passed that on, so that somebody knows of the disk.
    taken: bool,
    /// Whether something is left that the folder must go on to tell of.
    keep_folder: bool,
    /// Whether a front end may have made something that outlives the worker.
    device_made: bool,
    stopping: Option<Stopping>,
    waiting: Vec<Waiting>,
    /// What the disk's users have written and could not be stored.
    unstored: Vec<Refusal>,
    last_words: Option<FromWorker>,
    /// Whether the worker will say no more.
    silent: bool,
    /// Where the worker was that had to be killed, as it goes on in a sentence.
    hung: String,
    /// Why nobody is told of a disk that could be used.
    given_up: Option<Refusal>,
    command: Option<Pid>,
    command_status: Option<u8>,
    /// What the worker was last heard to do.
    step: Step,
    /// In the foreground, tells the user of what takes long.
    progress: Option<Progress>,
}

/// The worker has been told to stop, or is about to be.
struct Stopping {
    /// Whether it has been told.
    told: bool,
    /// When it is told, though what lies on the disk is still being stored.
    tell_at: Option<Instant>,
    /// Whether it has been asked where it is.
    asked: bool,
    /// When it is to be killed.
    kill_at: Option<Instant>,
    /// When it was.
    killed_at: Option<Instant>,
}

impl Stopping {
    fn new(kill_at: Option<Instant>) -> Self {
        Self {
            told: false,
            tell_at: None,
            asked: false,
            kill_at,
            killed_at: None,
        }
    }

    /// It is to be killed at this time, if not before.
    fn hurry(&mut self, at: Instant) {
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When the next step is due.
    fn deadline(&self) -> Option<Instant> {
        if let Some(at) = self.killed_at {
            return Some(at + patience::DEATH.get());
        }
        let tell_at = self.tell_at.filter(|_| !self.told);
        let all = [tell_at, self.ask_at(), self.kill_at];
        all.into_iter().flatten().min()
    }

    /// When it is asked where it is, because it is killed soon.
    fn ask_at(&self) -> Option<Instant> {
        let kill_at = self.kill_at.filter(|_| !self.asked)?;
        Some(
            kill_at
                .checked_sub(patience::ASKED_BEFORE.get())
                .unwrap_or(kill_at),
        )
    }

    /// Whether it must be told now, because it is killed soon.
    fn is_to_be_told(&self, now: Instant) -> bool {
        !self.told && self.tell_at.is_some_and(|at| at <= now)
    }
}

/// A client that waits for the end.
struct Waiting {
    stream: UnixStream,
    until: Option<Instant>,
}

impl Agent {
    /// An agent for `job` in a folder whose agent lock is held.
    pub(super) fn new(
        job: Job,
        passing: Passing,
        folder: Folder,
        held: Held,
        launcher: Launcher,
    ) -> Self {
        let (sender, events) = channel();
        let state = State {
            name: job.name.clone(),
            phase: Phase::Starting,
            cause: None,
            plugin: job.script.clone(),
            parameters: masked(&job.parameters),
            target: job.target.clone(),
            identity: Some(job.identity),
            target_is_new: job.target.front_end().is_new(),
            disk: None,
            agent_pid: std::process::id(),
            worker_pid: None,
            namespace: pydisk_kernel::mounts::namespace(),
            since: now(),
            log: job.logging.file(&folder.log()),
        };
        Self {
            job,
            passing,
            folder,
            held,
            launcher,
            state,
            sender,
            events,
            told: false,
            taken: false,
            keep_folder: false,
            device_made: false,
            stopping: None,
            waiting: Vec::new(),
            unstored: Vec::new(),
            last_words: None,
            silent: false,
            hung: String::new(),
            given_up: None,
            command: None,
            command_status: None,
            step: Step::Load,
            progress: None,
        }
    }

    /// The sender for whoever makes events.
    pub(super) fn sender(&self) -> &Sender<Event> {
        &self.sender
    }

    /// Serve until the disk is gone. The folder is gone afterwards, too.
    pub(super) fn run(mut self) -> Outcome {
        if matches!(self.launcher, Launcher::Myself { .. }) && !self.has_stdio_client() {
            self.progress = Some(super::starting(&self.job));
        }
        let started = self.start();
        let mut worker = match started {
            Ok(worker) => worker,
            Err(refusal) => return self.finish(Err(refusal)),
        };
        // A worker that dies is replaced here one day, where the front end can take it up again.
        let dead = self.watch(&mut worker);
        let ended = self.bury(&mut worker, dead);
        self.finish(ended)
    }

    fn start(&mut self) -> Result<WorkerProcess, Refusal> {
        let failed = |what: &str, error: std::io::Error| Refusal::new(format!("{what}: {error}"));
        self.save()
            .map_err(|error| failed("state of the attachment", error))?;
        signals(&self.sender).map_err(|error| failed("signal handlers", error))?;
        control::serve(&self.folder, &self.sender)
            .map_err(|error| failed("control socket", error))?;
        let passing = std::mem::take(&mut self.passing);
        let worker = WorkerProcess::start(&self.job, passing, &self.sender)
            .map_err(|error| failed("the worker cannot be started", error))?;
        if !self.job.foreground
            && let Err(error) = std::env::set_current_dir("/")
        {
            log::debug!("folder `/`: {error}");
        }
        self.state.worker_pid = Some(worker.id());
        self.save()
            .map_err(|error| failed("state of the attachment", error))?;
        Ok(worker)
    }

    /// Until the worker has ended, or cannot even be killed; whether it has ended.
    fn watch(&mut self, worker: &mut WorkerProcess) -> bool {
        loop {
            match self.next() {
                Some(Event::Heard(message)) => self.heard(message, worker),
                Some(Event::Silent) => self.silent = true,
                Some(Event::Ended) => return true,
                Some(Event::Taken) => self.taken = true,
                Some(Event::LauncherGone) if self.taken => {}
                Some(Event::LauncherGone) => {
                    log::debug!("the launcher is gone");
                    self.stop(worker, Some(patience::SIGNAL.get()));
                }
                Some(Event::Signal(signal)) => self.signalled(signal, worker),
                Some(Event::Detach {
                    stream,
                    force,
                    unstored,
                }) => {
                    self.note_unstored(unstored);
                    let until = (!force).then(|| Instant::now() + patience::DETACH.get());
                    if self.stopping.is_some() {
                        answer(&stream, &Answer::Doing(self.step));
                    }
                    self.waiting.push(Waiting { stream, until });
                    // What lies on the disk is stored first, where that has begun.
                    let storing = self
                        .stopping
                        .as_ref()
                        .is_some_and(|stopping| !stopping.told);
                    if force || !storing {
                        self.stop(worker, force.then_some(patience::FORCE.get()));
                    }
                }
                Some(Event::Stop(unstored)) => {
                    self.note_unstored(unstored);
                    self.stop(worker, None);
                }
                Some(Event::Hangs(place)) => self.hung = place,
                Some(Event::CommandEnded(status)) => {
                    self.command_status = Some(status);
                    self.release();
                }
                None if self.deadlines(worker) => return false,
                None => {}
            }
        }
    }

    /// The next event, or `None` when some deadline may have passed.
    fn next(&self) -> Option<Event> {
        let kill_at = self.stopping.as_ref().and_then(Stopping::deadline);
        let next = self
            .waiting
            .iter()
            .filter_map(|waiting| waiting.until)
            .chain(kill_at)
            .min()
            .map_or(TICK, |at| {
                at.saturating_duration_since(Instant::now()).min(TICK)
            });
        match self.events.recv_timeout(next) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the agent holds a sender"),
        }
    }

    /// Do what is due; whether to give the worker up.
    fn deadlines(&mut self, worker: &mut WorkerProcess) -> bool {
        logging::limit();
        let now = Instant::now();
        if let Some(stopping) = &mut self.stopping
            && stopping.deadline().is_some_and(|at| at <= now)
        {
            if stopping.killed_at.is_some() {
                log::error!("the worker was killed and does not end: it waits in the kernel");
                return true;
            }
            if stopping.is_to_be_told(now) {
                let why = "not all that lies on it was stored before a second signal";
                let refusal = Refusal::new(format!("{}: {why}", self.job.name));
                self.note_unstored(vec![refusal]);
                self.stop(worker, None);
            } else if stopping.ask_at().is_some_and(|at| at <= now) {
                stopping.asked = true;
                self.ask_where_it_is();
            } else {
                log::warn!("the plugin did not stop in time: its worker is killed");
                stopping.killed_at = Some(now);
                worker.kill();
            }
        }
        let name = &self.job.name;
        self.waiting.retain(|waiting| {
            if waiting.until.is_none_or(|until| until > now) {
                return true;
            }
            let refusal = Refusal::new(format!(
                "{name}: the plugin has not finished after {} s; it goes on stopping",
                patience::DETACH.get().as_secs()
            ))
            .hint(format!(
                "`pydisk detach --force {name}` ends it, whatever it has not stored yet"
            ));
            answer(&waiting.stream, &Answer::Refused(refusal.into()));
            false
        });
        false
    }

    /// In a thread, because it may not answer.
    fn ask_where_it_is(&self) {
        let (sender, folder) = (self.sender.clone(), self.folder.clone());
        let ask = move || {
            let place = hung_at(&folder);
            sender.send(Event::Hangs(place)).unwrap_or_default();
        };
        let started = thread::Builder::new().name("asks-worker".into()).spawn(ask);
        if let Err(error) = started {
            log::debug!("the worker is not asked where it is: {error}");
        }
    }

    fn signalled(&mut self, signal: i32, worker: &mut WorkerProcess) {
        if let Some(command) = self.command
            && self.command_status.is_none()
        {
            // The terminal sends the first two to the command as well, which decides.
            if signal != SIGTERM {
                return;
            }
            command::end(command);
        }
        if signal == SIGHUP && self.job.conduct.ignores_hangup {
            return;
        }
        log::info!(
            "stopped by {}",
            signal_hook::low_level::signal_name(signal).unwrap_or("signal")
        );
        if matches!(signal, SIGINT) {
            self.tell_interrupt();
        }
        // Who types it twice is in a hurry; a script that repeats its signal until the process is gone
        // must not cost the plugin what it is about to store.
        let typed_twice = self.stopping.is_some() && matches!(signal, SIGINT | SIGQUIT);
        let patience = if typed_twice {
            patience::SIGNAL.get()
        } else {
            self.job.conduct.patience
        };
        self.end(worker, patience);
    }

    /// Tell who typed it what comes of it.
    fn tell_interrupt(&self) {
        let seconds = match self.stopping {
            _ if !self.device_made => {
                log::info!("{} is not waited for: nothing is attached", self.step);
                return;
            }
            None => self.job.conduct.patience.as_secs(),
            Some(_) => patience::SIGNAL.get().as_secs(),
        };
        log::info!("the plugin has {seconds} s to flush and close");
    }

    /// Whether standard input and output, and under inetd standard error, are a client.
    fn has_stdio_client(&self) -> bool {
        self.job.target.front_end().uses_stdio()
    }

    /// Tell the user in the foreground of what the end waits for.
    fn tell_of_the_end(&mut self) {
        let to_user = self.job.logging.sink == Sink::StandardError && !self.has_stdio_client();
        if !self.job.foreground || !to_user {
            return;
        }
        let (name, quiet) = (&self.job.name, self.job.logging.quiet);
        let hint = format!(
            "; Ctrl-C gives it {} s more",
            patience::SIGNAL.get().as_secs()
        );
        self.progress = Some(Progress::told(name, quiet, Step::Requests, hint));
    }

    /// Store what lies on the disk, for half of `patience`, and stop the worker, which is killed when it
    /// takes longer than that after it.
    fn end(&mut self, worker: &mut WorkerProcess, patience: Duration) {
        let disk = self.state.disk.clone();
        let device = disk.filter(|disk| disk.at.device().is_some());
        let storing = device.as_ref().map_or(Duration::ZERO, |_| patience / 2);
        if let Some(stopping) = &mut self.stopping {
            // What is being stored, or has begun to stop, goes on, and no longer than this.
            let tell_at = Instant::now() + storing;
            stopping.tell_at.get_or_insert(tell_at);
            stopping.hurry(tell_at + patience);
            return;
        }
        let Some(disk) = device else {
            self.stop(worker, Some(patience));
            return;
        };
        let kill_at = Instant::now() + storing + patience;
        self.stopping = Some(Stopping::new(Some(kill_at)));
        let folder = self.folder.clone();
        self.before_stop(move || storing::store(&disk, &folder, storing));
    }

    /// The user's command has ended: let go of the disk, also if something still uses it.
    fn release(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let (state, folder) = (self.state.clone(), self.folder.clone());
        self.stopping = Some(Stopping::new(None));
        self.before_stop(move || {
            let Some(disk) = &state.disk else {
                return Vec::new();
            };
            // Not all are seen: memory that was mapped keeps no descriptor.
            if let Some(users) = inuse::users(&state, &folder) {
                log::warn!("{users}; it is stored and removed all the same");
            }
            // Nobody waits but for what is written, as in a plain detach.
            storing::store(disk, &folder, patience::DETACH.get() / 2)
        });
    }

    /// Do `work` in a thread, then stop the worker. It gives what could not be stored.
    fn before_stop(&self, work: impl FnOnce() -> Vec<Refusal> + Send + 'static) {
        let sender = self.sender.clone();
        let started = thread::Builder::new()
            .name("before-stop".into())
            .spawn(move || {
                sender.send(Event::Stop(work())).unwrap_or_default();
            });
        if let Err(error) = started {
            let refusal = Refusal::new(format!("{}: nothing was stored: {error}", self.job.name));
            let event = Event::Stop(vec![refusal]);
            self.sender.send(event).unwrap_or_default();
        }
    }

    fn note_unstored(&mut self, unstored: Vec<Refusal>) {
        for refusal in unstored {
            // Two may have tried.
            if !self.unstored.contains(&refusal) {
                self.log_failure(&refusal);
                self.unstored.push(refusal);
            }
        }
    }

    /// Log what went wrong, unless the launcher or this process says it to the user.
    fn log_failure(&self, what: &impl std::fmt::Display) {
        let to_stderr = self.job.logging.sink == Sink::StandardError;
        if self.told && !(self.job.foreground && to_stderr) {
            log::error!("{what}");
        }
    }

    /// Tell the worker to stop, once, and kill it after `patience`, if one is given.
    fn stop(&mut self, worker: &mut WorkerProcess, patience: Option<Duration>) {
        let device_made = self.device_made;
        let stopping = self.stopping.get_or_insert_with(|| Stopping::new(None));
        if let Some(patience) = patience {
            stopping.hurry(Instant::now() + patience);
        }
        if stopping.told {
            return;
        }
        stopping.told = true;
        if device_made {
            self.tell_of_the_end();
            worker.stop();
        } else {
            // Its only thread is busy with the plugin, and there is nothing to flush yet.
            stopping.killed_at = Some(Instant::now());
            worker.kill();
            self.progress = None;
        }
        self.state.phase = Phase::Stopping;
        if let Err(error) = self.save() {
            log::warn!("state of the attachment: {error}");
        }
    }

    fn save(&self) -> std::io::Result<()> {
        self.state.write(&self.folder)
    }
}

/// Turn the signals that end an agent into events. A thread takes them; no signal is blocked, so
/// that nothing the agent starts inherits a mask.
fn signals(events: &Sender<Event>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
    let events = events.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                events.send(Event::Signal(signal)).unwrap_or_default();
            }
        })?;
    Ok(())
}

fn answer(stream: &UnixStream, answer: &Answer) {
    if let Err(error) = send(stream, answer) {
        log::debug!("control: whoever asked is gone: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_a_hurry_has_the_worker_told_before_it_is_killed() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut stopping = Stopping::new(Some(now + 60 * second));
        stopping.tell_at = Some(now + second);
        stopping.hurry(now + 4 * second);
        assert_eq!(stopping.deadline(), Some(now + second));
        assert!(!stopping.is_to_be_told(now));
        assert!(stopping.is_to_be_told(now + second));
        stopping.told = true;
        assert!(!stopping.is_to_be_told(now + second));
        assert_eq!(
            stopping.deadline(),
            Some(now + 4 * second - patience::ASKED_BEFORE.get())
        );
        stopping.asked = true;
        assert_eq!(stopping.deadline(), Some(now + 4 * second));
        stopping.killed_at = Some(now + 4 * second);
        assert_eq!(
            stopping.deadline(),
            Some(now + 4 * second + patience::DEATH.get())
        );
    }
}
