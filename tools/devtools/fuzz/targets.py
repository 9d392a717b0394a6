"""All targets by name. Importing this imports what is fuzzed: under atheris, do it where imports are instrumented."""

from devtools.fuzz.edges import EdgesTarget
from devtools.fuzz.files import CaptureTarget, ConfigTarget
from devtools.fuzz.packets import EngineTarget, JourneyTarget, PacketTarget, TwinsTarget
from devtools.fuzz.readers import ListTarget, MessageTarget, UriTarget, ViaTarget
from devtools.fuzz.target import Target

TARGETS: dict[str, type[Target]] = {
    each.name: each
    for each in (
        EngineTarget, JourneyTarget, TwinsTarget, PacketTarget, MessageTarget, ListTarget, ViaTarget, UriTarget,
        EdgesTarget, CaptureTarget, ConfigTarget,
    )
}  # fmt: skip
