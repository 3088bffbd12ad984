//! A plugin as what a server offers: the callbacks about clients and exports, and a handle for each
//! client that opens one.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::callbacks::Callback;
use super::handle::Handle;
use super::module::Connection;
use super::turns::Place;
use super::{Plugin, exceptions, forks};
use crate::Refusal;
use crate::disk::{self, Client, Errno, Error, Export, Exports, Guest, Listed, OpenDisk};

/// Most entries that `list_exports` may give; nbdkit's.
const MOST_EXPORTS: usize = 10_000;

/// Longest name or description in bytes; NBD's.
const LONGEST_TEXT: usize = 4096;

/// A plugin as a server offers it: read-only or not.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) plugin: Arc<Plugin>,
    pub(super) read_only: bool,
}

impl Exports for Offered {
    fn welcome(&self, client: Arc<Client>) -> disk::Result<Box<dyn Guest>> {
        let visitor = Visitor::welcome(Arc::clone(&self.plugin), Some(client), self.read_only)?;
        Ok(Box::new(visitor))
    }
}

/// One client of a plugin, whatever the front end.
#[derive(Debug)]
pub(super) struct Visitor {
    plugin: Arc<Plugin>,
    /// None for a block device.
    client: Option<Arc<Client>>,
    read_only: bool,
    /// What `default_export` answered, asked once without TLS and once more with it.
    default: Option<(bool, String)>,
    /// Kept from [`Guest::admit`] to the opening.
    place: Option<Place>,
}

impl Visitor {
    /// Call `preconnect`. As in nbdkit it may overlap with other callbacks in every thread model.
    pub(super) fn welcome(
        plugin: Arc<Plugin>,
        client: Option<Arc<Client>>,
        read_only: bool,
    ) -> Result<Self, Refusal> {
        let visiting = Connection::visiting(client.as_ref(), false);
        let _entered = visiting.enter();
        Python::attach(|py| {
            plugin
                .script
                .call(py, Callback::Preconnect, (read_only,))
                .map(drop)
        })?;
        Ok(Self {
            plugin,
            client,
            read_only,
            default: None,
            place: None,
        })
    }

    /// Open the export `name`, or the default one for an empty name, once the thread model lets it.
    pub(super) fn open(&mut self, name: &str, tls: bool) -> Result<Handle, Refusal> {
        let waited = self.place.take();
        let place = waited.or_else(|| self.plugin.turns().connection(None));
        let place = place.expect("waits until there is one");
        let plugin = Arc::clone(&self.plugin);
        let _turn = plugin.turns().callback(Callback::Open);
        let visiting = Connection::visiting(self.client.as_ref(), tls);
        let _entered = visiting.enter();
        let opened = Python::attach(|py| {
            let name = match name {
                "" => self.default_export(py, tls)?,
                name => name.to_owned(),
            };
            let connection = Connection::open(self.client.as_ref(), tls, name);
            Handle::open(py, Arc::clone(&plugin), connection, place, self.read_only)
        })?;
        opened.usable()
    }

    /// The name of the export that is meant by none.
    fn default_export(&mut self, py: Python<'_>, tls: bool) -> Result<String, Refusal> {
        if let Some((asked_with, name)) = &self.default
            && *asked_with == tls
        {
            return Ok(name.clone());
        }
        let script = &self.plugin.script;
        let callback = Callback::DefaultExport;
        let name = match script.call(py, callback, (self.read_only, tls))? {
            None => String::new(),
            Some(answer) => text(&answer).map_err(|what| script.refuse(callback, what))?,
        };
        self.default = Some((tls, name.clone()));
        Ok(name)
    }

    fn exports(&mut self, py: Python<'_>, tls: bool) -> Result<Vec<Listed>, Refusal> {
        let plugin = Arc::clone(&self.plugin);
        let script = &plugin.script;
        let callback = Callback::ListExports;
        let Some(answer) = script.call(py, callback, (self.read_only, tls))? else {
            let name = self.default_export(py, tls)?;
            return Ok(vec![Listed {
                name,
                description: None,
            }]);
        };
        let refuse = |what: String| script.refuse(callback, what);
        let raised = |error| refuse(exceptions::describe(py, error));
        let mut found = Vec::new();
        for entry in answer.try_iter().map_err(raised)? {
            if found.len() == MOST_EXPORTS {
                return Err(refuse(format!("more than {MOST_EXPORTS} exports")));
            }
            found.push(listed(&entry.map_err(raised)?).map_err(refuse)?);
        }
        Ok(found)
    }
}

impl Guest for Visitor {
    fn list(&mut self, tls: bool) -> disk::Result<Vec<Listed>> {
        let plugin = Arc::clone(&self.plugin);
        let _turn = plugin.turns().callback(Callback::ListExports);
        let visiting = Connection::visiting(self.client.as_ref(), tls);
        let _entered = visiting.enter();
        let found = Python::attach(|py| {
            let found = self.exports(py, tls);
            // A generator has run since it was called.
            forks::end_child(py);
            found
        });
        Ok(found?)
    }

    fn admit(&mut self, patience: Duration) -> bool {
        if self.place.is_none() {
            self.place = self.plugin.turns().connection(Some(patience));
        }
        self.place.is_some()
    }

    fn open(&mut self, name: &str, tls: bool) -> disk::Result<Box<dyn Export>> {
        let handle = Arc::new(Visitor::open(self, name, tls)?);
        let disk = Arc::clone(&handle) as _;
        Ok(Box::new(Opened { handle, disk }))
    }
}

/// A handle that a client has open.
#[derive(Debug)]
struct Opened {
    handle: Arc<Handle>,
    disk: Arc<dyn OpenDisk>,
}

impl Export for Opened {
    fn disk(&self) -> &Arc<dyn OpenDisk> {
        &self.disk
    }

    fn name(&self) -> &str {
        self.handle.export_name()
    }

    fn description(&self) -> disk::Result<Option<String>> {
        Ok(self.handle.description()?)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(Errno::IO, refusal)
    }
}

/// An entry of what `list_exports` returned: a name, or a name and a description.
fn listed(entry: &Bound<'_, PyAny>) -> Result<Listed, String> {
    let Ok(pair) = entry.cast::<PyTuple>() else {
        return Ok(Listed {
            name: text(entry)?,
            description: None,
        });
    };
    let (Ok(name), Ok(description), 2) = (pair.get_item(0), pair.get_item(1), pair.len()) else {
        return Err(format!(
            "gave a tuple of {}: (name, description) is accepted",
            pair.len()
        ));
    };
    Ok(Listed {
        name: text(&name)?,
        description: Some(text(&description)?),
    })
}

/// A string as NBD can carry it.
pub(super) fn text(value: &Bound<'_, PyAny>) -> Result<String, String> {
    let shown = || super::exceptions::shown(value);
    let text = if let Ok(text) = value.cast::<PyString>() {
        text.to_str().map(str::to_owned).ok()
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        std::str::from_utf8(bytes.as_bytes())
            .map(str::to_owned)
            .ok()
    } else {
        return Err(format!("gave {}: str or bytes is accepted", shown()));
    };
    match text {
        None => Err(format!("gave {}, which is no UTF-8", shown())),
        Some(text) if text.len() > LONGEST_TEXT => Err(format!(
            "gave a string of {} bytes: at most {LONGEST_TEXT} are accepted",
            text.len()
        )),
        Some(text) if text.contains('\0') => {
            Err(format!("gave {}, which has a zero byte in it", shown()))
        }
        Some(text) => Ok(text),
    }
}
