"""Which Reasons are offences, and how many points towards a ban each counts.

Knows nothing of who sent what: workers note offences (`shm.offence_ring`), `scoring` adds the points up, and as many as
[limits] offences make a ban.
"""

from nfqlb.proxy.verdict import REASON_SLOTS, Reason

AT_ONCE = 1_000_000
"""As many points as [limits] offences may be: the first of its kind is too much."""
NO_SIP, REFUSED, BROKEN, STRAY = 10, 5, 1, 1

WEIGHTS: dict[Reason, int] = {
    Reason.NOT_SIP: NO_SIP,
    Reason.SCANNER: AT_ONCE,
    Reason.NOT_A_BACKEND: REFUSED,
    Reason.BAD_FLOW: REFUSED,
    Reason.BAD_START_LINE: BROKEN,
    Reason.BAD_HEADER_BLOCK: BROKEN,
    Reason.BAD_LENGTH: BROKEN,
    Reason.DUPLICATE_HEADER: BROKEN,
    Reason.BAD_QUOTING: BROKEN,
    Reason.MISSING_HEADER: BROKEN,
    Reason.BAD_HEADER: BROKEN,
    Reason.METHOD_MISMATCH: BROKEN,
    Reason.BAD_MAX_FORWARDS: BROKEN,
    Reason.BAD_URI: BROKEN,
    Reason.BAD_VERSION: BROKEN,
    Reason.BAD_SCHEME: BROKEN,
    Reason.UNANSWERABLE: BROKEN,
    Reason.BROKEN_ACK: BROKEN,
    Reason.BROKEN_RESPONSE: BROKEN,
    Reason.STRAY_RESPONSE: STRAY,
}
"""Points. What an honest phone or carrier may send by mistake, in a dialog that has lost its backend, or late, weighs
little or nothing; docs/limits.md has the arithmetic. Reasons of packets to an internal socket are none, and those of a
forged source address (BAD_SOURCE) would ban whoever is forged."""

OFFENCE = [number in WEIGHTS for number in range(REASON_SLOTS)]
"""By number of the Reason: for the loop over packets."""
