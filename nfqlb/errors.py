"""All that people can put right has one root: whatever else is raised and not caught is a bug of ours.

Here are the root, and those kinds of errors that several rooms raise or catch. The others stand where they are raised:
ConfigError, Refused, ControlError, PeerError, UnitError, CaptureError, LabError, each of them right below the root.
"""


class NfqlbError(Exception):
    """Something that is not our bug; the text says what is wrong and what to do, in a sentence or two. Never raised
    itself: there is always a kind.
    """


class HostError(NfqlbError):
    """The host cannot be read or changed as needed: queues, privileges, routes, iptables, sysctls."""


class StateError(NfqlbError):
    """What a gateway keeps in a file for others, or for the time after it, cannot be read or written."""


class BoardError(StateError):
    """There is no board to read; the text says why and what to do."""


class NotRunning(BoardError):
    """Because no gateway runs. How to start one is for the caller to say: it knows the configuration."""


class PacketError(NfqlbError):
    """Bytes that somebody has sent are not what they should be. Caught where the fate of a packet is decided, so the
    text is for a trace or a test; what to do is for the sender to know.
    """
