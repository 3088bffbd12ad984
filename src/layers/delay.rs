//! `delay`: requests take longer, as on a slow device.
//!
//! Each parameter is how long requests of its kind sleep before the disk below gets them:
//! `--layer delay:read=200ms,write=1s`. As many sleep at the same time as the front end sends.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Layer, Row, Sleep};
use crate::Refusal;
use crate::disk::{Disk, Extents, Limits, Request, Result};
use crate::params::parse_delay;

pub(super) const ROW: Row = Row {
    name: "delay",
    about: "requests take longer",
    // But for the last, the words of `OpKind`.
    parameters: &["read", "write", "zero", "trim", "cache", "flush", "extents"],
    make: |parameters, sleep| {
        let hint = || format!("give one of {}", ROW.parameters.join(", "));
        if parameters.is_empty() {
            return Err(Refusal::about("delay", "no delay is given").hint(hint()));
        }
        let times = parameters
            .iter()
            .map(|(key, text)| Ok((key.clone(), parse_delay(key, text)?)));
        Ok(Box::new(Delays {
            times: times.collect::<Result<_, Refusal>>()?,
            sleep: Arc::clone(sleep),
        }))
    },
};

/// How long requests of a kind sleep, and where.
#[derive(Clone, Debug)]
struct Delays {
    times: Vec<(String, Duration)>,
    sleep: Arc<Sleep>,
}

impl Layer for Delays {
    fn wrap(&self, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        let delays = self.clone();
        Arc::new(Delay { disk, delays })
    }
}

impl Delays {
    fn of(&self, kind: &str) -> Duration {
        let time = self.times.iter().find(|(key, _)| key == kind);
        time.map_or(Duration::ZERO, |(_, time)| *time)
    }
}

#[derive(Debug)]
struct Delay {
    disk: Arc<dyn Disk>,
    delays: Delays,
}

impl Disk for Delay {
    fn limits(&self) -> &Limits {
        self.disk.limits()
    }

    fn serve(&self, request: Request<'_>) -> Result {
        let time = self.delays.of(request.op.kind().word());
        self.delays.sleep.sleep(time, request.cancel)?;
        self.disk.serve(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        let time = self.delays.of("extents");
        self.delays.sleep.sleep(time, found.cancel())?;
        self.disk.extents(range, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::Memory;
    use crate::disk::{Cancel, Errno, Op};
    use crate::layers::Named;

    /// A disk of which requests of this kind would sleep for a century.
    fn delayed(kind: &str, sleep: &Arc<Sleep>) -> Arc<dyn Disk> {
        let named: Named = format!("delay:{kind}=4000000000").parse().unwrap();
        let layer = named.make(sleep).unwrap();
        layer.wrap(Arc::new(Memory::new(4096)))
    }

    /// What comes of one request of each kind.
    fn outcomes(disk: &dyn Disk, cancel: Option<&Cancel>) -> Vec<(&'static str, Result)> {
        let mut byte = [0];
        let ops = [
            Op::Read(&mut byte),
            Op::Write(&[1]),
            Op::Zero(1),
            Op::Trim(1),
            Op::Cache(1),
            Op::Flush,
        ];
        let mut outcomes: Vec<_> = ops
            .into_iter()
            .map(|op| {
                let kind = op.kind().word();
                (kind, disk.serve(Request::new(op, 0).with_cancel(cancel)))
            })
            .collect();
        let mut found = Extents::starting_at(0).with_cancel(cancel);
        outcomes.push(("extents", disk.extents(0..4096, &mut found)));
        outcomes
    }

    #[test]
    fn each_parameter_delays_requests_of_its_kind_and_no_others() {
        let cancel = Cancel::unless(|| false);
        for delayed_kind in ROW.parameters {
            let disk = delayed(delayed_kind, &Arc::default());
            for (kind, outcome) in outcomes(&*disk, Some(&cancel)) {
                // Nobody waits, which only a request that would sleep asks.
                let slept = outcome.err().map(|error| error.errno) == Some(Errno::SHUTDOWN);
                assert_eq!(slept, kind == *delayed_kind, "{kind}, {delayed_kind}");
            }
        }
    }

    #[test]
    fn requests_are_served_at_once_when_the_attachment_ends() {
        for kind in ROW.parameters {
            let sleep = Arc::default();
            let disk = delayed(kind, &sleep);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    outcomes(&*disk, None)
                        .into_iter()
                        .for_each(|(_, served)| served.unwrap())
                });
                sleep.end();
            });
        }
    }
}
