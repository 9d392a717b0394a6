"""The whole thing in network namespaces on one machine, with real phones and real registrars."""

from pathlib import Path

from nfqlb.errors import NfqlbError


class LabError(NfqlbError):
    """Something in the lab did not work; the text is a sentence or two for a person."""

    logs: Path | None = None
    """Where the logs of its programs are kept, when the lab itself is gone."""
