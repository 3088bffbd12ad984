//! `pydisk probe`: which front ends work on this host, and why the others do not.

use std::process::ExitCode;

use serde_json::json;

use super::choice::{self, Found};
use super::list::table;
use crate::{Refusal, logging};

pub(super) fn probe(json: bool) -> Result<ExitCode, Refusal> {
    let host = choice::host();
    if json {
        let all: serde_json::Map<_, _> = host
            .iter()
            .map(|Found { row, works }| {
                let entry = json!({ "works": works.is_ok(), "reason": works.as_ref().err() });
                (row.name.to_owned(), entry)
            })
            .collect();
        logging::print_json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = host.into_iter().map(|Found { row, works }| {
        let word = if works.is_ok() { "works" } else { "no" };
        let why = works.err().unwrap_or_default();
        [row.name.to_owned(), word.to_owned(), why]
    });
    let rows: Vec<_> = rows.collect();
    logging::print(&table(&rows))?;
    Ok(ExitCode::SUCCESS)
}
