"""What must hold for any bytes whatsoever, by name: a finding says which of these it broke."""

from typing import NoReturn

INVARIANTS = {
    "no-exception": "Nothing but the reader's own errors leaves it; the engine raises nothing.",
    "ends": "Each input is done with in a minute, and the interpreter lives.",
    "quick": "The engine takes less than two seconds of CPU time for a packet, instrumented or not.",
    "known-verdict": "A packet to a socket of ours is forwarded, answered or dropped; a dropped one has no bytes.",
    "sound-packet": "dpkt finds lengths and checksums of what we write right, no checksum 0, DF clear, TOS kept (P37).",
    "rereads": "What we write we read again without a fault.",
    "untouched": "Rows that no rule names, and the body, leave as they came, in their order (P1, P28, P36).",
    "own-source": "What we write leaves from the socket of ours that faces its destination (P35).",
    "permitted-destination": "Requests go to backends, signed flows and permitted egress, nowhere else (P18–P20).",
    "keyed": "Only a branch that we made lets a response pass, and only to where its request came from (P33).",
    "reply-to-asker": "A reply goes to the address that asked, and an ACK or a response gets none (P14).",
    "reply-size": "A reply is at most 1.5 times as long as the request, and 200 bytes.",
    "sheds-new-only": "What overload may shed is a request from outside that begins something; its 503 is a reply.",
    "deterministic": "Two workers write the same bytes, but for the IP identification, told to explain or not (P39).",
    "response-returns": "The answer to a request that we forwarded goes back to who sent that (P33–P35).",
    "cancel-follows": "The CANCEL of an INVITE goes where that went, with the same branch (P24, P27, P29).",
    "path-returns": "A request that follows our Path goes to who registered (P18, P25).",
    "record-route-returns": "A request that follows our Record-Route goes to who sent the first (P18, P26).",
    "inside": "What a reader names lies inside the bytes, in order, and nothing twice.",
    "like-naive": "A reader made of loops and splits, with nothing of ours in it, reads the same.",
    "round-trip": "What is read and written again is read the same.",
}


class Violation(Exception):
    """Something that must hold does not."""

    def __init__(self, invariant: str, detail: str) -> None:
        assert invariant in INVARIANTS
        super().__init__(f"{invariant}: {detail}")
        self.invariant, self.detail = invariant, detail


def broken(invariant: str, detail: str) -> NoReturn:
    raise Violation(invariant, detail)
