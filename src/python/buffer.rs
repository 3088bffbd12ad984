//! The memory of a request as Python sees it: lent for one call, counted, never taken back by force.
//!
//! A plugin gets a `memoryview` on an [`Exporter`], which keeps the memory alive as long as anything
//! in Python still points into it. Whatever a plugin kept (a slice, a numpy array) goes on seeing the
//! bytes of *its* request: the exporter is then given up together with the memory, and the next
//! request gets other memory. `memoryview.release()` alone would not do, for it does not revoke
//! slices.
//!
//! This is the one file of this crate with `unsafe`: Python's buffer protocol speaks in pointers.
#![expect(unsafe_code, reason = "the buffer protocol hands out raw pointers")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::disk::Owner;

/// Where the bytes of one request lie and who keeps them alive.
pub(super) struct Lent {
    at: NonNull<u8>,
    len: usize,
    writable: bool,
    /// Held for as long as anything in Python can reach `at`.
    _owner: Owner,
}

// SAFETY: the pointer is only handed to CPython, under the GIL; the memory behind it is kept alive by
// `_owner`, which is `Send`.
unsafe impl Send for Lent {}

/// Exports the memory of one request at a time through Python's buffer protocol.
///
/// `armed` lets exactly one export through, the one that the host makes itself: an exporter that a
/// plugin got hold of (`buf.obj`) exports nothing more.
#[pyclass(frozen, name = "Buffer", module = "nbdkit")]
struct Exporter {
    /// Guards what is lent; held for a copy of four words only.
    lent: Mutex<Option<Lent>>,
    armed: AtomicBool,
    exports: AtomicUsize,
}

#[pymethods]
impl Exporter {
    /// # Safety
    /// CPython passes a `view` that it owns, as its buffer protocol documents.
    unsafe fn __getbuffer__(
        slf: &Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let lent = this.lent.lock();
        let Some(lent) = lent
            .as_ref()
            .filter(|_| this.armed.swap(false, Ordering::AcqRel))
        else {
            return Err(PyBufferError::new_err(
                "this buffer belongs to a request that is over",
            ));
        };
        let len = isize::try_from(lent.len)?;
        // SAFETY: `view` is CPython's to fill (see above); the memory lives as long as this exporter
        // lends it, and a view holds a reference to the exporter.
        let failed = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                lent.at.as_ptr().cast(),
                len,
                c_int::from(!lent.writable),
                flags,
            )
        };
        if failed != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        this.exports.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// # Safety
    /// CPython calls this once for each export that it was given.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.exports.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Page-aligned memory, zeroed when made, for requests whose own memory may not be kept.
struct Block {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a `Block` is plain memory; who reads and writes it when is settled by its users below.
unsafe impl Send for Block {}
// SAFETY: as above; a shared reference gives no access to the bytes.
unsafe impl Sync for Block {}

impl Block {
    fn new(len: usize) -> Arc<Self> {
        let layout = Layout::from_size_align(len.max(1), 4096)
            .expect("a request is at most 64 MiB, far below isize::MAX");
        // SAFETY: the layout is not empty.
        let at = unsafe { alloc_zeroed(layout) };
        let at = NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout));
        Arc::new(Self { at, layout })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { dealloc(self.at.as_ptr(), self.layout) };
    }
}

/// What one thread keeps between requests.
#[derive(Default)]
struct Kept {
    exporter: Option<Py<Exporter>>,
    block: Option<Arc<Block>>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// A kept block is not larger than this; requests above it are rare and get memory of their own.
const KEPT_BYTES: usize = 1 << 20;

/// Whether anything in Python still points into the memory of a call that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Returned,
    Leaked,
}

/// Lend `data` to Python as a writable, zeroed `memoryview` for the time of `call`.
///
/// `call` must have dropped every Python object of its own by the time it returns, exceptions with
/// their frames too; what is left then was kept by the plugin.
pub(super) fn lend_for_reading<T>(
    py: Python<'_>,
    data: &mut [u8],
    owner: Option<&Owner>,
    call: impl FnOnce(&Bound<'_, PyMemoryView>) -> T,
) -> PyResult<(T, After)> {
    let (lent, scratch) = to_be_filled(data, owner);
    let outcome = lend(py, lent, call)?;
    if let Some(scratch) = scratch {
        scratch.copy_to(data);
    }
    Ok(outcome)
}

/// Lend `data` to Python as a read-only `memoryview` for the time of `call`, as
/// [`lend_for_reading`].
pub(super) fn lend_for_writing<T>(
    py: Python<'_>,
    data: &[u8],
    owner: Option<&Owner>,
    call: impl FnOnce(&Bound<'_, PyMemoryView>) -> T,
) -> PyResult<(T, After)> {
    let (lent, scratch) = to_be_stored(data, owner);
    let outcome = lend(py, lent, call)?;
    if let Some(scratch) = scratch {
        scratch.give_back();
    }
    Ok(outcome)
}

/// What to lend for a read into `data`, zeroed, which may outlive `data`: without an `owner` it is other
/// memory, which [`Scratch::copy_to`] brings to `data` when the call is over.
pub(super) fn to_be_filled(data: &mut [u8], owner: Option<&Owner>) -> (Lent, Option<Scratch>) {
    if let Some(owner) = owner {
        data.fill(0);
        let lent = Lent {
            at: NonNull::from(&mut *data).cast(),
            len: data.len(),
            writable: true,
            _owner: Arc::clone(owner),
        };
        return (lent, None);
    }
    let scratch = Scratch::of(data.len());
    // SAFETY: nobody else holds this block (`Scratch::of`), and it has at least `data.len()` bytes.
    unsafe { std::ptr::write_bytes(scratch.0.at.as_ptr(), 0, data.len()) };
    (scratch.lent(data.len(), true), Some(scratch))
}

/// What to lend for a write of `data`, as [`to_be_filled`].
pub(super) fn to_be_stored(data: &[u8], owner: Option<&Owner>) -> (Lent, Option<Scratch>) {
    if let Some(owner) = owner {
        let lent = Lent {
            at: NonNull::from(data).cast(),
            len: data.len(),
            writable: false,
            _owner: Arc::clone(owner),
        };
        return (lent, None);
    }
    let scratch = Scratch::of(data.len());
    // SAFETY: nobody else holds this block (`Scratch::of`), it has at least `data.len()` bytes, and it
    // does not overlap `data`.
    unsafe {
        std::ptr::copy_nonoverlapping(data.as_ptr(), scratch.0.at.as_ptr(), data.len());
    }
    (scratch.lent(data.len(), false), Some(scratch))
}

/// Copy what a version 1 `pread` returned into `data`.
///
/// # Errors
/// A sentence in nbdkit's words when `object` has no simple buffer or too few bytes.
pub(super) fn copy_returned(object: &Bound<'_, PyAny>, data: &mut [u8]) -> Result<(), String> {
    let mut view = std::mem::MaybeUninit::<ffi::Py_buffer>::zeroed();
    // SAFETY: `object` is a live object and `view` is ours to fill.
    let failed =
        unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_SIMPLE) };
    if failed != 0 {
        drop(PyErr::take(object.py()));
        return Err("value returned from pread does not support the buffer protocol".to_owned());
    }
    // SAFETY: the call above succeeded and filled it.
    let mut view = unsafe { view.assume_init() };
    let len = usize::try_from(view.len).unwrap_or(0);
    let outcome = if len < data.len() {
        Err(format!(
            "buffer returned from pread is too small: {len} of {} bytes",
            data.len()
        ))
    } else {
        // SAFETY: a simple buffer is contiguous and has `len` bytes, at least `data.len()`; `data` is
        // borrowed mutably, so it is not the plugin's memory. Another plugin thread may write to its
        // own buffer meanwhile; the bytes are then torn, as with any unlocked sharing.
        unsafe {
            std::ptr::copy_nonoverlapping(view.buf.cast(), data.as_mut_ptr(), data.len());
        }
        Ok(())
    };
    // SAFETY: filled by PyObject_GetBuffer, released once.
    unsafe { ffi::PyBuffer_Release(&raw mut view) };
    outcome
}

fn lend<T>(
    py: Python<'_>,
    lent: Lent,
    call: impl FnOnce(&Bound<'_, PyMemoryView>) -> T,
) -> PyResult<(T, After)> {
    let lending = Lending::begin(py, lent)?;
    let value = call(lending.view(py));
    Ok((value, lending.end(py)))
}

/// The time for which Python has the memory of a request.
pub(super) struct Lending {
    exporter: Py<Exporter>,
    view: Py<PyMemoryView>,
}

impl Lending {
    pub(super) fn begin(py: Python<'_>, lent: Lent) -> PyResult<Self> {
        let exporter = match KEPT.with_borrow_mut(|kept| kept.exporter.take()) {
            Some(exporter) => exporter,
            None => Py::new(
                py,
                Exporter {
                    lent: Mutex::new(None),
                    armed: AtomicBool::new(false),
                    exports: AtomicUsize::new(0),
                },
            )?,
        };
        let this = exporter.bind(py).get();
        *this.lent.lock() = Some(lent);
        this.armed.store(true, Ordering::Release);
        let view = PyMemoryView::from(exporter.bind(py).as_any());
        this.armed.store(false, Ordering::Release);
        match view {
            Ok(view) => Ok(Self {
                view: view.unbind(),
                exporter,
            }),
            Err(error) => {
                // Where the garbage collector ran meanwhile, something of the plugin's may have taken the
                // one export that was meant for the view; the memory is then its to keep.
                if this.exports.load(Ordering::Acquire) == 0 {
                    *this.lent.lock() = None;
                }
                Err(error)
            }
        }
    }

    /// The memory, for the plugin.
    pub(super) fn view<'py>(&self, py: Python<'py>) -> &Bound<'py, PyMemoryView> {
        self.view.bind(py)
    }

    /// Take the memory back, as far as the plugin did not keep it. Who called has dropped every Python
    /// object of the call, exceptions with their frames too.
    pub(super) fn end(self, py: Python<'_>) -> After {
        let Self { exporter, view } = self;
        let view = view.into_bound(py);
        // SAFETY: `view` is a live object.
        if unsafe { ffi::Py_REFCNT(view.as_ptr()) } > 1 {
            // Revokes a view that was kept as it was: using it raises ValueError from here on. It fails,
            // and need not succeed, where something else was taken from the view; see `exports` below.
            drop(view.call_method0(pyo3::intern!(py, "release")));
        }
        drop(view);
        let this = exporter.bind(py).get();
        if this.exports.load(Ordering::Acquire) > 0 {
            return After::Leaked;
        }
        *this.lent.lock() = None;
        KEPT.with_borrow_mut(|kept| kept.exporter = Some(exporter));
        After::Returned
    }
}

/// Memory that is lent in place of the request's own, of which this thread has one block at hand.
pub(super) struct Scratch(Arc<Block>);

impl Scratch {
    /// At least `len` bytes that nobody else holds; what they are is left from before.
    fn of(len: usize) -> Self {
        let kept = KEPT.with_borrow_mut(|kept| kept.block.take());
        let block = kept
            .filter(|block| block.layout.size() >= len && Arc::strong_count(block) == 1)
            .unwrap_or_else(|| Block::new(len.max(4096)));
        Self(block)
    }

    fn lent(&self, len: usize, writable: bool) -> Lent {
        Lent {
            at: self.0.at,
            len,
            writable,
            _owner: Arc::clone(&self.0) as _,
        }
    }

    /// Bring what the plugin wrote to `data`, for which this was made, and give it back.
    pub(super) fn copy_to(self, data: &mut [u8]) {
        let len = data.len().min(self.0.layout.size());
        // SAFETY: the block has `len` bytes and does not overlap `data`. A plugin thread that kept a
        // slice may write meanwhile: then the bytes are torn, as it asked for, but they are its own.
        unsafe { std::ptr::copy_nonoverlapping(self.0.at.as_ptr(), data.as_mut_ptr(), len) };
        self.give_back();
    }

    /// Let this thread use it again, unless the plugin kept it.
    pub(super) fn give_back(mut self) {
        // `get_mut` and not `strong_count`: what others did with it before they let go of it is over.
        if self.0.layout.size() <= KEPT_BYTES && Arc::get_mut(&mut self.0).is_some() {
            KEPT.with_borrow_mut(|kept| kept.block = Some(self.0));
        }
    }
}
