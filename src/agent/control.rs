//! The control socket: how `pydisk detach` reaches the agent of an attachment.
//!
//! It lies in the attachment's folder with mode 0600.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::inuse;
use super::supervise::Event;
use crate::Refusal;
use crate::attachment::{
    Answer, Ask, CONTROL, Folder, Holder, Phase, Receiver, Role, State, Step, patience, send,
};

/// Make the socket and answer on it until the process ends.
pub(super) fn serve(folder: &Folder, events: &Sender<Event>) -> io::Result<()> {
    let (_open, address) = folder.address(CONTROL)?;
    let listener = UnixListener::bind(address)?;
    fs::set_permissions(folder.control(), Permissions::from_mode(0o600))?;
    let (folder, events) = (folder.clone(), events.clone());
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    // Out of descriptors or memory: do not spin.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                let (folder, events) = (folder.clone(), events.clone());
                let started = thread::Builder::new()
                    .name("control-one".into())
                    .spawn(move || {
                        if let Err(error) = converse(stream, &folder, &events) {
                            log::debug!("control: {error}");
                        }
                    });
                if let Err(error) = started {
                    log::warn!("control: no thread for a question: {error}");
                }
            }
        })?;
    Ok(())
}

/// Ask the agent of an attachment, and wait for the answer for `patience`, or as long again whenever it is `doing`
/// something else.
///
/// # Errors
/// `ConnectionRefused` or `NotFound` if there is no agent, `TimedOut` if it does not answer, others
/// if it ends meanwhile.
pub fn ask(
    folder: &Folder,
    ask: Ask,
    patience: Duration,
    doing: impl Fn(Step),
) -> io::Result<Answer> {
    let (_open, address) = folder.address(CONTROL)?;
    let stream = UnixStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience::CLIENT.get()))?;
    send(&stream, &ask)?;
    let mut receiver = Receiver::of(&stream)?;
    loop {
        return match receiver.receive() {
            Ok(Some(Answer::Doing(step))) => {
                doing(step);
                continue;
            }
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(error) => Err(error),
        };
    }
}

/// Whether there is an agent behind the socket.
#[must_use]
pub fn listens(folder: &Folder) -> bool {
    folder
        .address(CONTROL)
        .is_ok_and(|(_open, address)| UnixStream::connect(address).is_ok())
}

fn converse(stream: UnixStream, folder: &Folder, events: &Sender<Event>) -> io::Result<()> {
    stream.set_read_timeout(Some(patience::CLIENT.get()))?;
    stream.set_write_timeout(Some(patience::CLIENT.get()))?;
    let Some(Ask::Detach { force }) = Receiver::of(&stream)?.receive()? else {
        return Ok(());
    };
    let unstored = match may_detach(folder, force) {
        Ok(unstored) => unstored,
        Err(refusal) => return send(&stream, &Answer::Refused(refusal.into())),
    };
    // If the agent has ended meanwhile, the client sees the stream end.
    events
        .send(Event::Detach {
            stream,
            force,
            unstored,
        })
        .unwrap_or_default();
    Ok(())
}

/// Refuse what would take a disk away from its users; with `force`, store what can be stored, and give
/// what cannot.
fn may_detach(folder: &Folder, force: bool) -> Result<Vec<Refusal>, Refusal> {
    let state = match State::read(folder) {
        Ok(state) => state,
        // The agent has removed it just now: it is about to end.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let place = folder.state();
            return Err(Refusal::new(format!("{}: {error}", place.display())));
        }
    };
    match state.phase {
        // It has died just now: whoever has its disk open cannot use it.
        Phase::Attached if folder.holder(Role::Worker) == Holder::Nobody => Ok(Vec::new()),
        Phase::Attached => inuse::clear(&state, folder, force),
        Phase::Starting if !force => Err(Refusal::new(format!(
            "{}: it is still being attached",
            state.name
        ))
        .hint("wait for it, or use --force")),
        Phase::Starting | Phase::Stopping | Phase::Crashed => Ok(Vec::new()),
    }
}
