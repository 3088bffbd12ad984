//! What an attachment is, as plain data: its job and its policy, its folder with the locks in it, the registry of
//! names, its state, what its processes tell each other and how they find and start each other.
//!
//! `cli`, `agent`, `worker` and `bench` depend on this folder and not on each other. It knows targets and the
//! configuration of a server, but neither Python nor TLS nor how a front end works.

mod activity;
mod clients;
mod cost;
mod descriptors;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod job;
mod launcher;
mod messages;
pub mod patience;
mod policy;
mod publish;
mod registry;
mod spelling;
mod state;
mod step;

pub use activity::{Activity, Running, activity, hung_at, telling_activity};
pub use clients::{Connected, connected, telling};
pub use cost::{Cost, cost, tell_cost};
pub use descriptors::Passing;
pub use folder::{
    CONTROL, Folder, Held, Holder, Role, SCRIPT, ended_well, keep_log, kept_log, note_good_end,
};
pub use job::{Builder, Descriptors, DiskOptions, Job, PluginOptions, Reserved};
pub use launcher::{Process, myself, received};
pub use messages::{
    Answer, Ask, FromAgent, FromWorker, LONGEST_LINE, Receiver, ToAgent, ToWorker, Told, line,
    parsed, send,
};
pub use policy::Conduct;
pub use publish::Telling;
pub use registry::{Name, ROOT_VARIABLE, Root, check_name};
pub use spelling::Spelling;
pub use state::{Phase, Served, State, masked, now, seconds};
pub use step::Step;
