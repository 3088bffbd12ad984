//! The fuzz target `state`: what may stand in an attachment's folder, as `list` and `show` read it.

use std::io;

use super::{Entry, State, row, table, text};
use crate::attachment::{Connected, Folder};

/// Let `state.json` hold what comes before a zero byte in `input`, and the worker tell of the clients
/// that come behind it.
///
/// # Panics
/// If something is refused otherwise than is promised, or shown in part or where it does not belong.
pub fn state(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let (state, clients) = (parts.next(), parts.next());
    let state = match State::parse(state.unwrap_or_default()) {
        Ok(state) => Some(state),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            None
        }
    };
    if let Some(state) = &state {
        let written = state.text().expect("it came as JSON");
        let again = State::parse(&written).expect("it was written");
        assert_eq!(again.text().expect("as before"), written);
    }
    let clients =
        clients.and_then(|clients| serde_json::from_slice::<Vec<Connected>>(clients).ok());
    let entry = Entry {
        folder: Folder::at("/run/pydisk/fuzz".into()),
        state,
        condition: "attached",
        clients,
        activity: None,
    };
    shown(&entry);
}

fn shown(entry: &Entry) {
    let (json, text) = (entry.json(), text(entry));
    let whole = serde_json::from_str::<serde_json::Value>(&format!("{json:#}\n"));
    assert_eq!(whole.expect("it is JSON"), json);
    assert_eq!(json["name"], "fuzz");
    assert!(text.starts_with("name       fuzz\nstate      attached\n"));
    assert!(entry.is("fuzz"));
    let cells = row(entry);
    let rows = [cells.clone(), cells.clone()];
    let table = table(&rows);
    assert!(cells.iter().all(|cell| table.contains(cell.trim_end())));
    let Some(state) = &entry.state else {
        assert!(json["plugin"].is_null() && json["target"].is_null());
        return;
    };
    assert_eq!(json["since"], state.since);
    assert_eq!(
        json["parameters"].as_array().map(Vec::len),
        Some(state.parameters.len())
    );
    // Whoever has the address or the device from `list` finds the attachment by it.
    if let Some(disk) = &state.disk {
        let found = entry.is(&disk.at.to_string());
        let is_place = disk.at.device().is_none_or(std::path::Path::is_absolute);
        assert!(found || !is_place, "{}", disk.at);
    }
}
