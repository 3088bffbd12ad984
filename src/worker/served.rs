//! A plugin's exports as clients get them: each opened disk in the layers that a block device has
//! too, but with every byte of its size.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Check, Client, Disk, Emulate, Export, Exports, Guest, Listed, Result};

/// Exports with layers around each disk that is opened.
#[derive(Debug)]
pub(super) struct Layered(pub(super) Arc<dyn Exports>);

impl Exports for Layered {
    fn welcome(&self, client: Arc<Client>) -> Result<Box<dyn Guest>> {
        Ok(Box::new(Visitor(self.0.welcome(client)?)))
    }
}

#[derive(Debug)]
struct Visitor(Box<dyn Guest>);

impl Guest for Visitor {
    fn list(&mut self, tls: bool) -> Result<Vec<Listed>> {
        self.0.list(tls)
    }

    fn admit(&mut self, patience: Duration) -> bool {
        self.0.admit(patience)
    }

    fn open(&mut self, name: &str, tls: bool) -> Result<Box<dyn Export>> {
        let export = self.0.open(name, tls)?;
        let below = Arc::clone(export.disk());
        let disk = Arc::new(Check::new(Emulate::new(Check::new(below))));
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
