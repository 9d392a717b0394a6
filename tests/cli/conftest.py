"""Where the commands on stored packets run."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pcap_files import EPOCH, Stored, write_pcap
from sipcase import KEY
from stored_case import CONFIG, Nfqlb, packets

from nfqlb.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with nfqlb.toml and in.pcap, which is the current one."""
    (tmp_path / "nfqlb.toml").write_text(CONFIG)
    (tmp_path / "secret").write_bytes(KEY + b"\n")
    (tmp_path / "secret").chmod(0o600)
    frames = [Stored(data, EPOCH * 10**9 + number * 10**7) for number, data in enumerate(packets())]
    write_pcap(tmp_path / "in.pcap", frames)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nfqlb(place: Path) -> Nfqlb:  # noqa: ARG001  (where the command runs)
    def run(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(main, [command, "-c", "nfqlb.toml", *arguments])

    return run
