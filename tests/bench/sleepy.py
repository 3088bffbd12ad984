"""A disk whose every request takes its time, and which may have a thread that computes.

Parameters:
    delay=SECONDS     how long each read takes (default: 0)
    parallel=yes      reads may overlap
    compute=yes       a thread computes all the time
"""

import threading
import time

import nbdkit

API_VERSION = 2

SIZE = 64 << 20
settings = {"delay": 0.0, "parallel": False, "compute": False}


def config(key, value):
    if key not in settings:
        raise ValueError(f"unknown parameter {key!r}: delay, parallel or compute is known")
    settings[key] = float(value) if key == "delay" else value == "yes"


def thread_model():
    if settings["parallel"]:
        return nbdkit.THREAD_MODEL_PARALLEL
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def after_fork():
    if settings["compute"]:
        threading.Thread(target=compute, daemon=True).start()


def compute():
    number = 0
    while True:
        number += 1


def open(readonly):
    return None


def get_size(h):
    return SIZE


def pread(h, buf, offset, flags):
    if settings["delay"]:
        time.sleep(settings["delay"])
    buf[:] = bytes(len(buf))
