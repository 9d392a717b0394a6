"""`nfqlb explain`: why a stored packet went where it went, rule by rule.

Knows options and how an explanation is printed. What decided is told by `nfqlb.offline.explain`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfqlb.capture.packets import FRAGMENT
from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError, config_option, echo_json, json_option
from nfqlb.cli._outcomes import marked
from nfqlb.cli._stored import capture_argument, has_colour, load_setup, packets_in, prepare_output
from nfqlb.layout import wrapped
from nfqlb.offline.header_diff import printable

if TYPE_CHECKING:
    from nfqlb.capture.packets import PacketReader
    from nfqlb.offline.explain import Explanation
    from nfqlb.offline.replay import Replay


@click.command()
@capture_argument
@config_option
@click.option("-n", "--frame", type=click.IntRange(min=1), metavar="FRAME", help="The frame, counted from 1.")
@click.option("--all", "every", is_flag=True, help="Every frame of the capture.")
@json_option
def command(capture: str, config_path: Path, frame: int | None, every: bool, as_json: bool) -> None:
    """Why a packet went where it went, rule by rule.

    Without -n or --all: the first frame with a SIP message. For a fragment, the packet that it became part of.
    With --json one object a line: the keys of `nfqlb replay --json`, and frames, sentence, rules (rule, title,
    text), changes (mark, text), body_before and body_after (bytes).

    \b
    Example:
      nfqlb explain yesterday.pcap -n 12 -c /etc/nfqlb/nfqlb.toml
    """
    if every and frame is not None:
        raise click.UsageError("--all explains every frame and -n one of them: choose one.")
    setup = load_setup(config_path)
    prepare_output()

    from nfqlb.offline.replay import Replay

    with packets_in(capture) as reader:
        colour = has_colour()
        explained = _explanations(Replay(setup), reader, frame, every)
        for number, explanation in enumerate(explained):
            if as_json:
                echo_json(_as_dict(explanation))
            else:
                click.echo("\n" * bool(number) + _text(explanation, colour, screen.room()))


def _explanations(replay: Replay, reader: PacketReader, wanted: int | None, every: bool) -> Iterator[Explanation]:
    """What was asked for. Raises UserError when it is not there."""
    from nfqlb.offline.explain import explain

    frames, fragment = 0, None
    for packet in reader:
        frames = packet.frame.number
        if every:
            yield explain(replay, packet)
        elif wanted is None:
            explanation = explain(replay, packet)
            if explanation.row.method is not None or explanation.row.status is not None:
                yield explanation
                return
        elif wanted in packet.frames:
            explanation = explain(replay, packet)
            if packet.skipped != FRAGMENT:
                yield explanation
                return
            fragment = explanation  # the packet that it is part of may still become whole
        else:
            replay.process(packet)  # as it would have been live, before the one that was asked for
    if fragment is not None:
        yield fragment
    elif wanted is not None:
        raise UserError(f"{reader.source.name} has no frame {wanted}: it has {frames}.")
    elif not every:
        raise UserError(f"{reader.source.name} has no SIP message over UDP in its {frames} frames.")


def _as_dict(explanation: Explanation) -> dict[str, Any]:
    before, after = explanation.body
    return {
        **explanation.row._asdict(),
        "frames": explanation.frames,
        "sentence": explanation.sentence,
        "rules": [step._asdict() for step in explanation.rules],
        "changes": [line._asdict() for line in explanation.changes],
        "body_before": before,
        "body_after": after,
    }


def _text(explanation: Explanation, colour: bool, room: int | None) -> str:
    """`room`: columns of the terminal. Sentences are wrapped there between words, header lines between parameters."""
    row = explanation.row
    heading = " ".join(
        [
            f"Frame {row.frame}" if len(explanation.frames) == 1 else f"Frames {_listed(explanation.frames)}",
            *([printable(row.method or f"response {row.status}")] if row.method or row.status else []),
            *([f"Call-ID {printable(row.call_id)}"] if row.call_id else []),
        ]
    )
    text = [click.style(line, bold=True) if colour else line for line in wrapped(heading, room, hang=2)]
    text += wrapped(printable(explanation.sentence), room)
    if explanation.rules:
        text += ["", "Rules that decided, in order"]
    for rule, title, told in explanation.rules:
        text += wrapped(f"{rule:3}  {title}", room, indent=2, hang=7)
        text += wrapped(printable(told), room, indent=7)
    if explanation.changes:
        before, after = explanation.body
        text += ["", *wrapped(f"Before: {row.src} → {row.dst}", room, hang=2)]
        text += [*_message(explanation, "-", colour, room), _body(before)]
        if row.out_dst:
            text += ["", *wrapped(f"After: {row.out_src} → {row.out_dst}", room, hang=2)]
            text += [*_message(explanation, "+", colour, room), _body(after or 0)]
    return "\n".join(text)


def _message(explanation: Explanation, side: str, colour: bool, room: int | None) -> Iterator[str]:
    """The header lines of one of the two messages, those marked that the other does not have."""
    for mark, line in explanation.changes:
        if mark in (" ", side):
            yield from marked(mark, line, colour, room)


def _body(size: int) -> str:
    return f"    (body of {size} bytes)" if size else "    (no body)"


def _listed(frames: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, frames[:8]))
    return shown + (f" … {frames[-1]}" if len(frames) > 8 else "")
