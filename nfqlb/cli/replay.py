"""`nfqlb replay`: stored packets through the engine, without root and without a network.

Knows options, progress and files. What becomes of a packet is `nfqlb.offline.replay`'s business, and how it is shown to
a person `nfqlb.cli._outcomes`'s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError, config_option, console, echo_json, json_option
from nfqlb.cli._outcomes import FRAMES
from nfqlb.cli._stored import capture_argument, has_colour, load_setup, packets_in, prepare_output
from nfqlb.cli.completion import files

if TYPE_CHECKING:
    from nfqlb.capture.packets import Packet, PacketReader
    from nfqlb.capture.writer import PcapWriter

PROGRESS_FROM = 10_000_000
"""Bytes: a smaller file is read before a progress bar could be looked at."""


@screen.wide_option(FRAMES)
@click.command()
@capture_argument
@config_option
@click.option(
    "-o",
    "--output",
    metavar="OUT.pcap",
    shell_complete=files,
    help="Write the packets that leave to this file (raw IP).",
)
@click.option("--diff", is_flag=True, help="Show the header lines removed and added in each message that leaves.")
@click.option("--no-ignored", is_flag=True, help="Leave out packets that are not for the gateway.")
@json_option
def command(
    capture: str, config_path: Path, output: str | None, diff: bool, no_ignored: bool, as_json: bool, wide: bool
) -> None:
    """Stored packets through the engine; needs no root.

    IN.pcap is a pcap or pcapng file, also gzip'ed, or - for standard input. Fragments are put together first:
    the frame that completes a packet carries its verdict. In OUT.pcap every packet is whole, even beyond an
    MTU; live, the kernel would fragment it. UDP checksums in the capture are not looked at: one taken on a
    sending host has unfinished ones.

    TIME counts seconds from the first frame.

    With --json one object a line for each frame: frame, time, side, listener, method, status, call_id,
    verdict (forward, reply, drop, ignore), reason, backend, src, dst, out_src, out_dst, out_frame.

    \b
    Example:
      nfqlb replay yesterday.pcap -c new.toml -o out.pcap
      nfqlb replay yesterday.pcap --json | jq -c 'select(.verdict == "drop")'
    """
    if diff and as_json:
        raise click.UsageError("--diff is for people and --json for scripts: choose one.")
    setup = load_setup(config_path)
    prepare_output()

    # Not before: they bring the whole engine.
    from nfqlb.capture.errors import CaptureError
    from nfqlb.cli._outcomes import Rows, summary
    from nfqlb.offline.replay import Replay

    with ExitStack() as stack:
        reader = stack.enter_context(packets_in(capture))
        writer = None if output is None else stack.enter_context(_writer(output, capture, reader))
        replay = Replay(setup, writer)
        room = None if wide else screen.room()
        table = None if as_json else Rows(colour=has_colour(), room=room, diff=diff, out_frames=writer is not None)
        packets = stack.enter_context(_progress(reader))
        fault: CaptureError | None = None
        try:
            for packet in packets:
                outcome = replay.process(packet)
                if no_ignored and outcome.row.verdict == "ignore":
                    continue
                if table is None:
                    echo_json(outcome.row._asdict())
                else:
                    click.echo(table.lines(outcome))
        except CaptureError as error:
            fault = error  # what could be read has been replayed, and is summed up
        if table is not None:
            click.echo()
            screen.show(summary(replay, reader.reassembler.never_whole, output))
        if fault is not None:
            raise fault


@contextmanager
def _writer(output: str, capture: str, reader: PacketReader) -> Iterator[PcapWriter]:
    """OUT.pcap, with times as fine as those of the capture."""
    from nfqlb.capture.frames import has_nanoseconds
    from nfqlb.capture.writer import PcapWriter

    if output == "-":
        raise click.UsageError("-o needs the name of a file: standard output has the table.")
    if os.path.exists(output) and capture != "-" and os.path.samefile(output, capture):
        raise click.UsageError(f"{output} is the capture itself: name another file with -o.")
    try:
        file = open(output, "wb")  # noqa: SIM115  (closed below; only opening it is the user's mistake)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from None
    with file:
        yield PcapWriter(file, nanoseconds=has_nanoseconds(reader.source))


@contextmanager
def _progress(reader: PacketReader) -> Iterator[Iterable[Packet]]:
    """The packets of `reader`, with a bar on stderr when that is a terminal and the file a large one."""
    size = reader.source.size
    if size is None or size <= PROGRESS_FROM or not sys.stderr.isatty():
        yield reader
        return

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # Rows on the same terminal go through rich, which writes them above the bar.
    with Progress(*columns, console=console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(os.path.basename(reader.source.name), total=size)

        def packets() -> Iterator[Packet]:
            for packet in reader:
                if packet.frame.number % 1024 == 0:
                    bar.update(task, completed=reader.source.consumed)
                yield packet

        yield packets()
