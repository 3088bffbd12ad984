//! Who the client is: what the kernel and its certificate say of it.
//!
//! A block device has no client, and a thread that the plugin started serves none: both are a
//! `ValueError` that says so.

use std::net::SocketAddr;
use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::{connection, unable};
use crate::disk::{Client, Peer};

/// The client that the callback at hand is called for.
fn client(py: Python<'_>, what: &str) -> PyResult<Arc<Client>> {
    let cause = match connection::current(py) {
        None => "no callback of a client runs on this thread",
        Some(known) => match &known.client {
            Some(client) => return Ok(Arc::clone(client)),
            None => "this disk is a block device or a file, which has no clients",
        },
    };
    Err(unable(what, cause))
}

/// What the kernel says of the process at the other end of a Unix socket.
fn process<T>(py: Python<'_>, what: &str, part: impl FnOnce(i32, u32, u32) -> T) -> PyResult<T> {
    match client(py, what)?.peer {
        Peer::Unix { pid, uid, gid } => Ok(part(pid, uid, gid)),
        ref other => Err(unable(
            what,
            format_args!("the client is not at a Unix socket but at {other}"),
        )),
    }
}

/// The process of a client at a Unix socket. Errors: ValueError for any other.
#[pyfunction]
pub(super) fn peer_pid(py: Python<'_>) -> PyResult<i32> {
    let what = "get client pid";
    let pid = process(py, what, |pid, _, _| pid)?;
    if pid <= 0 {
        return Err(unable(what, "the client is in another process namespace"));
    }
    Ok(pid)
}

/// The user of a client at a Unix socket. Errors: ValueError for any other.
#[pyfunction]
pub(super) fn peer_uid(py: Python<'_>) -> PyResult<u32> {
    process(py, "get client uid", |_, uid, _| uid)
}

/// The group of a client at a Unix socket. Errors: ValueError for any other.
#[pyfunction]
pub(super) fn peer_gid(py: Python<'_>) -> PyResult<u32> {
    process(py, "get client gid", |_, _, gid| gid)
}

/// The address of the client as Python's sockets have it: (host, port), (host, port, flow, scope),
/// (context, port), or "" for a Unix socket. Errors: ValueError.
#[pyfunction]
pub(super) fn peer_name(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let what = "get client address";
    match client(py, what)?.peer {
        Peer::Tcp(SocketAddr::V4(at)) => (at.ip().to_string(), at.port()).into_py_any(py),
        Peer::Tcp(SocketAddr::V6(at)) => {
            let (flow, scope) = (at.flowinfo(), at.scope_id());
            (at.ip().to_string(), at.port(), flow, scope).into_py_any(py)
        }
        Peer::Vsock { cid, port } => (cid, port).into_py_any(py),
        Peer::Unix { .. } => "".into_py_any(py),
        Peer::Stdio => Err(unable(what, "the client is at standard input")),
    }
}

/// The security label of the client. Errors: ValueError.
#[pyfunction]
pub(super) fn peer_security_context(py: Python<'_>) -> PyResult<String> {
    let what = "get client security context";
    client(py, what)?;
    Err(unable(what, "security labels are not supported"))
}

/// The name in the client's certificate; "" if it showed none. Errors: ValueError without a client.
#[pyfunction]
pub(super) fn peer_tls_dn(py: Python<'_>) -> PyResult<String> {
    let client = client(py, "get client TLS DN")?;
    Ok(client
        .certificate()
        .map_or_else(String::new, |found| found.subject.clone()))
}

/// The name of who issued the client's certificate; "" if it showed none. Errors: ValueError without
/// a client.
#[pyfunction]
pub(super) fn peer_tls_issuer_dn(py: Python<'_>) -> PyResult<String> {
    let client = client(py, "get issuer TLS DN")?;
    Ok(client
        .certificate()
        .map_or_else(String::new, |found| found.issuer.clone()))
}
