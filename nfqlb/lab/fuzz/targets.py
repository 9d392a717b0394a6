"""All targets by name. Importing this imports what is fuzzed: under atheris, do it where imports are instrumented."""

from nfqlb.lab.fuzz.edges import EdgesTarget
from nfqlb.lab.fuzz.files import CaptureTarget, ConfigTarget
from nfqlb.lab.fuzz.packets import EngineTarget, JourneyTarget, PacketTarget, TwinsTarget
from nfqlb.lab.fuzz.readers import ListTarget, MessageTarget, UriTarget, ViaTarget
from nfqlb.lab.fuzz.target import Target

TARGETS: dict[str, type[Target]] = {
    each.name: each
    for each in (
        EngineTarget, JourneyTarget, TwinsTarget, PacketTarget, MessageTarget, ListTarget, ViaTarget, UriTarget,
        EdgesTarget, CaptureTarget, ConfigTarget,
    )
}  # fmt: skip
