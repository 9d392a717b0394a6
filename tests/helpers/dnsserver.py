"""A DNS server whose answers, failures and silence the test orders."""

import socket
import threading
from collections import Counter

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = dict[str, list[str]]
"""Name → lines such as `60 A 192.0.2.1`; a name that has none exists without records."""


class DnsServer(threading.Thread):
    """Answers on an open UDP socket until `finish`."""

    def __init__(self, opened: socket.socket, records: Records) -> None:
        super().__init__(daemon=True)
        self.records = records
        self.mode = "answer"
        """Or "silent", or "servfail", or "update": an answer that is none, but a message of another kind [RFC 2136]."""
        self.beside: list[str] = []
        """Records, such as `60 TXT hello`, that nobody has asked for and that come with each answer."""
        self.deaf_to: set[str] = set()
        """Names that it does not answer for."""
        self.asked: Counter[tuple[str, str]] = Counter()
        self._socket = opened
        self._socket.settimeout(0.1)
        self._ending = False
        self.start()

    @classmethod
    def on_loopback(cls, records: Records) -> "DnsServer":
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("127.0.0.1", 0))
        return cls(opened, records)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def run(self) -> None:
        while not self._ending:
            try:
                packet, client = self._socket.recvfrom(65535)
            except TimeoutError:
                continue
            answer = self._answer(dns.message.from_wire(packet))
            if answer is not None:
                self._socket.sendto(answer.to_wire(), client)

    def finish(self) -> None:
        self._ending = True
        self.join(10)
        self._socket.close()

    def _answer(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        if self.mode == "silent" or name in self.deaf_to:
            return None
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        for ttl, row_kind, text in (line.split(maxsplit=2) for line in self.beside):
            answer.additional.append(dns.rrset.from_text(question.name, int(ttl), "IN", row_kind, text))
        if self.mode == "update":
            answer.set_opcode(dns.opcode.UPDATE)
        if self.mode == "servfail":
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.records:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            rows = [line.split(maxsplit=2) for line in self.records[name]]
            found = [(int(ttl), text) for ttl, row_kind, text in rows if row_kind == kind]
            if found:
                rrset = dns.rrset.from_text(question.name, found[0][0], "IN", kind, *(text for _, text in found))
                answer.answer.append(rrset)
        return answer
