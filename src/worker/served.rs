//! A plugin's exports as clients get them: each opened disk in its layers.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Client, Export, Exports, Guest, Listed, OpenDisk, Result};
use crate::layers::Stack;

/// Exports with layers around each disk that is opened.
#[derive(Debug)]
pub(super) struct Layered {
    exports: Arc<dyn Exports>,
    stack: Arc<Stack>,
}

impl Layered {
    pub(super) fn new(exports: Arc<dyn Exports>, stack: Arc<Stack>) -> Self {
        Self { exports, stack }
    }
}

impl Exports for Layered {
    fn welcome(&self, client: Arc<Client>) -> Result<Box<dyn Guest>> {
        let guest = self.exports.welcome(client)?;
        let stack = Arc::clone(&self.stack);
        Ok(Box::new(Visitor { guest, stack }))
    }
}

#[derive(Debug)]
struct Visitor {
    guest: Box<dyn Guest>,
    stack: Arc<Stack>,
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
        let disk = self.stack.wrap(Arc::clone(export.disk()))?;
        Ok(Box::new(Opened { disk, export }))
    }
}

#[derive(Debug)]
struct Opened {
    disk: Arc<dyn OpenDisk>,
    export: Box<dyn Export>,
}

impl Export for Opened {
    fn disk(&self) -> &Arc<dyn OpenDisk> {
        &self.disk
    }

    fn name(&self) -> &str {
        self.export.name()
    }

    fn description(&self) -> Result<Option<String>> {
        self.export.description()
    }
}
