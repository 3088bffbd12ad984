//! A device that exists and is not served yet.

use super::abi;
use super::control::Control;
use super::handler::Handler;
use super::kernels;
use super::params::Params;
use super::running::{Plan, Running};
use super::{LET_GO, leftover};
use crate::device_error::DeviceError;

use std::sync::Arc;

/// How the requests of a device are spread over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One thread serves all, in batches.
    Serial {
        /// Requests that the device takes at a time; 1 to 4096.
        depth: u16,
    },
    /// Several threads serve one request each.
    Parallel {
        /// Threads; 1 to 4096. The device takes as many requests at a time.
        lanes: u16,
    },
}

/// A device with its number and its limits. Dropping it removes it.
#[derive(Debug)]
pub struct Device {
    id: u32,
    shape: Shape,
    params: Params,
    /// Each tag may have a thread of its own.
    per_io_daemon: bool,
    /// `None` once the device is started.
    control: Option<Control>,
}

impl Device {
    /// Make a device with the number `id`, or with any free one.
    ///
    /// # Errors
    /// [`DeviceError::InUse`] when the number is taken, [`DeviceError::Params`] for parameters out of range,
    /// [`DeviceError::NoDriver`], [`DeviceError::NotPermitted`], [`DeviceError::NoIoUring`] and
    /// [`DeviceError::KernelCrashes`] when no device can be made here at all.
    pub fn add(id: Option<u32>, shape: Shape, params: &Params) -> Result<Self, DeviceError> {
        let (Shape::Serial { depth } | Shape::Parallel { lanes: depth }) = shape;
        if !(1..=4096).contains(&depth) {
            return Err(DeviceError::Params(format!(
                "{depth} requests at a time: 1 to 4096 are possible"
            )));
        }
        params.check()?;
        kernels::check()?;
        let control = Control::open_or_load()?;
        let asked = abi::ublksrv_ctrl_dev_info {
            nr_hw_queues: 1,
            queue_depth: depth,
            max_io_buf_bytes: params.max_io_bytes,
            dev_id: id.unwrap_or(u32::MAX),
            ublksrv_pid: std::process::id().cast_signed(),
            ublksrv_flags: params.identity,
            ..Default::default()
        };
        let granted = control.add(asked).map_err(leftover::name_the_holder)?;
        let device = Self {
            id: granted.dev_id,
            shape,
            params: params.clone(),
            per_io_daemon: granted.flags & abi::PER_IO_DAEMON != 0,
            control: Some(control),
        };
        device.compare(&asked, &granted)?;
        let control = device.control.as_ref().expect("set above");
        control.set_params(device.id, params.to_wire())?;
        Ok(device)
    }

    /// The driver clears and clamps what it cannot do without a word.
    fn compare(
        &self,
        asked: &abi::ublksrv_ctrl_dev_info,
        granted: &abi::ublksrv_ctrl_dev_info,
    ) -> Result<(), DeviceError> {
        let refuse = |text: String| Err(DeviceError::NotGranted(text));
        if granted.flags & abi::IOCTL_ENCODE == 0 {
            return refuse("the ublk driver of this kernel is too old: Linux 6.4 is needed".into());
        }
        if granted.nr_hw_queues != 1 || granted.queue_depth != asked.queue_depth {
            return refuse(format!(
                "the ublk driver gave {} queues of depth {} for 1 of depth {}",
                granted.nr_hw_queues, granted.queue_depth, asked.queue_depth
            ));
        }
        if granted.max_io_buf_bytes != asked.max_io_buf_bytes {
            return refuse(format!(
                "the ublk driver gave buffers of {} bytes for {}",
                granted.max_io_buf_bytes, asked.max_io_buf_bytes
            ));
        }
        if granted.ublksrv_flags != asked.ublksrv_flags {
            return refuse("the ublk driver does not keep whose device it is".into());
        }
        let foreign = granted.flags & (abi::ZERO_COPY | abi::NEED_GET_DATA | abi::USER_COPY);
        if foreign != 0 {
            return refuse(format!("the ublk driver set features {foreign:#x} unasked"));
        }
        Ok(())
    }

    /// The device's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Treat the kernel as one before 6.16, where one thread must do all talking with the driver.
    #[must_use]
    pub fn without_per_io_daemon(self) -> Self {
        let mut this = self;
        this.per_io_daemon = false;
        this
    }

    /// Serve the device with `handler`. `ended` is called once, on one of the serving threads, if
    /// the device ends although nobody called [`Running::stop`]; it gets the reason.
    ///
    /// # Errors
    /// The device is removed again.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the serving threads share it, so a caller has nothing left to do with it"
    )]
    pub fn start(
        mut self,
        handler: Arc<dyn Handler>,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Running, DeviceError> {
        let control = self.control.take().expect("taken here only");
        let plan = match self.shape {
            Shape::Serial { depth } => Plan::Inline {
                threads: 1,
                tags: depth,
            },
            Shape::Parallel { lanes } if self.per_io_daemon || lanes == 1 => Plan::Inline {
                threads: lanes,
                tags: 1,
            },
            Shape::Parallel { lanes } => Plan::Pool { threads: lanes },
        };
        Running::start(
            control,
            self.id,
            &self.params,
            plan,
            &handler,
            Box::new(ended),
        )
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(control) = &self.control
            && let Err(error) = control.delete(self.id, self.params.identity, LET_GO)
        {
            log::error!("ublk: removing device {}: {error}", self.id);
        }
    }
}
