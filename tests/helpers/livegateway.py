"""A gateway that `nfqlb run` runs in the middle one of livenet's namespaces, and what is to be seen of it."""

import os
import re
import signal
import subprocess
import time
from typing import Any

from livehost import NFQLB, Host, request
from livenet import until

from nfqlb.gateway.host.procfs import alive
from nfqlb.gateway.runtime.control_socket import ask
from nfqlb.gateway.shm.board import Cell
from nfqlb.lab import namespaces


class Gateway:
    """A host on which `nfqlb run` runs, and all that can be seen of it from outside."""

    def __init__(self, host: Host, *, apply_rules: bool = True) -> None:
        self.host, self.net = host, host.net
        self._argv = ["--apply-rules"] if apply_rules else []
        self.process = host.start(*self._argv)

    def start(self) -> bool:
        """Start another one; whether it runs. If not, one runs already."""
        command = [*NFQLB, "run", "-c", str(self.host.config), *self._argv]
        process = namespaces.spawn(self.net.gateway, command, self.net.folder / "log", pipe=True)
        self.net.adopt(process)
        if self.net.line(process).startswith("nfqlb is ready"):
            self.process = process
            return True
        process.wait(10)
        assert "Another gateway runs here" in self.net.log.splitlines()[-1], self.net.log
        return False

    def status(self) -> dict[str, Any]:
        return ask(self.net.run_dir, {"do": "status"}, timeout=10)

    def workers(self) -> list[int]:
        return [slot.cells[Cell.PID] for slot in self.net.board().slots]

    def rules(self) -> list[str]:
        """Without the numbers of their counters."""
        return [line for line in self.host.state() if not line.startswith(":")]

    def led_to(self) -> set[int]:
        """Numbers of the queues that packets reach by the rules."""
        return {int(found) for found in re.findall(r"--queue-num (\d+)", "\n".join(self.rules()))}

    def picture(self) -> dict[str, object]:
        """What a refused change must leave as it is."""
        status = self.status()
        status["workers"] = self.workers()
        del status["alarms"]  # they come when the prober finds nobody at home
        return {**status, "rules": self.rules(), "queues": list(self.net.queues()), "files": sorted(self.files())}

    def files(self) -> list[str]:
        return os.listdir(self.net.run_dir)

    def reload(self, *argv: str, ok: bool = True) -> "subprocess.CompletedProcess[str]":
        return self._change(["reload", *argv], ok)

    def upgrade(self, *, ok: bool = True) -> "subprocess.CompletedProcess[str]":
        return self._change(["upgrade"], ok)

    def change(self, what: str) -> None:
        """The same without a process of its own, which takes the most of the time; whether there is a change or not."""
        answer = ask(self.net.run_dir, {"do": what, "force": True}, timeout=30)
        assert answer["ok"], answer
        if what == "upgrade":
            assert until(lambda: self.status()["pid"] == answer["pid"])

    def _change(self, command: list[str], ok: bool) -> "subprocess.CompletedProcess[str]":
        done = self.host.call(*command)
        assert done.returncode == (not ok), (done.stdout, done.stderr, self.net.log)
        return done

    def serves(self, family: int = 4, **more: Any) -> bool:
        """A request goes all the way to the backend, where probes come in, too."""
        phone, farm = self.net.phone_socket(family), self.net.receiver(family)
        try:
            phone.send(request(phone, f"b{time.monotonic_ns()}", **more))
            return any(farm.recv(65535).startswith(b"REGISTER ") for _ in range(5))
        finally:
            phone.close()
            farm.close()

    def settled(self, workers: int = 2) -> bool:
        """Only who is in force is left of all there were: supervisor, workers, and who asks others, if any."""
        status = self.status()
        others = status["prober"], status["guard"], status["names"]["resolver"]
        now = [pid for pid in (status["pid"], *others, *self.workers()) if pid]
        return len(self.workers()) == workers and sorted(now) == sorted(namespaces.members([self.net.gateway]))

    def stop(self, *, traceback: bool = False) -> None:
        """Nothing may be left behind, whoever runs now. `traceback`: the test ordered some."""
        pid = self.status()["pid"]
        os.kill(pid, signal.SIGTERM)
        assert until(lambda: not alive(pid), 15), self.net.log
        assert until(lambda: not namespaces.members([self.net.gateway]))
        assert self.net.queues() == {}
        assert set(self.files()) <= {"sysctls.json", "state"}
        assert traceback or "Traceback" not in self.net.log
        assert "is looked for only now that privileges are given up" not in self.net.log
