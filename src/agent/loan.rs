//! A disk for as long as this process needs it: its agent runs in the background, and gives the disk up
//! when this process ends, however that happens.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Launched;
use super::control::ask;
use crate::attachment::{Answer, Ask, Folder, Job, Passing, Served, kept_log, patience};
use crate::{Refusal, ResultExt};

/// A disk that is there until it is given back.
#[derive(Debug)]
pub struct Loan {
    agent: Launched,
    folder: Folder,
    served: Served,
}

/// Takes back what is on loan, from another thread and for good.
#[derive(Debug, Default)]
pub struct Recall {
    recalled: AtomicBool,
    /// The agent's launcher, as the agent sees it.
    stream: Mutex<Option<UnixStream>>,
}

impl Recall {
    /// Let the disk go, whatever its plugin does; who waits for it sees errors.
    pub fn now(&self) {
        let stream = self.stream.lock();
        self.recalled.store(true, Ordering::Release);
        if let Some(stream) = &*stream {
            // Gone already is as good.
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }

    /// Whether that was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.recalled.load(Ordering::Acquire)
    }

    fn watch(&self, agent: &Launched) -> io::Result<()> {
        let mut stream = self.stream.lock();
        *stream = Some(agent.stream.try_clone()?);
        if self.recalled.load(Ordering::Acquire) {
            agent.stream.shutdown(Shutdown::Both)?;
        }
        Ok(())
    }
}

impl Loan {
    /// Attach the disk of `job`, whose folder is reserved.
    ///
    /// # Errors
    /// One sentence; nothing is attached then.
    pub fn take(job: &Job, recall: &Recall) -> Result<Self, Refusal> {
        let mut agent = Launched::start(Passing::default())?;
        let watched = recall.watch(&agent);
        let served = watched
            .refuse(&job.name)
            .and_then(|()| agent.served(job, &super::starting(job)));
        if served.is_err() {
            recall.stream.lock().take();
        }
        Ok(Self {
            served: served?,
            agent,
            folder: Folder::at(job.folder.clone()),
        })
    }

    /// Where the disk is.
    #[must_use]
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Give the disk back. It is gone afterwards.
    ///
    /// # Errors
    /// One sentence: what went wrong at its end, or the last of its life.
    pub fn give_back(mut self, recall: &Recall) -> Result<(), Refusal> {
        let asked = self.ask_until_nobody_else_uses_it();
        recall.stream.lock().take();
        // Whatever it answered: an agent without its launcher goes.
        self.agent
            .stream
            .shutdown(Shutdown::Both)
            .unwrap_or_default();
        let ended = self.agent.process.wait();
        match (asked, ended) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), Ok(status)) if status.success() => Ok(()),
            // It said why in its log, or it was told to by a signal.
            (Ok(()), Ok(_)) => Err(self.last_words()),
            (Ok(()), Err(error)) => Err(Refusal::caused(self.folder.name(), error)),
        }
    }

    fn ask_until_nobody_else_uses_it(&mut self) -> Result<(), Refusal> {
        let until = Instant::now() + patience::OTHERS.get();
        loop {
            let force = Instant::now() >= until;
            match ask(
                &self.folder,
                Ask::Detach { force },
                patience::DETACH.get() * 2,
                |_| (),
            ) {
                Ok(Answer::Done(None) | Answer::Doing(_)) => return Ok(()),
                Ok(Answer::Done(Some(told))) => return Err(told.into()),
                Ok(Answer::Unstored(all)) => {
                    return all
                        .into_iter()
                        .next()
                        .map_or(Ok(()), |told| Err(told.into()));
                }
                Ok(Answer::Refused(told)) => {
                    thread::sleep(Duration::from_millis(50));
                    let gone = self.agent.process.try_wait().is_ok_and(|end| end.is_some());
                    if gone {
                        // Whatever it could not tell: its status and its log do.
                        return Ok(());
                    }
                    if force {
                        return Err(told.into());
                    }
                }
                // It has ended already; its status tells more.
                Err(_) => return Ok(()),
            }
        }
    }

    /// Why the disk was lost.
    fn last_words(&self) -> Refusal {
        let log = kept_log(&self.folder);
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let line = text.lines().rev().find(|line| line.contains(": error: "));
        let what = line.map_or("the disk was lost", |line| {
            line.rsplit(": error: ").next().unwrap_or(line)
        });
        Refusal::about(self.folder.name(), what).hint(format!("`{}` has all of it", log.display()))
    }
}
