"""Who is compared: each contender makes a disk of the given size and serves it one way.

A group is compared among itself; pydisk is in each. Everybody's disk lies in memory: a bytearray in
the same Python file for pydisk and for nbdkit, nbdkit's memory plugin, a file on a tmpfs for others.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .processes import Failed, Server

DISK = Path(__file__).with_name("disk.py")
FLOOR = Path(__file__).with_name("floor.c")
TMPFS = Path("/dev/shm")


@dataclass(frozen=True)
class Stage:
    """What a contender gets: a folder of its own and the size of the disk."""

    folder: Path
    size_bytes: int

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    @contextmanager
    def backing(self) -> Iterator[Path]:
        """A file on a tmpfs."""
        path = TMPFS / f"{self.folder.name}.{os.getpid()}.raw"
        with path.open("wb") as file:
            file.truncate(self.size_bytes)
        try:
            yield path
        finally:
            path.unlink()


@dataclass(frozen=True)
class Served:
    """A disk in service."""

    address: str
    pids: list[int]


Start = Callable[[Stage], Iterator[Served]]


@dataclass(frozen=True)
class Contender:
    """One way to serve a disk."""

    name: str
    group: str
    start: Start
    needs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Why it cannot take part here."""
        for command in self.needs:
            if shutil.which(command) is None:
                return f"there is no `{command}`"
        for device in self.devices:
            if not Path(device).exists():
                return f"this kernel has no `{device}`"
        return None


def pydisk(program: Path, name: str, group: str, plugin: Sequence[str] = (),
           options: Sequence[str] = ()) -> Contender:
    """pydisk as `program`, in the role that `group` asks for; `plugin` is another one than the
    disk of all, with its parameters; `options` are those of `attach`."""
    def start(stage: Stage) -> Iterator[Served]:
        target = {
            "nbd": f"nbd+unix:///?socket={stage.socket}",
            "file": str(stage.folder / "disk.img"),
            "loop": _free("/dev/loop"),
            "ublk": _free("/dev/ublkb"),
            "nbd-kernel": _free("/dev/nbd"),
        }[group]
        script, *parameters = plugin or (str(DISK), f"size={stage.size_bytes}")
        command = [str(program), "attach", "-f", *options, "--name", stage.folder.name, script,
                   target, *parameters]
        with Server(command, stage.log) as server:
            # It prints the path once a read of it has succeeded.
            server.wait_until(lambda: bool(stage.log.read_bytes().strip()))
            said = stage.log.read_text().split()[-1]
            address = target if group == "nbd" else said
            server.wait_until(lambda: group == "nbd" or Path(address).exists())
            yield Served(address, server.pids())
    devices = {"file": ("/dev/fuse",), "loop": ("/dev/fuse", "/dev/loop-control"),
               "ublk": ("/dev/ublk-control",), "nbd-kernel": ("/dev/nbd0",)}
    return Contender(name, group, start, devices=devices.get(group, ()))


def _nbdkit(stage: Stage, *plugin: str) -> Server:
    return Server(["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(stage.socket), *plugin,
                   f"size={stage.size_bytes}"], stage.log)


def nbdkit_python(stage: Stage) -> Iterator[Served]:
    with _nbdkit(stage, "python", str(DISK)) as server:
        server.wait_until(stage.socket.exists)
        yield Served(stage.uri, server.pids())


def nbdkit_memory(stage: Stage) -> Iterator[Served]:
    with _nbdkit(stage, "memory") as server:
        server.wait_until(stage.socket.exists)
        yield Served(stage.uri, server.pids())


def floor(stage: Stage) -> Iterator[Served]:
    """What a server of one thread takes at least: a program in C that only copies."""
    program = stage.folder / "floor"
    made = subprocess.run(["gcc", "-O2", "-o", str(program), str(FLOOR)], capture_output=True,
                          text=True, check=False, timeout=60)
    if made.returncode != 0:
        raise Failed(made.stderr.strip())
    with Server([str(program), str(stage.socket), str(stage.size_bytes)], stage.log) as server:
        server.wait_until(stage.socket.exists)
        yield Served(stage.uri, server.pids())


def qemu_nbd(stage: Stage) -> Iterator[Served]:
    with stage.backing() as file:
        command = ["qemu-nbd", "--format=raw", "--persistent", "--shared=4",
                   f"--socket={stage.socket}", str(file)]
        with Server(command, stage.log) as server:
            server.wait_until(stage.socket.exists)
            yield Served(stage.uri, server.pids())


def nbdfuse(stage: Stage) -> Iterator[Served]:
    path = stage.folder / "disk.img"
    path.touch()
    command = ["nbdfuse", str(path), "[", "nbdkit", "--exit-with-parent", "python",
               str(DISK), f"size={stage.size_bytes}", "]"]
    with Server(command, stage.log, lambda: _unmount(path)) as server:
        server.wait_until(lambda: path.stat().st_size == stage.size_bytes)
        yield Served(str(path), server.pids())


def qemu_fuse(stage: Stage) -> Iterator[Served]:
    path = stage.folder / "disk.img"
    path.touch()
    with stage.backing() as file:
        command = [
            "qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,filename={file}",
            "--export", f"type=fuse,id=export,node-name=disk,mountpoint={path},writable=on"]
        with Server(command, stage.log) as server:
            server.wait_until(lambda: path.stat().st_size == stage.size_bytes)
            yield Served(str(path), server.pids())


def _rublk(stage: Stage, *target: str) -> Iterator[Served]:
    device = _free("/dev/ublkb")
    number = device.removeprefix("/dev/ublkb")
    command = ["rublk", "add", *target, "--number", number, "--queue", "1", "--foreground"]

    def delete() -> None:
        subprocess.run(["rublk", "del", "--number", number], capture_output=True, check=False,
                       timeout=60)
    with Server(command, stage.log, delete) as server:
        server.wait_until(Path(device).exists)
        yield Served(device, server.pids())


def rublk_null(stage: Stage) -> Iterator[Served]:
    return _rublk(stage, "null")


def rublk_loop(stage: Stage) -> Iterator[Served]:
    with stage.backing() as file:
        yield from _rublk(stage, "loop", "--file", str(file))


def kernel_nbd(stage: Stage) -> Iterator[Served]:
    device = _free("/dev/nbd")

    def disconnect() -> None:
        subprocess.run(["nbd-client", "-d", device], capture_output=True, check=False, timeout=60)
    server = _nbdkit(stage, "python", str(DISK))
    with server:
        server.wait_until(stage.socket.exists)
        done = subprocess.run(["nbd-client", "-unix", str(stage.socket), device],
                              capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            raise Failed(f"nbd-client: {done.stderr.strip()}")
        try:
            yield Served(device, server.pids())
        finally:
            disconnect()


def _free(prefix: str) -> str:
    """The first device of this kind that nobody uses."""
    for number in range(64):
        name = f"{prefix}{number}"
        block = Path("/sys/block") / Path(name).name
        taken = {
            "/dev/loop": (block / "loop").exists(),
            "/dev/nbd": (block / "pid").exists(),
        }.get(prefix, block.exists())
        if not taken:
            return name
    raise Failed(f"{prefix}N: none is free")


def _unmount(path: Path) -> None:
    for _ in range(20):
        done = subprocess.run(["fusermount3", "-u", str(path)], capture_output=True, check=False,
                              timeout=60)
        if done.returncode == 0:
            return
        time.sleep(0.1)


def peers() -> tuple[Contender, ...]:
    """Everybody but pydisk, group by group."""
    fuse, ublk, nbd = ("/dev/fuse",), ("/dev/ublk-control",), ("/dev/nbd0",)
    nbdkit_nbdfuse = Contender("nbdfuse + nbdkit, Python plugin", "file", nbdfuse,
                               ("nbdfuse", "nbdkit", "fusermount3"), fuse)
    kernel = Contender("kernel nbd + nbdkit, Python plugin", "nbd-kernel", kernel_nbd,
                       ("nbd-client", "nbdkit"), nbd)
    return (
        Contender("nbdkit, Python plugin", "nbd", nbdkit_python, ("nbdkit",)),
        Contender("nbdkit, memory plugin in C", "nbd", nbdkit_memory, ("nbdkit",)),
        Contender("floor: one thread in C", "nbd", floor, ("gcc",)),
        Contender("qemu-nbd, file on a tmpfs", "nbd", qemu_nbd, ("qemu-nbd",)),
        nbdkit_nbdfuse,
        Contender("qemu-storage-daemon, file on a tmpfs", "file", qemu_fuse,
                  ("qemu-storage-daemon",), fuse),
        Contender(nbdkit_nbdfuse.name, "loop", nbdfuse, nbdkit_nbdfuse.needs, fuse),
        Contender("rublk, null", "ublk", rublk_null, ("rublk",), ublk),
        Contender("rublk, loop on a tmpfs", "ublk", rublk_loop, ("rublk",), ublk),
        Contender(kernel.name, "ublk", kernel_nbd, kernel.needs, nbd),
        kernel,
    )
