//! The messages of [`crate::attachment`] as the agent's runtime sends and receives them.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::attachment::{LONGEST_LINE, line, parsed};

/// Send one message.
///
/// # Errors
/// What the socket says; `BrokenPipe` if nobody listens any more.
pub(super) async fn send<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    to.write_all(&line(message)?).await
}

/// Wait for the next message; `None` when the other side is gone. Nothing is lost only if this is waited for to its
/// end.
///
/// # Errors
/// What the socket says; `InvalidData` for a line that is no such message.
pub(super) async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    match from.take(LONGEST_LINE).read_until(b'\n', &mut line).await {
        Ok(_) => {}
        // Unread data at the other end turns its going away into this error.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    }
    if !line.ends_with(b"\n") {
        // Nothing, or half a message of a process that was killed.
        return Ok(None);
    }
    parsed(&line).map(Some)
}
