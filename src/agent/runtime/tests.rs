//! An agent with a worker that is a task of the test: it speaks the protocol, and can end, hang and be killed as a
//! process can. The clock stands still until a test moves it on.

use std::future::{Future, pending};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet, spawn, spawn_local, yield_now};
use tokio::time::advance;

use super::*;
use crate::agent::testing::{job, served};
use crate::agent::worker_process::converse;
use crate::attachment::{Ask, CONTROL, FromWorker, Role, ToWorker};
use crate::frontends::Endpoint;

/// The worker's end of its socket.
struct Wire(BufReader<DuplexStream>);

impl Wire {
    async fn say(&mut self, message: FromWorker) {
        wire::send(self.0.get_mut(), &message).await.unwrap();
    }

    /// From the job to a disk that can be used.
    async fn serve(&mut self, disk: Served) {
        let job: Job = wire::receive(&mut self.0).await.unwrap().unwrap();
        assert_eq!(job.name, "x");
        self.say(FromWorker::Doing(Step::Open)).await;
        self.say(FromWorker::Starting).await;
        self.say(FromWorker::Ready(disk)).await;
    }

    async fn told_to_stop(&mut self) {
        let command = wire::receive(&mut self.0).await.unwrap();
        assert!(matches!(command, Some(ToWorker::Stop)), "{command:?}");
    }
}

type Plot = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A worker without a process.
#[derive(Debug)]
struct Fake {
    life: AbortHandle,
    commands: mpsc::UnboundedSender<ToWorker>,
    killed: Arc<AtomicBool>,
}

impl Fake {
    fn start(plot: Plot, agents: DuplexStream, job: &Job, inbox: &Inbox) -> Box<dyn Worker> {
        let commands = converse(agents, job.clone(), inbox);
        let life = spawn(plot);
        let handle = life.abort_handle();
        let inbox = inbox.clone();
        spawn(async move {
            life.await.unwrap_or_default();
            inbox.happened(Event::Ended);
        });
        Box::new(Self {
            life: handle,
            commands,
            killed: Arc::default(),
        })
    }
}

impl Worker for Fake {
    fn id(&self) -> u32 {
        4711
    }

    fn stop(&self) {
        self.commands.send(ToWorker::Stop).unwrap_or_default();
    }

    fn kill(&mut self) {
        self.killed.store(true, Ordering::Relaxed);
        self.life.abort();
    }

    fn kill_group(&self) {}

    fn reap(&mut self) -> String {
        match self.killed.load(Ordering::Relaxed) {
            true => "the worker was killed by SIGKILL".into(),
            false => "the worker exited with status 1".into(),
        }
    }
}

/// An agent, and the test at all its other ends.
struct Trial {
    folder: Folder,
    launcher: BufReader<UnixStream>,
    ended: oneshot::Receiver<Outcome>,
}

impl Trial {
    /// Start the agent of a server at this socket. What `plot` does is the worker's life.
    fn start(socket: &Path, plot: Plotter) -> Self {
        let path = socket.with_file_name("x");
        std::fs::create_dir(&path).unwrap();
        let mut job = job(&path, &disk(socket).at.to_string());
        // Nothing of the process that the test may share with others is changed.
        job.conduct.foreground = true;
        job.logging.sink = Sink::StandardError;
        let folder = Folder::at(path);
        let held = folder.hold(Role::Agent).unwrap();
        let (mine, agents) = StdUnixStream::pair().unwrap();
        mine.set_nonblocking(true).unwrap();
        let (workers, worker) = duplex(1 << 16);
        let plot = plot(Wire(BufReader::new(workers)), disk(socket));
        let place = (folder.clone(), held);
        let mut fake = Some((plot, worker));
        let (end, ended) = oneshot::channel();
        spawn_local(async move {
            let mut start = move |job: &Job, _: Passing, inbox: &Inbox| {
                let (plot, stream) = fake.take().expect("it is started once");
                Ok(Fake::start(plot, stream, job, inbox))
            };
            let launcher = Launcher::Process(agents);
            let outcome = serve(job, Passing::default(), place, launcher, &mut start);
            end.send(outcome.await).unwrap();
        });
        Self {
            folder,
            launcher: BufReader::new(UnixStream::from_std(mine).unwrap()),
            ended,
        }
    }

    /// What the launcher is told in the end.
    async fn launched(&mut self) -> Result<Served, Refusal> {
        loop {
            match wire::receive(&mut self.launcher).await.unwrap() {
                Some(FromAgent::Doing(_)) => {}
                Some(FromAgent::Ready(served)) => return Ok(served),
                Some(FromAgent::Refused(told)) => return Err(told.into()),
                None => panic!("the agent has ended without a word"),
            }
        }
    }

    /// The disk can be used, and the launcher has passed that on.
    async fn attached(&mut self) {
        self.launched().await.unwrap();
        wire::send(self.launcher.get_mut(), &ToAgent::Taken)
            .await
            .unwrap();
    }

    async fn detach(&self, force: bool) -> BufReader<UnixStream> {
        let (_open, address) = self.folder.address(CONTROL).unwrap();
        let mut stream = UnixStream::connect(address).await.unwrap();
        wire::send(&mut stream, &Ask::Detach { force })
            .await
            .unwrap();
        BufReader::new(stream)
    }

    /// Until the worker was told to stop. Those who ask from then on hear what is waited for.
    async fn stopping(&self) {
        while State::read(&self.folder).unwrap().phase != Phase::Stopping {
            yield_now().await;
        }
    }

    async fn outcome(self) -> Outcome {
        let outcome = self.ended.await.unwrap();
        assert!(!self.folder.path().exists());
        outcome
    }
}

/// What a client is told in the end.
async fn answered(client: &mut BufReader<UnixStream>) -> Answer {
    loop {
        match wire::receive(client).await.unwrap() {
            Some(Answer::Doing(_)) => {}
            Some(answer) => return answer,
            None => panic!("the agent has ended without an answer"),
        }
    }
}

fn disk(socket: &Path) -> Served {
    served(Endpoint::Server {
        uri: format!("nbd+unix:///?socket={}", socket.display()),
        unix_socket: Some(socket.to_owned()),
    })
}

/// Makes a worker's life from its end of the socket and the disk that it serves.
type Plotter = fn(Wire, Served) -> Plot;

/// Try an agent whose worker lives like this.
fn with_worker<F: Future<Output = ()>>(plot: Plotter, user: impl FnOnce(Trial) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("sock");
    // The clock would run on whenever nothing but time is waited for, but not while something runs beside.
    let (over, wait) = oneshot::channel::<()>();
    let beside = runtime.spawn_blocking(|| wait.blocking_recv().unwrap_or_default());
    LocalSet::new().block_on(&runtime, async {
        user(Trial::start(&socket, plot)).await;
    });
    drop(over);
    runtime.block_on(beside).unwrap();
}

/// Serves until it is told to stop, and does.
fn well_behaved(mut wire: Wire, disk: Served) -> Plot {
    Box::pin(async move {
        wire.serve(disk).await;
        wire.told_to_stop().await;
        wire.say(FromWorker::Doing(Step::Flush)).await;
        wire.say(FromWorker::Stopped(None)).await;
    })
}

/// Serves, and hangs when it is told to stop.
fn hanging(mut wire: Wire, disk: Served) -> Plot {
    Box::pin(async move {
        wire.serve(disk).await;
        wire.told_to_stop().await;
        pending::<()>().await;
    })
}

#[test]
fn a_disk_is_served_and_detached() {
    with_worker(well_behaved, async |mut trial| {
        trial.attached().await;
        let state = State::read(&trial.folder).unwrap();
        assert_eq!(
            (state.phase, state.worker_pid),
            (Phase::Attached, Some(4711))
        );
        let mut client = trial.detach(false).await;
        assert!(matches!(answered(&mut client).await, Answer::Done(None)));
        assert_eq!(trial.outcome().await, Outcome::Stopped);
    });
}

#[test]
fn a_refusal_reaches_the_launcher() {
    fn refuses(mut wire: Wire, _disk: Served) -> Plot {
        Box::pin(async move {
            let refusal = Refusal::new("x: no such disk").hint("look for it");
            wire.say(FromWorker::Refused(refusal.into())).await;
        })
    }
    with_worker(refuses, async |mut trial| {
        let refusal = trial.launched().await.unwrap_err();
        assert_eq!(refusal.to_string(), "x: no such disk\nhint: look for it");
        assert_eq!(trial.outcome().await, Outcome::Refused(refusal));
    });
}

#[test]
fn a_crash_while_it_is_loaded_reaches_the_launcher() {
    fn crashes(wire: Wire, _disk: Served) -> Plot {
        Box::pin(async move { drop(wire) })
    }
    with_worker(crashes, async |mut trial| {
        let refusal = trial.launched().await.unwrap_err();
        assert_eq!(refusal.to_string(), "x: the worker exited with status 1");
        drop(trial.outcome().await);
    });
}

#[test]
fn a_crash_while_it_serves_is_a_failure() {
    fn crashes(mut wire: Wire, disk: Served) -> Plot {
        Box::pin(async move {
            wire.serve(disk).await;
            // Something that is no message is the last that is taken.
            wire.0.get_mut().write_all(b"{\n").await.unwrap();
        })
    }
    with_worker(crashes, async |mut trial| {
        trial.attached().await;
        let failed = Refusal::about("x", "the worker exited with status 1");
        assert_eq!(trial.outcome().await, Outcome::Failed(failed));
    });
}

#[test]
fn a_worker_that_hangs_is_killed_by_force() {
    with_worker(hanging, async |mut trial| {
        trial.attached().await;
        let mut client = trial.detach(true).await;
        trial.stopping().await;
        let mut second = trial.detach(false).await;
        let waits = wire::receive(&mut second).await.unwrap();
        assert!(matches!(waits, Some(Answer::Doing(_))), "{waits:?}");
        advance(patience::FORCE.get()).await;
        let what = "the plugin did not stop in time and was killed; what it had not stored is lost";
        let Answer::Unstored(told) = answered(&mut client).await else {
            panic!("nothing was lost");
        };
        let told = told.into_iter().map(Refusal::from);
        assert_eq!(told.collect::<Vec<_>>(), [Refusal::about("x", what)]);
        assert!(matches!(answered(&mut second).await, Answer::Refused(_)));
        assert_eq!(
            trial.outcome().await,
            Outcome::Failed(Refusal::about("x", what))
        );
    });
}

#[test]
fn a_plain_detach_gives_up_on_a_plugin_that_hangs() {
    with_worker(hanging, async |mut trial| {
        trial.attached().await;
        let mut client = trial.detach(false).await;
        trial.stopping().await;
        let mut second = trial.detach(false).await;
        wire::receive::<Answer>(&mut second).await.unwrap();
        advance(patience::DETACH.get()).await;
        for client in [&mut client, &mut second] {
            let Answer::Refused(told) = answered(client).await else {
                panic!("it hangs");
            };
            let words = Refusal::from(told).to_string();
            assert!(words.contains("has not finished after 60 s"), "{words}");
        }
        // It is still there.
        let mut third = trial.detach(true).await;
        wire::receive::<Answer>(&mut third).await.unwrap();
        advance(patience::FORCE.get()).await;
        assert!(matches!(answered(&mut third).await, Answer::Unstored(_)));
        drop(trial.outcome().await);
    });
}

#[test]
fn a_launcher_that_goes_takes_the_disk_with_it() {
    with_worker(well_behaved, async |mut trial| {
        trial.launched().await.unwrap();
        let Trial {
            folder,
            launcher,
            ended,
        } = trial;
        drop(launcher);
        assert_eq!(ended.await.unwrap(), Outcome::Stopped);
        assert!(!folder.path().exists());
    });
}

#[test]
fn a_client_that_asks_nothing_or_nonsense_changes_nothing() {
    with_worker(well_behaved, async |mut trial| {
        trial.attached().await;
        let (_open, address) = trial.folder.address(CONTROL).unwrap();
        let silent = UnixStream::connect(&address).await.unwrap();
        let mut rude = UnixStream::connect(&address).await.unwrap();
        rude.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        rude.read_to_end(&mut said).await.unwrap_or_default();
        assert_eq!(said, b"");
        advance(patience::CLIENT.get()).await;
        drop(silent);
        let mut client = trial.detach(false).await;
        assert!(matches!(answered(&mut client).await, Answer::Done(None)));
        drop(trial.outcome().await);
    });
}
