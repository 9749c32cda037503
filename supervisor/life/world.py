"""Which hosts train: spares in the place of lost ones, fewer than before, and whole again. Pure.

The **world** is the hosts that train, in the order of their ranks. At first it is the cluster
without its spares, which wait. It changes with an order alone: whatever starts anew by it is
planned for its world (``Order.world``). Hosts of the cluster that are not in it stand by.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from supervisor.life.state import Setup, State

if TYPE_CHECKING:
    from supervisor.life.attempts import Order


def next_world(now: tuple[str, ...], setup: Setup, present: Collection[str]) -> tuple[str, ...]:
    """The world as it is to be, if the scripts of all hosts start anew.

    A lost host's place is taken by one that stands by, the first in the cluster's order. Where
    there is none the others go on without it if they are ``min_hosts``; else its place is kept, and
    it is waited for. What is missing to the first size is filled up, in the cluster's order.

    Args:
        now: the world as it is.
        setup: of the host that decides.
        present: hosts that could begin now.

    """
    by = [host for host in setup.cluster if host in present and host not in now]
    world = [by.pop(0) if host not in present and by else host for host in now]
    there = [host for host in world if host in present]
    if setup.min_hosts and len(there) >= setup.min_hosts:
        world = there
    room = len(setup.world) - len(world)
    if room > 0 and by:
        world = sorted((*world, *by[:room]), key=setup.cluster.index)
    return tuple(world)


def present_in(state: State) -> frozenset[str]:
    """On the master: the hosts that could begin now."""
    there = (
        host
        for host, member in state.members.items()
        if member.joined and member.lost is None and not member.down
    )
    return frozenset({state.setup.host, *there})


def numbers(setup: Setup, world: tuple[str, ...]) -> tuple[int, ...]:
    """As an order names it; empty where it never changes."""
    if not setup.elastic:
        return ()
    places = {host: number for number, host in enumerate(setup.cluster)}
    return tuple(places[host] for host in world)


def world_of(setup: Setup, named: tuple[int, ...]) -> tuple[str, ...]:
    """The hosts that an order names by ``numbers``; those of the plan where it names none."""
    if not named:
        return setup.world
    # A number that is too great would be another cluster's; hosts of one have the same.
    return tuple(setup.cluster[number] for number in named if number < len(setup.cluster))


def stands_by(state: State, order: Order | None) -> bool:
    """Whether this host is none of those that train by an order, or at first."""
    world = world_of(state.setup, order.world if order else ())
    return is_beside(state.setup, state.setup.host, world)


def is_beside(setup: Setup, host: str, world: tuple[str, ...]) -> bool:
    """Whether a host is of the cluster, and none of those that train."""
    return host in setup.cluster and host not in world
