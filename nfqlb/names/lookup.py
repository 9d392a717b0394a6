"""Asks DNS: A, AAAA and SRV records of a Target, with how long they hold. A only where IPv4 addresses are of use, AAAA
only where IPv6 ones are.

Knows dnspython, and what an answer, a missing one and a broken one mean. Does not know what names are for, nor when it
is time to ask again. Importing it takes a while and some megabytes: children do, the supervisor and workers do not.

Names are taken as they are written, from the root: search lists are for people at keyboards. /etc/hosts is not read.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdata
import dns.resolver
import dns.update

from nfqlb.errors import NfqlbError
from nfqlb.names.target import SERVICE, Address, Dns, Known, Service, Target, in_order, ranked
from nfqlb.net.endpoint import SIP_PORT, Endpoint, pack_host

NEGATIVE_TTL = 30.0
"""Seconds that "there is no such name" holds."""

RETRY = 5.0
"""Seconds until DNS is asked again which did not answer."""

AT_ONCE = 64
"""Questions on their way at a time."""

KINDS = {4: "A", 6: "AAAA"}
"""IP version → the records that have its addresses."""

SERVICES = 32
"""SRV records of one name whose hosts are looked up."""


def load_all() -> None:
    """Import what dnspython would import only when an answer has need of it: for who may read no files later on."""
    dns.asyncbackend.set_default_backend("asyncio")
    # And `dns.update`, above: whoever answers can send any kind of record or message.
    dns.rdata.load_all_types()  # type: ignore[no-untyped-call]  # dnspython gives it no types


class Found(NamedTuple):
    """What one look has found."""

    addresses: tuple[Address, ...]
    ttl: float
    """Seconds after which it is time to look again."""
    error: str = ""
    silent: bool = False
    """DNS has not answered, or not to all questions: the addresses, if any, are of earlier answers."""

    @property
    def known(self) -> Known:
        return Known(self.addresses, self.error)


Past = dict[tuple[str, str], tuple[Any, ...]]
"""The last good answer to each question that a target takes: (name, kind of record) → records."""


class NoAnswer(NfqlbError):
    """DNS did not answer; the text says how."""


class Lookups:
    """Asks one DNS, in an event loop of asyncio."""

    def __init__(self, settings: Dns, versions: Collection[int]) -> None:
        """`versions`: the IP versions (4, 6) whose addresses are wanted; others are not asked for."""
        self._settings = settings
        self.kinds = [KINDS[version] for version in sorted(versions)]
        self._missing = "no address" if len(versions) > 1 else f"no IPv{min(versions)} address"
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def find(self, target: Target, past: Past | None = None) -> Found:
        """Never fails: what went wrong is in the answer. `past`: kept from one look at that target to the next; a
        question that is not answered is answered from there.
        """
        look = _Look(self, {} if past is None else past)
        if past is not None:
            asked_before = set(past)
        try:
            addresses = await look.target(target)
        except NoAnswer as error:
            return Found((), RETRY, str(error), silent=True)
        if past is not None:
            for question in asked_before - look.asked:  # of hosts that an SRV record does not name any more
                past.pop(question, None)
        ttl = min(look.ttls, default=NEGATIVE_TTL)
        if look.troubles:
            return Found(addresses, RETRY, look.troubles[0], silent=True)
        if not addresses:
            return Found((), NEGATIVE_TTL, f"{target.host} has {self._missing}")
        return Found(addresses, max(self._settings.min_ttl, min(ttl, self._settings.max_ttl)))

    async def ask(self, name: str, kind: str) -> tuple[tuple[Any, ...], float]:
        """The records of one kind, and how many seconds they hold; none where there are none. Raises NoAnswer."""
        try:
            qname = dns.name.from_text(name)
            async with self._gate:
                answer = await self._resolver().resolve(
                    qname, kind, search=False, raise_on_no_answer=False, lifetime=self._settings.timeout
                )
        except dns.resolver.NXDOMAIN:
            return (), NEGATIVE_TTL
        except dns.exception.Timeout:
            raise NoAnswer(f"DNS does not answer ({name})") from None
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise NoAnswer(f"DNS fails for {name}: {_sentence(error)}") from None
        if answer.rrset is None:
            return (), NEGATIVE_TTL
        return tuple(_plain(record, kind) for record in answer.rrset), float(answer.chaining_result.minimum_ttl)

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """A new one each time: /etc/resolv.conf may have changed, and to read it costs less than to ask."""
        if not (servers := self._settings.servers):
            resolver = dns.asyncresolver.Resolver()
        else:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers = [dns.nameserver.Do53Nameserver(each.host, each.port) for each in servers]
        resolver.timeout = max(0.5, self._settings.timeout / 2)
        return resolver


class _Look:
    """One look at one target."""

    def __init__(self, lookups: Lookups, past: Past) -> None:
        self._lookups, self._past = lookups, past
        self.ttls: list[float] = []
        self.troubles: list[str] = []
        self.asked: set[tuple[str, str]] = set()

    async def target(self, target: Target) -> tuple[Address, ...]:
        """Raises NoAnswer."""
        if target.port:
            return in_order(Address(each) for each in await self._addresses(target.host, target.port))
        service = target.host if target.is_service else SERVICE + target.host
        records: Sequence[Service] = await self._question(service, "SRV")
        if not records and not target.is_service:
            return in_order(Address(each) for each in await self._addresses(target.host, SIP_PORT))
        # "." is for: there is no such service here [RFC 2782].
        wanted = ranked(each for each in sorted(records)[:SERVICES] if each.host and each.port)
        found = await _all(self._addresses(each.host, each.port) for each, _, _ in wanted)
        got: list[Address] = []
        for (_, rank, weight), addresses in zip(wanted, found, strict=True):
            if isinstance(addresses, NoAnswer):
                self.troubles.append(str(addresses))
            else:
                got += [Address(each, rank, weight) for each in addresses]
        if not got and self.troubles:
            raise NoAnswer(self.troubles[0])
        return in_order(got)

    async def _addresses(self, host: str, port: int) -> list[Endpoint]:
        """Of the IP versions that are wanted. Raises NoAnswer when no question is answered."""
        if (literal := pack_host(host.encode())) is not None:
            return [Endpoint(literal, port)]
        found = await _all(self._question(host, kind) for kind in self._lookups.kinds)
        failed = [each for each in found if isinstance(each, NoAnswer)]
        if len(failed) == len(found):
            raise failed[0]
        self.troubles += map(str, failed)
        return [Endpoint(packed, port) for each in found if not isinstance(each, NoAnswer) for packed in each]

    async def _question(self, name: str, kind: str) -> tuple[Any, ...]:
        """The records, or those of the last good answer. Raises NoAnswer."""
        question = name, kind
        self.asked.add(question)
        try:
            records, ttl = await self._lookups.ask(name, kind)
        except NoAnswer as error:
            if question not in self._past:
                raise
            self.troubles.append(str(error))
            return self._past[question]
        if records:
            self.ttls.append(ttl)
        self._past[question] = records
        return records


async def _all(questions: Iterable[Any]) -> list[Any]:
    """The answers to all of them at once; a NoAnswer in the place of a missing one."""
    found = await asyncio.gather(*questions, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, NoAnswer):
            raise each
    return found


def _plain(record: Any, kind: str) -> Any:
    """The record without dnspython's types."""
    if kind == "SRV":
        host = record.target.to_text(omit_final_dot=True).lower()
        return Service(record.priority, record.weight, record.port, "" if host == "." else host)
    return pack_host(record.address.encode())


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}…"


async def find_all(targets: Iterable[Target], settings: Dns, versions: Collection[int]) -> Mapping[Target, Found]:
    """All of them at once, so that a DNS that is dead costs its time once. `versions` as for Lookups."""
    lookups = Lookups(settings, versions)
    wanted = list(dict.fromkeys(targets))
    return dict(zip(wanted, await asyncio.gather(*map(lookups.find, wanted)), strict=True))
