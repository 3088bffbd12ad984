//! A plugin's exports as clients get them: each opened disk in the layers that a block device has
//! too, but with every byte of its size.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Client, Disk, Export, Exports, Guest, Listed, Result};
use crate::layers::{Check, Emulate, Parts};

/// Exports with layers around each disk that is opened.
#[derive(Debug)]
pub(super) struct Layered {
    exports: Arc<dyn Exports>,
    /// Of all handles: what one client changes in a block, another one's change must not undo.
    parts: Parts,
}

impl Layered {
    pub(super) fn new(exports: Arc<dyn Exports>) -> Self {
        Self {
            exports,
            parts: Parts::default(),
        }
    }
}

impl Exports for Layered {
    fn welcome(&self, client: Arc<Client>) -> Result<Box<dyn Guest>> {
        let guest = self.exports.welcome(client)?;
        let parts = Arc::clone(&self.parts);
        Ok(Box::new(Visitor { guest, parts }))
    }
}

#[derive(Debug)]
struct Visitor {
    guest: Box<dyn Guest>,
    parts: Parts,
}

impl Guest for Visitor {
    fn list(&mut self, tls: bool) -> Result<Vec<Listed>> {
        self.guest.list(tls)
    }

    fn admit(&mut self, patience: Duration) -> bool {
        self.guest.admit(patience)
    }

    fn open(&mut self, name: &str, tls: bool) -> Result<Box<dyn Export>> {
        let export = self.guest.open(name, tls)?;
        let below = Arc::clone(export.disk());
        let disk = Arc::new(Check::new(
            Emulate::new(Check::new(below)).sharing(&self.parts),
        ));
        Ok(Box::new(Opened { disk, export }))
    }
}

#[derive(Debug)]
struct Opened {
    disk: Arc<dyn Disk>,
    export: Box<dyn Export>,
}

impl Export for Opened {
    fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    fn name(&self) -> &str {
        self.export.name()
    }

    fn description(&self) -> Result<Option<String>> {
        self.export.description()
    }
}
