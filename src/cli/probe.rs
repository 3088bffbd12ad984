//! `pydisk probe`: which front ends work on this host, and why the others do not.

use std::process::ExitCode;

use serde_json::json;

use super::choice;
use super::list::table;
use crate::{Refusal, logging};

pub(super) fn probe(json: bool) -> Result<ExitCode, Refusal> {
    let host = choice::host();
    let found = [
        ("ublk", &host.ublk),
        ("nbd-kernel", &host.nbd),
        ("loop", &host.loopback),
        ("fuse", &host.fuse),
    ];
    if json {
        let all: serde_json::Map<_, _> = found
            .into_iter()
            .map(|(name, works)| {
                let entry = json!({ "works": works.is_ok(), "reason": works.as_ref().err() });
                (name.to_owned(), entry)
            })
            .collect();
        logging::print_json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found.map(|(name, works)| {
        let word = if works.is_ok() { "works" } else { "no" };
        let why = works.as_ref().err().cloned().unwrap_or_default();
        [name.to_owned(), word.to_owned(), why]
    });
    logging::print(&table(&rows))?;
    Ok(ExitCode::SUCCESS)
}
