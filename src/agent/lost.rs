//! Detaching where there is no agent to ask: it was killed, or it does not answer. The worker goes
//! on serving without it and still stops cleanly at a signal.

use std::os::fd::OwnedFd;
use std::time::Duration;

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
    let mut unstored = match &state {
        // Whoever has open what a dead worker left cannot use it.
        Some(state) if served => inuse::clear(state, folder, force)?,
        _ => Vec::new(),
    };
    let mut killed = false;
    let mut hung = String::new();
    if force {
        // An agent that hangs would take the worker's end for a crash; it is out of the way first.
        if is_its_agent(folder, state.as_ref())? {
            end(folder, Role::Agent, Signal::KILL, patience::FORCE)?;
        }
        end(folder, Role::Launch, Signal::KILL, patience::FORCE)?;
        killed = !end(folder, Role::Worker, Signal::TERM, patience::FORCE)?;
        if killed {
            hung = hung_at(folder);
        }
        if killed && !end(folder, Role::Worker, Signal::KILL, patience::FORCE)? {
            return Err(Refusal::new(format!(
                "{name}: the worker was killed and does not end"
            )));
        }
    } else if !end(folder, Role::Worker, Signal::TERM, patience::DETACH)? {
        return Err(Refusal::new(format!(
            "{name}: the plugin has not finished after {} s; it goes on stopping",
            patience::DETACH.as_secs()
        ))
        .hint(format!(
            "`pydisk detach --force {name}` ends it, whatever it has not stored yet"
        )));
    }
    if served && state.is_some_and(|state| state.is_writable()) && (killed || ended_badly(folder)) {
        unstored.push(
            Refusal::new(format!(
                "{name}: its worker did not stop as it should{}; what it had not stored is lost",
                if hung.is_empty() {
                    hung
                } else {
                    format!(" and was killed{hung}")
                }
            ))
            .hint(format!("its log is {}", kept_log(folder).display())),
        );
    }
    Ok(unstored)
}

/// Whether whoever holds the role of the agent is that. What a crashed attachment left is held by commands,
/// too, while they look at it.
fn is_its_agent(folder: &Folder, state: Option<&State>) -> Result<bool, Refusal> {
    let Some(state) = state.filter(|state| state.phase == Phase::Crashed) else {
        return Ok(true);
    };
    let found = holder(folder, Role::Agent)?;
    Ok(found.is_some_and(|(pid, _)| {
        u32::try_from(pid.as_raw_nonzero().get()).is_ok_and(|pid| pid == state.agent_pid)
    }))
}

/// Whether a worker that has ended just now may have left something unstored. Somebody else may have
/// removed its folder by now, but keeps the log then.
fn ended_badly(folder: &Folder) -> bool {
    folder.path().exists() && !ended_well(folder)
}

/// Send `signal` to whoever holds `role` and wait for its end; whether nobody holds it any more.
fn end(folder: &Folder, role: Role, signal: Signal, patience: Duration) -> Result<bool, Refusal> {
    let failed = |error: rustix::io::Errno| Refusal::new(format!("{}: {error}", folder.name()));
    let Some((pid, process)) = holder(folder, role)? else {
        return Ok(true);
    };
    match pidfd_send_signal(&process, signal) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(failed(error)),
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
            Err(error) => return Err(failed(error)),
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
            return Err(Refusal::new(format!(
                "{name}: its processes run in another process namespace"
            )));
        }
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => {
            return Err(Refusal::new(format!(
                "{name}: process {}: {error}",
                pid.as_raw_nonzero()
            )));
        }
    };
    // Still the holder, so the descriptor stands for it and not for a later process of that number.
    let same = folder.holder(role) == Holder::Process(pid);
    Ok(same.then_some((pid, process)))
}
