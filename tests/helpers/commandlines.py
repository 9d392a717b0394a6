"""Reads command lines as documentation writes them, and proves that `nfqlb` would take them."""

import re
import shlex

from click.testing import CliRunner

from nfqlb.cli import main


def nfqlb_calls(line: str) -> list[list[str]]:
    """The arguments of each call of nfqlb in a shell line: after `sudo`, beside a pipe, redirected or not."""
    calls = []
    for part in re.split(r"\|\|?|&&|;", line):
        words = shlex.split(part, comments=True)
        while words and (words[0] == "sudo" or re.match(r"\w+=", words[0])):
            del words[0]
        if words and words[0].rpartition("/")[2] == "nfqlb":
            end = next((at for at, word in enumerate(words) if re.match(r"\d?[<>]", word)), len(words))
            calls.append(words[1:end])
    return calls


def assert_parses(line: str) -> None:
    """Every call in the line names a command and options that exist."""
    for arguments in nfqlb_calls(line):
        # An unknown command or option fails before --help is looked at; nothing is run.
        result = CliRunner().invoke(main, [*arguments, "--help"])
        assert result.exit_code == 0, f"{line}\n{result.output}"
