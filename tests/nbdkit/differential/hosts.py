"""The two hosts of a plugin, as servers on a Unix socket."""

import os
import signal
import subprocess
import time
from pathlib import Path

from .scripts import has

# Seconds after which a server counts as hung.
PATIENCE = 60


class Host:
    """Where a plugin runs."""

    name: str

    def command(self, folder, script, case):
        """The command that serves a plugin until it is ended."""
        raise NotImplementedError

    def is_ready(self, server):
        """Whether clients can come. None may come to find out, for the plugin would see it."""
        raise NotImplementedError

    def serve(self, folder, case):
        """Start to serve the case's plugin in a folder of its own."""
        folder.mkdir()
        script = folder / "plugin.py"
        script.write_text(case.script)
        return Server(self, self.command(folder, script, case), folder, case)


class Nbdkit(Host):
    name = "nbdkit"

    def __init__(self, program):
        self._program = program

    def version(self):
        command = [self._program, "--version"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return tuple(int(part) for part in said.split()[1].split("."))

    def command(self, folder, script, case):
        return [self._program, "--foreground", "--exit-with-parent", "--unix", str(folder / "socket"),
                *["--readonly"] * case.read_only, "python", str(script), *case.parameters]

    def is_ready(self, server):
        # It listens before it calls after_fork.
        if has(server.case, "after_fork") and "after_fork" not in server.calls.text():
            return False
        accepts = "00010000"
        for line in Path("/proc/net/unix").read_text().splitlines():
            if line.endswith(f" {server.socket}"):
                return line.split()[3] == accepts
        return False


class Pydisk(Host):
    name = "pydisk"

    def __init__(self, program):
        self._program = program

    def command(self, folder, script, case):
        return [str(self._program), "attach", "--foreground", "--name", "disk",
                *["--read-only"] * case.read_only, str(script),
                f"nbd+unix:///?socket={folder / 'socket'}", *case.parameters]

    def is_ready(self, server):
        return "info: attached as " in server.log()


class Server:
    """A plugin that is served, or refuses to be."""

    def __init__(self, host, command, folder, case):
        self.socket = folder / "socket"
        self.calls = Calls(folder / "calls")
        self._host = host
        self.case = case
        self._log = folder / "log"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        environment |= {"CALLS": str(self.calls.path), "PYDISK_STATE_DIR": str(folder / "state"),
                        "LC_ALL": "C"}
        with self._log.open("wb") as log:
            # In the foreground it passes a signal on once.
            self._process = subprocess.Popen(
                ["timeout", "--foreground", "--kill-after=20", str(PATIENCE), *command],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_serving(self):
        """Wait until clients can come, or until it is clear that none can."""
        if self.case.fails_to_start:
            # nbdkit listens before it calls after_fork: some clients would come, and some not.
            self._process.wait()
        while self._process.poll() is None:
            if self._host.is_ready(self):
                return True
            time.sleep(0.002)
        return False

    def runs(self):
        return self._process.poll() is None

    def stop(self):
        """End it; says how it ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        code = self._process.wait()
        if code == 124:
            return "hangs"
        # `timeout` dies of the signal of which its command died.
        return f"exits {code}" if 0 <= code < 128 else "crashes"

    def log(self):
        return self._log.read_text(errors="replace")


class Calls:
    """What the plugin has noted."""

    def __init__(self, path):
        self.path = path
        self._read = 0
        self._all = []

    def text(self):
        return self.path.read_text() if self.path.exists() else ""

    def more(self):
        """The calls since the last time."""
        if not self.path.exists():
            return []
        with self.path.open() as calls:
            calls.seek(self._read)
            new = calls.read().splitlines()
            self._read = calls.tell()
        self._all += new
        return new

    def until_closed(self, serves):
        """The same, once each handle that was opened has been closed, or the server has ended."""
        new = self.more()
        limit = time.monotonic() + 2
        # What raises in open leaves no handle; get_size is asked of each.
        while self._count("close ") < self._count("get_size ") and serves() and time.monotonic() < limit:
            time.sleep(0.002)
            new += self.more()
        return new

    def _count(self, start):
        return sum(call.startswith(start) for call in self._all)
