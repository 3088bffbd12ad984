//! Detaching where there is no agent to ask: it was killed, or it does not answer. The worker goes
//! on serving without it and still stops cleanly at a signal.

use std::os::fd::OwnedFd;
use std::time::Duration;

use pydisk_kernel::proc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::inuse;
use super::leftovers::tidying;
use crate::Refusal;
use crate::attachment::{
    Folder, Holder, Phase, Role, State, ended_well, hung_at, kept_log, patience,
};

/// End the processes of an attachment: cleanly, or with `force` whatever it takes. What they leave
/// behind is for [`super::sweep`]. Gives what could not be stored, a sentence for each thing.
///
/// # Errors
/// One sentence: the device is in use, or the plugin does not stop.
pub fn detach(folder: &Folder, force: bool) -> Result<Vec<Refusal>, Refusal> {
    let name = folder.name();
    let state = State::read(folder).ok();
    let served = holder(folder, Role::Worker)?.is_some();
    // That of a crashed attachment is told by the command that removes it.
    let noted = |state: &State| state.phase == Phase::Crashed;
    let died = !served && ended_badly(folder) && !state.as_ref().is_some_and(noted);
    let mut unstored = match &state {
        // Whoever has open what a dead worker left cannot use it.
        Some(state) if served => inuse::clear(state, folder, force)?,
        _ => Vec::new(),
    };
    let mut killed = false;
    let mut hung = String::new();
    if force {
        // An agent that hangs would take the worker's end for a crash; it is out of the way first.
        if has_its_agent(folder, state.as_ref())? {
            end(folder, Role::Agent, Signal::KILL, patience::FORCE.get())?;
        }
        end(folder, Role::Launch, Signal::KILL, patience::FORCE.get())?;
        killed = !end(folder, Role::Worker, Signal::TERM, patience::FORCE.get())?;
        if killed {
            hung = hung_at(folder);
        }
        if killed && !end(folder, Role::Worker, Signal::KILL, patience::FORCE.get())? {
            return Err(Refusal::about(
                &name,
                "the worker was killed and does not end",
            ));
        }
    } else if !end(folder, Role::Worker, Signal::TERM, patience::DETACH.get())? {
        return Err(Refusal::about(
            &name,
            format_args!(
                "the plugin has not finished after {} s; it goes on stopping",
                patience::DETACH.get().as_secs()
            ),
        )
        .hint(format!(
            "`pydisk detach --force {name}` ends it, whatever it has not stored yet"
        )));
    }
    if state.is_some_and(|state| state.is_writable())
        && (died || served && (killed || ended_badly(folder)))
    {
        let how = match (died, hung.is_empty()) {
            (true, _) => "had died".to_owned(),
            (false, true) => "did not stop as it should".to_owned(),
            (false, false) => format!("did not stop as it should and was killed{hung}"),
        };
        unstored.push(
            Refusal::about(
                &name,
                format_args!("its worker {how}; what it had not stored is lost"),
            )
            .hint(format!("its log is {}", kept_log(folder).display())),
        );
    }
    Ok(unstored)
}

/// Whether the process that has the role of the agent is that. Commands have it as well, while they remove what an
/// attachment left that nobody looks after.
fn has_its_agent(folder: &Folder, state: Option<&State>) -> Result<bool, Refusal> {
    let Some(state) = state else {
        return Ok(true);
    };
    let found = holder(folder, Role::Agent)?;
    Ok(found
        .is_some_and(|(pid, _)| proc::own_number(pid.as_raw_nonzero()) == Some(state.agent_pid)))
}

/// Whether a worker that has ended just now may have left something unstored. Somebody else may have
/// removed its folder by now, but keeps the log then.
fn ended_badly(folder: &Folder) -> bool {
    folder.path().exists() && !ended_well(folder)
}

/// Send `signal` to whoever holds `role` and wait for its end; whether nobody holds it any more.
fn end(folder: &Folder, role: Role, signal: Signal, patience: Duration) -> Result<bool, Refusal> {
    let Some((pid, process)) = holder(folder, role)? else {
        return Ok(true);
    };
    match pidfd_send_signal(&process, signal) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(Refusal::caused(folder.name(), error)),
    }
    let patience = Timespec::try_from(patience).unwrap_or_default();
    let mut ready = [PollFd::new(&process, PollFlags::IN)];
    loop {
        match poll(&mut ready, Some(&patience)) {
            Ok(0) => {
                log::debug!("process {} has not ended", pid.as_raw_nonzero());
                return Ok(false);
            }
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Refusal::caused(folder.name(), error)),
        }
    }
}

/// The process that holds `role`, by a descriptor that no other process can come to stand for.
fn holder(folder: &Folder, role: Role) -> Result<Option<(Pid, OwnedFd)>, Refusal> {
    let name = folder.name();
    // Whoever is asked here may be held by another thread, which removes what is left of it.
    let _tidying = tidying();
    let pid = match folder.holder(role) {
        Holder::Nobody => return Ok(None),
        Holder::Process(pid) => pid,
        Holder::Foreign => {
            return Err(Refusal::about(
                &name,
                "its processes run in another process namespace",
            ));
        }
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => {
            return Err(Refusal::caused(&name, error)
                .during(format_args!("process {}", pid.as_raw_nonzero())));
        }
    };
    // Still the holder, so the descriptor stands for it and not for a later process of that number.
    let same = folder.holder(role) == Holder::Process(pid);
    Ok(same.then_some((pid, process)))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// An attachment that was served, whose agent knew itself by this number.
    fn attached(folder: &Folder, agent_pid: u32) {
        let state = format!(
            r#"{{"name": "x", "phase": "attached", "plugin": "/x.py", "parameters": [],
            "target": {{"file": "/nowhere/x.img"}}, "target_is_new": false, "agent_pid": {agent_pid},
            "disk": {{"at": {{"device": "/nowhere/x.img"}}, "front_end": "fuse", "size": 512,
                "read_only": false, "parallel": false}},
            "worker_pid": 1, "since": 3, "log": null}}"#
        );
        State::parse(state.as_bytes())
            .unwrap()
            .write(folder)
            .unwrap();
    }

    /// Another process that has the role of the agent.
    fn agent_of(folder: &Folder) -> Child {
        let script = "import fcntl, sys, time; lock = open(sys.argv[1], 'w'); fcntl.lockf(lock, \
                      fcntl.LOCK_EX); print(flush=True); time.sleep(600)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(folder.path().join("agent.lock"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        child
    }

    #[test]
    fn only_the_agent_itself_is_killed() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().to_owned());
        let mut other = agent_of(&folder);
        attached(&folder, 1);
        detach(&folder, true).unwrap();
        assert_eq!(other.try_wait().unwrap(), None, "it only looked");
        attached(&folder, other.id());
        detach(&folder, true).unwrap();
        assert!(!other.wait().unwrap().success(), "it was killed");
    }

    #[test]
    fn what_a_dead_worker_lost_is_told() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().to_owned());
        attached(&folder, 1);
        for force in [false, true] {
            let lost = detach(&folder, force).unwrap();
            let [lost] = &*lost else {
                panic!("{lost:?}");
            };
            let lost = lost.to_string();
            let words = ": its worker had died; what it had not stored is lost";
            assert!(lost.contains(words), "{lost}");
        }
        crate::attachment::note_good_end(&folder).unwrap();
        assert_eq!(detach(&folder, true).unwrap(), Vec::new());
    }
}
