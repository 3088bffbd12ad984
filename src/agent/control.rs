//! The control socket: how `pydisk detach` reaches the agent of an attachment.
//!
//! It lies in the attachment's folder with mode 0600.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::sources::{Inbox, Input};
use super::{inuse, wire};
use crate::Refusal;
use crate::attachment::{
    Answer, Ask, CONTROL, Folder, Holder, Phase, Receiver, Role, State, Step, patience, send,
};

/// Make the socket and answer on it until the process ends.
pub(super) fn serve(folder: &Folder, inbox: &Inbox) -> io::Result<()> {
    let (_open, address) = folder.address(CONTROL)?;
    let listener = UnixListener::bind(address)?;
    fs::set_permissions(folder.control(), Permissions::from_mode(0o600))?;
    let (folder, inbox) = (folder.clone(), inbox.clone());
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors or memory: do not spin.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (folder, inbox) = (folder.clone(), inbox.clone());
            tokio::spawn(async move {
                if let Err(error) = converse(stream, folder, inbox).await {
                    log::debug!("control: {error}");
                }
            });
        }
    });
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

/// Take one question. A client that is slow to ask is not waited for.
async fn converse(stream: tokio::net::UnixStream, folder: Folder, inbox: Inbox) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let asked = timeout(patience::CLIENT.get(), wire::receive(&mut stream)).await?;
    let Some(Ask::Detach { force }) = asked? else {
        return Ok(());
    };
    let mut stream = stream.into_inner();
    let (tell, told) = oneshot::channel();
    // In a thread: users are waited for, and what they wrote is stored.
    let looking = thread::Builder::new()
        .name("control-one".into())
        .spawn(move || tell.send(may_detach(&folder, force)).unwrap_or_default());
    if let Err(error) = looking {
        log::warn!("control: no thread for a question: {error}");
        return Ok(());
    }
    let refusal = match told.await {
        // If the agent has ended meanwhile, the client sees the stream end.
        Ok(Ok(unstored)) => {
            inbox.put(Input::Detach {
                stream,
                force,
                unstored,
            });
            return Ok(());
        }
        Ok(Err(refusal)) => refusal,
        Err(_lost) => return Ok(()),
    };
    let answer = Answer::Refused(refusal.into());
    timeout(patience::CLIENT.get(), wire::send(&mut stream, &answer)).await?
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
            return Err(Refusal::caused(place.display(), error));
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
