"""Names to addresses, and one knock at a TCP port: the two questions that probes ask the network.

Both have a deadline, whatever the resolver or the network does.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import functools
import ipaddress
import math
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.aside import start_thread
from supervisor.faults import in_words
from supervisor.life.words import place

MAX_LOOKUPS = 32
"""Threads that may wait for a name at the same time."""


MOST_ADDRESSES = 8
"""Addresses of one host that are tried."""
_NO_WAY = frozenset(
    {errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENODEV}
)


class NoAddress(OSError):  # noqa: N818 - reads as what it says, beside the OSErrors it is caught with
    """A name that has no address now: unknown, or the resolver did not answer in time."""


@functools.lru_cache(maxsize=4096)  # asked for every request of every member
def canonical(address: str) -> str:
    """One spelling for an address: ``::ffff:10.0.0.1`` is ``10.0.0.1``, a scope is dropped.

    What is no address comes back as it is.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(parsed)


def connectable(address: str) -> str:
    """The same for connecting: a link-local address means nothing without its scope."""
    parsed = canonical(address)
    scope = address.partition("%")[2]
    return f"{parsed}%{scope}" if scope and ":" in parsed else parsed


def families(addresses: Iterable[str]) -> str:
    """``over IPv6``, ``over IPv4 and IPv6``; nothing where it is IPv4 alone, as people expect."""
    found = {":" in address for address in addresses}
    if True not in found:
        return ""
    return " over IPv4 and IPv6" if False in found else " over IPv6"


@functools.lru_cache(maxsize=4096)
def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def is_wildcard(address: str) -> bool:
    """Whether it stands for every address of a machine: ``0.0.0.0``, ``::``."""
    return is_address(address) and ipaddress.ip_address(address).is_unspecified


class Resolver:
    """``getaddrinfo`` with a deadline, in daemon threads.

    Not in the loop's default executor: its threads are joined when the program ends, and a
    resolver that is gone with the master would hold the exit for its own time-out (30 s and
    more). One lookup per name at a time, `MAX_LOOKUPS` in all. An answer is remembered only for
    when there is no thread to be had, because an address may change while a job runs.
    """

    def __init__(self, *, max_lookups: int = MAX_LOOKUPS) -> None:
        self._running: dict[str, asyncio.Future[tuple[str, ...]]] = {}
        self._slots = asyncio.Semaphore(max_lookups)
        self._known: dict[str, tuple[str, ...]] = {}

    async def resolve(self, name: str, *, timeout_s: float) -> tuple[str, ...]:
        """Give all addresses of ``name``, in the resolver's order, to connect to.

        Raises:
            NoAddress: there is none, or no answer within ``timeout_s`` seconds.

        """
        if is_address(name):
            return (connectable(name),)
        try:
            async with asyncio.timeout(timeout_s):
                lookup = self._running.get(name)
                if lookup is None:
                    await self._slots.acquire()
                    # Another caller may have begun this one while we waited for a slot.
                    lookup = self._running.get(name)
                    if lookup is None:
                        lookup = self._begin(name)
                    else:
                        self._slots.release()
                # The lookup outlives a caller that gives up: its thread cannot be stopped.
                return await asyncio.shield(lookup)
        except TimeoutError:
            raise NoAddress(f"{name}: the resolver did not answer in {timeout_s:g} s") from None

    def _begin(self, name: str) -> asyncio.Future[tuple[str, ...]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[str, ...]] = loop.create_future()

        def settle(addresses: tuple[str, ...], problem: str | None) -> None:
            self._running.pop(name, None)
            self._slots.release()
            if future.done():
                return
            if problem is None:
                self._known[name] = addresses
                future.set_result(addresses)
            else:
                future.set_exception(NoAddress(problem))
                future.exception()  # retrieved: there may be no caller left

        def look_up() -> None:
            addresses: tuple[str, ...] = ()
            problem: str | None = None
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                addresses = tuple(dict.fromkeys(connectable(str(info[4][0])) for info in found))
            except (OSError, UnicodeError) as error:
                problem = f"{name}: {in_words(error)}"
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, addresses, problem)

        self._running[name] = future
        if not start_thread(look_up, f"resolve {name}"):
            if known := self._known.get(name):
                settle(known, None)
            else:
                look_up()  # it holds the loop, and a host that is never found ends the job
        return future


class Knock(enum.StrEnum):
    """What a TCP connect says about a port."""

    OPEN = "open"
    REFUSED = "refused"
    """The host answers and nothing listens there: the only proof of an end."""
    SILENT = "silent"
    """No answer in time, no route, no name: says nothing about the other side."""


@dataclass(frozen=True, slots=True)
class Knocked:
    knock: Knock
    evidence: str
    families: str = ""
    """Over what it was tried, see `families`."""


async def knock(address: str, port: int, *, resolver: Resolver, timeout_s: float) -> Knocked:
    """Connect to a port and hang up: open, refused or silent, within ``timeout_s`` seconds.

    All of a name's addresses are tried at the same time, `MOST_ADDRESSES` at most: one that
    swallows packets is not to cost the others their time. Open if any of them is; refused only if
    one refuses and every other does too, or cannot be reached from here at all. A connect without
    a byte leaves no line in TensorFlow's log.
    """
    where = place(address, port)
    evidence, over = f"{where}: no answer in {timeout_s:g} s", ""
    tasks: list[asyncio.Task[OSError | None]] = []
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await resolver.resolve(address, timeout_s=timeout_s)
            over = families(addresses)
            evidence += over
            tasks = [asyncio.create_task(_connect(one, port)) for one in addresses[:MOST_ADDRESSES]]
            problems: list[OSError] = []
            for task in asyncio.as_completed(tasks):
                problem = await task
                if problem is None:
                    return Knocked(Knock.OPEN, f"{where} accepts connections")
                problems.append(problem)
            if are_refusals(problem.errno for problem in problems):
                return Knocked(Knock.REFUSED, f"{where} refuses connections{over}", over)
            evidence = f"{where}: {in_words(problems[-1])}{over}"
    except TimeoutError:
        pass
    except NoAddress as error:
        evidence = str(error)
    finally:
        for each in tasks:
            each.cancel()
    return Knocked(Knock.SILENT, evidence, over)


def are_refusals(numbers: Iterable[int | None]) -> bool:
    """Whether failed connections to all addresses of a host mean that it refuses.

    One whose family or network this machine does not have says nothing about the other side.
    """
    told = {number for number in numbers if number not in _NO_WAY}
    return told == {errno.ECONNREFUSED}


async def _connect(address: str, port: int) -> OSError | None:
    bare, _, scope = address.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        target: tuple[str, int] | tuple[str, int, int, int] = (bare, port)
        if scope:
            number = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
            target = (bare, port, 0, number)
        # Inside the try: EMFILE is an OSError of socket() itself.
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as end:
            await asyncio.get_running_loop().sock_connect(end, target)
    except OSError as error:
        return error
    return None


class AddressBook:
    """Which host a peer's address belongs to, by the addresses of the contract's hosts.

    Names are looked up when they are first asked for and kept for ``fresh_s`` seconds. An address
    that does not match a kept entry is worth one new lookup (a container may have moved), but not
    more often than every ``again_s`` seconds: a stranger must not make us flood the resolver.
    """

    def __init__(
        self,
        names: Iterable[tuple[str, str]],
        *,
        resolver: Resolver,
        now: Callable[[], float],
        fresh_s: float = 30.0,
        again_s: float = 1.0,
        timeout_s: float = 5.0,
    ) -> None:
        self._names = dict(names)
        self._resolver = resolver
        self._now = now
        self._fresh_s = fresh_s
        self._again_s = again_s
        self._timeout_s = timeout_s
        self._known: dict[str, tuple[float, frozenset[str]]] = {}
        self._at: dict[str, set[str]] = {}
        """The hosts found at an address so far."""
        for host, name in self._names.items():
            if is_address(name):
                self._at.setdefault(canonical(name), set()).add(host)

    def __contains__(self, host: object) -> bool:
        return host in self._names

    def members_at(self, address: str) -> int:
        """How many hosts were found at a canonical address so far, without asking anybody."""
        return len(self._at.get(address, ()))

    async def learn(self) -> bool:
        """Look up every host that has no known address yet; True when all have one."""
        unknown = [
            host
            for host, name in self._names.items()
            if not is_address(name) and not self._known.get(host, (0.0, frozenset[str]()))[1]
        ]
        # Each waits for its turn at the resolver, and an answer fills what `owns` reads.
        await asyncio.gather(*(self.owns(host, "") for host in unknown))
        return not unknown

    async def owns(self, host: str, address: str) -> bool:
        """Whether ``address`` (canonical) is one of ``host``'s."""
        name = self._names[host]
        if is_address(name):
            return canonical(name) == address
        at, addresses = self._known.get(host, (-math.inf, frozenset[str]()))
        age_s = self._now() - at
        if address in addresses and age_s < self._fresh_s:
            return True
        if age_s < self._again_s:
            return address in addresses
        try:
            told = await self._resolver.resolve(name, timeout_s=self._timeout_s)
            found = frozenset(map(canonical, told))
        except NoAddress:
            # A resolver that is down takes nobody's membership away.
            found = addresses
        self._known[host] = (self._now(), found)
        for one in found:
            self._at.setdefault(one, set()).add(host)
        return address in found
