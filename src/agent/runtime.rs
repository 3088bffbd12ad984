//! What an agent does: it waits for events, asks its [`Machine`] what is to be done, and does it.
//!
//! One thread runs all of it. Whatever may wait for the kernel, the plugin or a file system is done in a thread of its
//! own, and its end is an event, too.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::process::Pid;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::{Instant as Clock, timeout};

use super::machine::{Action, Client, Event, Machine, Outcome, Published};
use super::sources::{self, Inbox, Input, Queue};
use super::worker_process::{Start, Worker};
use super::{command, control, inuse, leftovers, storing, wire};
use crate::attachment::{
    Answer, Folder, FromAgent, Held, Job, Passing, Phase, Served, State, Step, ToAgent, hung_at,
    keep_log, masked, now, patience,
};
use crate::logging::{self, Sink};
use crate::progress::Progress;
use crate::{Refusal, ResultExt};

/// Whoever is to be told how it went.
pub(super) enum Launcher {
    /// The `pydisk attach` that waits at the other end.
    Process(StdUnixStream),
    /// This process, which is in the foreground.
    Myself {
        /// The user's command, if there is one.
        command: Option<String>,
        /// Tells the user that the disk can be used.
        tell: Box<dyn Fn(&Served)>,
    },
}

/// The launcher while the agent runs.
enum Audience {
    Process(OwnedWriteHalf),
    Myself {
        command: Option<String>,
        /// The process of the command, once it was started.
        running: Option<Pid>,
        tell: Box<dyn Fn(&Served)>,
    },
}

/// An attachment whose agent lock is held.
pub(super) struct Agent {
    job: Job,
    folder: Folder,
    held: Held,
    machine: Machine,
    inbox: Inbox,
    audience: Audience,
    worker: Option<Box<dyn Worker>>,
    clients: Clients,
    /// In the foreground, tells the user of what takes long.
    progress: Option<Progress>,
}

/// Those at the control socket who wait for an answer.
#[derive(Debug, Default)]
struct Clients {
    next: Client,
    streams: HashMap<Client, UnixStream>,
}

/// Be the agent of `job`, whose folder's agent lock is held, until the disk is gone. The folder is gone afterwards,
/// too, unless it must go on to tell of something.
pub(super) fn run(
    job: Job,
    passing: Passing,
    (folder, held): (Folder, Held),
    launcher: Launcher,
    start: &mut Start,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let refusal = Refusal::caused(&job.name, error).during("no event loop");
            if let Launcher::Process(stream) = &launcher {
                let told = FromAgent::Refused(refusal.clone().into());
                crate::attachment::send(stream, &told).unwrap_or_default();
            }
            if let Err(error) = folder.remove(&held) {
                log::warn!("folder `{}`: {error}", folder.path().display());
            }
            return Outcome::Refused(refusal);
        }
    };
    runtime.block_on(serve(job, passing, (folder, held), launcher, start))
}

/// See [`run`].
pub(super) async fn serve(
    job: Job,
    passing: Passing,
    (folder, held): (Folder, Held),
    launcher: Launcher,
    start: &mut Start,
) -> Outcome {
    let (inbox, queue) = Inbox::new();
    let audience = match Audience::of(launcher, &inbox) {
        Ok(audience) => audience,
        Err(error) => {
            log::error!("launcher: {error}");
            return Outcome::Refused(Refusal::caused(&job.name, error));
        }
    };
    let state = first_state(&job, &folder);
    let mut agent = Agent {
        machine: Machine::new(&job, state),
        job,
        folder,
        held,
        inbox,
        audience,
        worker: None,
        clients: Clients::default(),
        progress: None,
    };
    if matches!(agent.audience, Audience::Myself { .. }) && !agent.has_stdio_client() {
        agent.progress = Some(super::starting(&agent.job));
    }
    let first = match agent.start(passing, start) {
        Ok(pid) => Event::Started(pid),
        Err(refusal) => Event::NotStarted(refusal),
    };
    agent.live(first, queue).await
}

pub(super) fn first_state(job: &Job, folder: &Folder) -> State {
    State {
        name: job.name.clone(),
        phase: Phase::Starting,
        cause: None,
        plugin: job.plugin.script.clone(),
        parameters: masked(&job.plugin.parameters),
        target: job.target.clone(),
        identity: Some(job.disk.identity),
        target_is_new: job.target.front_end().is_new(),
        disk: None,
        agent_pid: std::process::id(),
        worker_pid: None,
        namespace: pydisk_kernel::mounts::namespace(),
        since: now(),
        log: job.logging.file(&folder.log()),
    }
}

impl Audience {
    fn of(launcher: Launcher, inbox: &Inbox) -> io::Result<Self> {
        let stream = match launcher {
            Launcher::Process(stream) => stream,
            Launcher::Myself { command, tell } => {
                return Ok(Self::Myself {
                    command,
                    running: None,
                    tell,
                });
            }
        };
        stream.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(stream)?.into_split();
        let inbox = inbox.clone();
        tokio::spawn(async move {
            // There is nothing else that it may say.
            let event = match wire::receive(&mut BufReader::new(from)).await {
                Ok(Some(ToAgent::Taken)) => Event::Taken,
                Ok(None) | Err(_) => Event::LauncherGone,
            };
            inbox.happened(event);
        });
        Ok(Self::Process(to))
    }
}

impl Agent {
    /// Start the worker and all that events come from; the worker's number.
    fn start(&mut self, passing: Passing, start: &mut Start) -> Result<u32, Refusal> {
        self.save().refuse("state of the attachment")?;
        sources::signals(&self.inbox).refuse("signal handlers")?;
        control::serve(&self.folder, &self.inbox).refuse("control socket")?;
        let worker =
            start(&self.job, passing, &self.inbox).refuse("the worker cannot be started")?;
        if !self.job.conduct.foreground
            && let Err(error) = std::env::set_current_dir("/")
        {
            log::debug!("folder `/`: {error}");
        }
        let pid = worker.id();
        self.worker = Some(worker);
        Ok(pid)
    }

    /// From the first event to the end.
    async fn live(mut self, first: Event, mut queue: Queue) -> Outcome {
        let mut event = first;
        loop {
            let mut answers = VecDeque::from([event]);
            // What an action answers at once is looked at before anything else that has happened.
            while let Some(event) = answers.pop_front() {
                for action in self.machine.step(event, Clock::now().into_std()) {
                    answers.extend(self.act(action).await);
                }
            }
            if let Some(outcome) = self.machine.outcome() {
                return outcome.clone();
            }
            event = self.next(&mut queue).await;
        }
    }

    /// The next event.
    async fn next(&mut self, queue: &mut Queue) -> Event {
        let input = queue.next(self.machine.deadline()).await;
        match input {
            Some(Input::Event(event)) => event,
            Some(Input::Detach {
                stream,
                force,
                unstored,
            }) => Event::Detach {
                client: self.clients.add(stream),
                force,
                unstored,
            },
            None => Event::Tick,
        }
    }

    /// Do this; what it answers, if that is known at once.
    async fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Log(level, line) => log::log!(level, "{line}"),
            Action::Save => {
                if let Err(error) = self.save() {
                    log::warn!("state of the attachment: {error}");
                }
            }
            Action::Publish(served) => return Some(Event::Published(self.publish(&served).await)),
            Action::TellLauncher(message) => {
                if let Err(error) = self.tell_launcher(&message).await {
                    log::debug!("the launcher is gone: {error}");
                }
            }
            Action::TellUser(step) => {
                if let Some(progress) = &self.progress {
                    progress.goes_on(step);
                }
            }
            Action::TellUserOfEnd => self.tell_user_of_end(),
            Action::UserKnows => self.progress = None,
            Action::Answer(client, answer) => self.clients.answer(client, &answer).await,
            Action::StopWorker => self.worker.iter().for_each(|worker| worker.stop()),
            Action::KillWorker => self.worker.iter_mut().for_each(|worker| worker.kill()),
            Action::KillGroup => self.worker.iter().for_each(|worker| worker.kill_group()),
            Action::Reap => {
                return self
                    .worker
                    .as_mut()
                    .map(|worker| Event::Reaped(worker.reap()));
            }
            Action::Locate => self.locate(),
            Action::Store(disk, patience) => {
                let folder = self.folder.clone();
                return self.store(move || storing::store(&disk, &folder, patience));
            }
            Action::Release => {
                let (state, folder) = (self.machine.state().clone(), self.folder.clone());
                return self.store(move || release(&state, &folder));
            }
            Action::EndCommand => {
                if let Audience::Myself {
                    running: Some(command),
                    ..
                } = self.audience
                {
                    command::end(command);
                }
            }
            Action::Examine => {
                let fails = leftovers::fails(self.machine.state(), &self.folder);
                // Behind whatever has happened by now: somebody may want the disk to go.
                self.inbox.happened(Event::Fails(fails));
            }
            Action::RemoveLeftovers => return self.remove_leftovers(),
            Action::KeepLog => keep_log(&self.folder),
            Action::RemoveFolder => {
                if let Err(error) = self.folder.remove(&self.held) {
                    log::warn!("folder `{}`: {error}", self.folder.path().display());
                }
            }
        }
        None
    }

    fn save(&self) -> io::Result<()> {
        self.machine.state().write(&self.folder)
    }

    async fn publish(&mut self, served: &Served) -> Published {
        let result = self.tell_of(served).await;
        let (taken, command) = match &self.audience {
            Audience::Myself { running, .. } => (true, running.is_some()),
            Audience::Process(_) => (false, false),
        };
        Published {
            taken,
            command,
            result: result.refuse(&self.job.name),
        }
    }

    async fn tell_of(&mut self, served: &Served) -> io::Result<()> {
        self.save()?;
        let log = self.job.logging.open(&self.folder.log())?;
        self.job.conduct.write_pid_file()?;
        match &mut self.audience {
            Audience::Process(to) => {
                log_to(&self.folder, log)?;
                wire::send(to, &FromAgent::Ready(served.clone())).await?;
            }
            Audience::Myself {
                command,
                running,
                tell,
            } => {
                tell(served);
                if let Some(command) = command {
                    let started = command::run(command, &self.job, served, &self.inbox)?;
                    *running = Some(started);
                }
                log_to(&self.folder, log)?;
            }
        }
        Ok(())
    }

    async fn tell_launcher(&mut self, message: &FromAgent) -> io::Result<()> {
        match &mut self.audience {
            // One that does not listen is not waited for.
            Audience::Process(to) => {
                timeout(patience::CLIENT.get(), wire::send(to, message)).await?
            }
            Audience::Myself { .. } => Ok(()),
        }
    }

    /// Whether standard input and output, and under inetd standard error, are a client.
    fn has_stdio_client(&self) -> bool {
        self.job.target.front_end().uses_stdio()
    }

    /// Tell the user in the foreground of what the end waits for.
    fn tell_user_of_end(&mut self) {
        let to_user = self.job.logging.sink == Sink::StandardError && !self.has_stdio_client();
        if !self.job.conduct.foreground || !to_user {
            return;
        }
        let (name, quiet) = (&self.job.name, self.job.logging.quiet);
        let seconds = patience::SIGNAL.get().as_secs();
        let hint = format!("; Ctrl-C gives it {seconds} s more");
        self.progress = Some(Progress::told(name, quiet, Step::Requests, hint));
    }

    /// In a thread, because it may not answer.
    fn locate(&self) {
        let folder = self.folder.clone();
        let asked = self
            .inbox
            .in_thread("asks-worker", move || Event::Hangs(hung_at(&folder)));
        if let Err(error) = asked {
            log::debug!("the worker is not asked where it is: {error}");
        }
    }

    /// Do `work` in a thread, which gives what could not be stored.
    fn store(&self, work: impl FnOnce() -> Vec<Refusal> + Send + 'static) -> Option<Event> {
        let started = self
            .inbox
            .in_thread("before-stop", || Event::Stored(work()));
        let error = started.err()?;
        let refusal = Refusal::caused(&self.job.name, error).during("nothing was stored");
        Some(Event::Stored(vec![refusal]))
    }

    /// In a thread, because the kernel may wait for a device as long as it likes.
    fn remove_leftovers(&self) -> Option<Event> {
        let (state, folder) = (self.machine.state().clone(), self.folder.clone());
        let started = self.inbox.in_thread("leftovers", move || {
            Event::Removed(leftovers::remove(&state, &folder))
        });
        let error = started.err()?;
        let refusal = Refusal::caused(&self.job.name, error);
        Some(Event::Removed(Err(refusal)))
    }
}

/// Log to where the job wants it from here on.
fn log_to(folder: &Folder, log: logging::Opened) -> io::Result<()> {
    log.take_over()?;
    sources::limit_log(&folder.log());
    Ok(())
}

/// Store what lies on the disk of a user's command that has ended.
fn release(state: &State, folder: &Folder) -> Vec<Refusal> {
    let Some(disk) = &state.disk else {
        return Vec::new();
    };
    // Not all are seen: memory that was mapped keeps no descriptor.
    if let Some(users) = inuse::users(state, folder) {
        log::warn!("{users}; it is stored and removed all the same");
    }
    // Nobody waits but for what is written, as in a plain detach.
    storing::store(disk, folder, patience::DETACH.get() / 2)
}

impl Clients {
    fn add(&mut self, stream: UnixStream) -> Client {
        self.next += 1;
        self.streams.insert(self.next, stream);
        self.next
    }

    /// One that does not listen is not waited for. After a last answer the stream ends.
    async fn answer(&mut self, client: Client, answer: &Answer) {
        let Some(mut stream) = self.streams.remove(&client) else {
            return;
        };
        let sent = timeout(patience::CLIENT.get(), wire::send(&mut stream, answer)).await;
        match sent.unwrap_or_else(|late| Err(late.into())) {
            Ok(()) if matches!(answer, Answer::Doing(_)) => {
                self.streams.insert(client, stream);
            }
            Ok(()) => {}
            Err(error) => log::debug!("control: the client is gone: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
