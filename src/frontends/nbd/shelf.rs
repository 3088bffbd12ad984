//! One disk as exports, for the tests and the fuzz targets of the protocol.

use std::sync::Arc;

use crate::disk::{Client, Errno, Error, Export, Exports, Guest, Listed, OpenDisk, Result};

/// One disk under the names `` and `disk`.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) disk: Arc<dyn OpenDisk>,
    pub(super) welcome: bool,
}

#[derive(Debug)]
struct Visitor(Arc<dyn OpenDisk>);

#[derive(Debug)]
struct Opened(Arc<dyn OpenDisk>);

impl Exports for Shelf {
    fn welcome(&self, _: Arc<Client>) -> Result<Box<dyn Guest>> {
        if !self.welcome {
            return Err(Error::new(Errno::PERM, "nobody is welcome"));
        }
        Ok(Box::new(Visitor(Arc::clone(&self.disk))))
    }
}

impl Guest for Visitor {
    fn list(&mut self, _: bool) -> Result<Vec<Listed>> {
        Ok(vec![Listed {
            name: "disk".into(),
            description: Some("of a test".into()),
        }])
    }

    fn open(&mut self, name: &str, _: bool) -> Result<Box<dyn Export>> {
        if !["", "disk"].contains(&name) {
            return Err(Error::new(
                Errno::NOENT,
                format!("no export `{name}`\nand why"),
            ));
        }
        Ok(Box::new(Opened(Arc::clone(&self.0))))
    }
}

impl Export for Opened {
    fn disk(&self) -> &Arc<dyn OpenDisk> {
        &self.0
    }

    fn name(&self) -> &str {
        "disk"
    }

    fn description(&self) -> Result<Option<String>> {
        Ok(Some("of a test".into()))
    }
}
