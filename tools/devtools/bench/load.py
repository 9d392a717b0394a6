"""The generator of load, from Python: compiles `load.c`, writes the scripts for it, talks to it.

`load.c` says what it does. Its process is pinned to a core of its own and lives as long as its network; between two
runs it sleeps.
"""

import json
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.bench import traffic
from devtools.bench.network import EXTERNAL, INSIDE, INTERNAL, OUTSIDE, PORT, Network
from nfqlb.lab import LabError, namespaces

SOURCE = Path(__file__).with_name("load.c")

JUNK = tuple(kind for kind, _ in traffic.JUNK if kind.startswith("junk"))

MIXES = {
    "register": ("register",),
    "call": ("call-in", "call-out"),
    "in-dialog": ("info-in", "info-out"),
    "junk": JUNK,
    "register-junk": tuple(each for kind in JUNK for each in ("register", kind)),
}
"""Mix → its scripts, which take turns."""


def compiled(place: Path) -> Path:
    """The program, made in `place`. LabError when it cannot be made."""
    program = place / "load"
    try:
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-o", str(program), str(SOURCE)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except FileNotFoundError:
        raise LabError("The generator of load is compiled: apt-get install gcc libc6-dev.") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"gcc could not compile {SOURCE.name}: {error.stderr[-800:]}") from None
    return program


def scripts_text(register_size: int = traffic.REGISTER_SIZE) -> bytes:
    """All scripts as `load` reads them."""
    found = b""
    for name, script in traffic.scripts(register_size).items():
        found += _script(name, len(script.dialog), [*script.dialog, *script.steps], silent=False)
    for kind, text in traffic.JUNK:
        found += _script(kind, 0, [traffic.Step(kind, traffic.OUTSIDE, text)], silent=True)
    return found


def _script(name: str, opening: int, steps: list[traffic.Step], *, silent: bool) -> bytes:
    lines = [f"script {name} {opening} {len(steps)} {int(silent)}\n".encode()]
    for step in steps:
        text = step.text.encode("latin-1")
        lines.append(b"step %d %d\n%b\n" % (step.sender == traffic.INSIDE, len(text), text))
    return b"".join(lines)


@dataclass(frozen=True)
class Run:
    """What the generator saw of one run. Latencies in microseconds: from sending to arrival behind the gateway."""

    sent: int
    awaited: int
    """Of these, how many should arrive somewhere."""
    arrived: int
    stray: int
    """Frames that no message was waiting for: replies of the gateway itself, above all."""
    example: str
    """Beginning of the first of them."""
    seconds: float
    rate: float
    """Messages a second that were sent."""
    lag_ms: float
    """The most by which a chain of messages was begun too late."""
    ring_drops: int
    """Frames that the generator was too slow to read: they came, but count as lost."""
    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @property
    def loss(self) -> float:
        """Part of the awaited messages that did not arrive."""
        return 1 - self.arrived / self.awaited if self.awaited else 0.0


class Load:
    """The process. Use as a context manager."""

    def __init__(
        self,
        program: Path,
        network: Network,
        core: int,
        *,
        phones: int,
        backends: int,
        scripts: Path,
    ) -> None:
        gateway = namespaces.NETNS_DIR / network.gateway
        self._argv = [
            *("taskset", "-c", str(core), str(program)),
            *(
                f"{side}={gateway},{name},{network.addresses[name]}"
                for side, name in (("out", OUTSIDE), ("in", INSIDE))
            ),
            *(f"external={EXTERNAL}:{PORT}", f"internal={INTERNAL}:{PORT}"),
            *(f"phones={phones}", f"backends={backends}", f"scripts={scripts}"),
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "Load":
        errors = tempfile.TemporaryFile()
        self._stack.callback(errors.close)
        self._errors = errors
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self._stack.callback(self._end)
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def prepare(self, phones: int) -> None:
        """Register so many phones and open their dialogs. LabError when the system does not forward that."""
        answer = self._ask(f"prepare {phones}")
        if answer["arrived"] != answer["sent"] or not answer["sent"]:
            said = f" Instead there came: {answer['example']}" if answer["stray"] else ""
            raise LabError(f"Of {answer['sent']} messages {answer['arrived']} arrived when phones registered.{said}")

    def run(self, mix: str, rate: float, seconds: float) -> Run:
        """Play a mix of MIXES at `rate` messages a second."""
        return Run(**self._ask(f"run {'+'.join(MIXES[mix])} {rate:.1f} {round(seconds * 1000)}"))

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise LabError(f"The generator of load ended: {self._errors.read().decode(errors='replace').strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
