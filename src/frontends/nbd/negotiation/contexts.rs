//! The options about metadata contexts, of which there is one: `base:allocation`.

use super::{Negotiation, Next};
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::wire::option::{Kind, Queries, number};
use crate::frontends::nbd::wire::{BASE_ALLOCATION, BASE_ALLOCATION_ID, Shape};

/// Asks for all contexts of the namespace, where contexts are listed.
const ALL_OF_BASE: &str = "base:";

impl Negotiation<'_> {
    pub(super) fn list_meta_context(&mut self, data: &[u8]) -> Result<Next, End> {
        const OPTION: u32 = number::LIST_META_CONTEXT;
        let queries = match self.queries(data) {
            Ok(queries) => queries.queries,
            Err(why) => return self.malformed(OPTION, why),
        };
        let matches = |query: &&str| [BASE_ALLOCATION, ALL_OF_BASE].contains(query);
        if queries.is_empty() || queries.iter().any(matches) {
            // A list gives no numbers away.
            self.context(OPTION, 0);
        }
        self.acknowledge(OPTION)
    }

    /// The choice counts for the export that it names, and each choice replaces the one before, even
    /// one that fails.
    pub(super) fn set_meta_context(&mut self, data: &[u8]) -> Result<Next, End> {
        const OPTION: u32 = number::SET_META_CONTEXT;
        self.chosen.allocation_of = None;
        let queries = match self.queries(data) {
            Ok(queries) => queries,
            Err(why) => return self.malformed(OPTION, why),
        };
        if queries.queries.contains(&BASE_ALLOCATION) {
            self.chosen.allocation_of = Some(queries.export.to_owned());
            self.context(OPTION, BASE_ALLOCATION_ID);
        }
        self.acknowledge(OPTION)
    }

    fn queries<'d>(&self, data: &'d [u8]) -> Result<Queries<'d>, &'static str> {
        if self.chosen.shape == Shape::Simple {
            return Err("metadata contexts need structured replies");
        }
        Queries::decode(data)
    }

    fn context(&mut self, option: u32, id: u32) {
        let parts = [&id.to_be_bytes()[..], BASE_ALLOCATION.as_bytes()];
        self.reply(option, Kind::MetaContext, &parts);
    }
}
