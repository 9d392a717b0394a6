"""From a TOML file to a Config: read, checked, built.

`load(path)` gives a Config or raises ConfigError with every mistake at once.
"""

import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from nfqlb import RUN_DIR
from nfqlb.config.model import Config, Gateway, Rules, Workers
from nfqlb.config.problems import ConfigError, Problem, errors_in
from nfqlb.proxy.setup import Pool

FILE_MAX = 4 << 20
"""Bytes; a configuration is far smaller, and the wrong file may be far larger."""


def load(path: Path | str) -> Config:
    """Read and check the file. Raises ConfigError, with all mistakes that can be found, when there is one."""
    path = Path(path)
    return build(path, parse(path))


def run_dir_in(path: Path) -> Path:
    """[gateway] run_dir of a file that may have mistakes; the default where the file does not tell."""
    try:
        gateway = parse(path).get("gateway")
    except ConfigError:
        gateway = None
    # Not by way of pydantic, which takes longer to be loaded than most answers of the gateway to come.
    told = gateway.get("run_dir") if isinstance(gateway, dict) else None
    return Path(told if isinstance(told, str) and told.startswith("/") and "\0" not in told else RUN_DIR)


def parse(path: Path) -> dict[str, Any]:
    """The file as TOML's plain values."""

    def wrong(text: str, place: str = "file") -> ConfigError:
        return ConfigError(path, [Problem(place, text)])

    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX + 1)
    except FileNotFoundError:
        raise wrong("there is no such file; name another one with -c") from None
    except (OSError, ValueError) as error:
        raise wrong(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > FILE_MAX:
        raise wrong(f"it is larger than {FILE_MAX >> 20} MiB; is it a configuration?")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise wrong("expected UTF-8 text", f"line {line}") from None
    except RecursionError:
        raise wrong("the lists or tables in it are nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        text, place = str(error), "file"
        if found := re.fullmatch(r"(.*) \(at (line \d+, column \d+|end of document)\)", text, re.DOTALL):
            text, place = found.groups()
        raise wrong(f"not TOML: {text[:1].lower()}{text[1:]}", place) from None
    except ValueError:
        raise wrong("not TOML: a number in it has thousands of digits") from None


def build(path: Path, raw: dict[str, Any]) -> Config:
    """The parsed file as a Config. `path` is what errors name and where relative file names start."""
    # pydantic takes a moment to import; who only needs the types of this package does not pay for it.
    from nfqlb.config.checks.contradictions import contradictions
    from nfqlb.config.pair import pair_of
    from nfqlb.config.parse import read_draft

    problems: list[Problem] = []
    draft = read_draft(raw, problems)
    problems += contradictions(draft)
    problems.sort(key=lambda problem: position(problem.place, raw))
    if errors_in(problems):
        raise ConfigError(path, problems)
    gateway, path_table, workers, egress = draft.gateway, draft.path, draft.workers, draft.egress
    rules, log, health, dns, limits = draft.rules, draft.log, draft.health, draft.dns, draft.limits
    assert gateway is not None
    assert path_table is not None
    assert workers is not None
    assert egress is not None
    assert rules is not None
    assert log is not None
    assert dns is not None
    assert limits is not None
    assert health is not None
    checks = {
        draft.pool_names[f"{place}.name"]: replace(health.value(), **table.told)
        for place, table in draft.pool_health.items()
        if table
    }
    return Config(
        path=path,
        gateway=Gateway(
            name=gateway.name,
            secret_file=path.parent / gateway.secret_file,
            run_dir=Path(gateway.run_dir),
            state_dir=Path(gateway.state_dir),
        ),
        listeners=tuple(table.value() for table in draft.listeners.values() if table),
        pools=tuple(
            Pool(
                name=pool.name,
                backends=tuple(
                    table.value() for table in draft.backends[place].values() if table and not table.is_named
                ),
                hash_on=pool.hash_on,
                min_up=pool.min_up,
                panic=pool.panic,
                warmup=pool.warmup,
            )
            for place, pool in draft.pools.items()
            if pool
        ),
        names=tuple(
            table.named(pool.name)
            for place, pool in draft.pools.items()
            if pool
            for table in draft.backends[place].values()
            if table and table.is_named
        ),
        routes=tuple(table.value() for table in draft.routes.values() if table),
        path_policy=path_table.policy,
        accept_unsigned=path_table.accept_unsigned,
        workers=Workers(
            count=workers.count or len(os.sched_getaffinity(0)),
            queue=workers.queue,
            queue_length=workers.queue_length,
            socket_buffer=workers.socket_buffer,
            pin=workers.pin,
        ),
        egress=egress.networks,
        egress_names=egress.names,
        dns=dns.value(),
        limits=limits.value(),
        rules=Rules(**dict(rules)),
        log=log.value(),
        health=health.value(),
        pool_health=checks,
        ha=pair_of(draft, path.parent),
        warnings=tuple(problem for problem in problems if problem.severity == "warning"),
        notes=tuple(problem for problem in problems if problem.severity == "note"),
    )


def position(place: str, raw: dict[str, Any]) -> tuple[int, list[int]]:
    """Sorts places as they stand in the file: by top-level table, then by the numbers of the tables in it."""
    top = re.split(r"[.\[]", place, maxsplit=1)[0]
    order = list(raw).index(top) if top in raw else len(raw)
    return order, [int(number) for number in re.findall(r"\[(\d+)\]", place)]
