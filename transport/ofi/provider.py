# SPDX-License-Identifier: Apache-2.0
"""Where providers differ from the manual and from one another: a line for each that is known.

Source: their code in libfabric 1.17 and 2.6, and probes of the packages of Debian. A provider that
is not listed is taken at its word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from i2o.transport.fabric.flags import Capability, Flag

_ALL_LEVELS: Final = Flag.INJECT_COMPLETE | Flag.TRANSMIT_COMPLETE | Flag.DELIVERY_COMPLETE
_NOTHING: Final = Capability(0)
_SOURCES: Final = Capability.SOURCE | Capability.DIRECTED_RECV
_MAJOR_2: Final = 200
"""Providers of libfabric 2.x count their versions from here."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What must be known of a provider to use it rightly.

    Attributes:
        name: libfabric's.
        lacks: what it says it has, but has not: sources of shm are wrong for who was not inserted.
        levels: completion levels that are honoured when a call asks for them.
        ignores_levels: they hold by themselves; the flags are not passed on.
        peeks: PEEK, CLAIM and DISCARD do what they should. Otherwise they take messages.
        masks_tags: a receive may ignore bits of the tag. Otherwise what came before the receive is
            compared with the mask of some other receive.
        needs_presence: an address whose owner is not there yet would share its place with the next
            one that is inserted.
        cancels: a posted receive can be taken back.
        takes_messages_only: sends must go through fi_sendmsg, as an address means something else
            in the other calls when multicast is on.
        has_descriptor: the completion queue can have a file descriptor to wait for.
        takes_everything: it keeps messages that nobody receives without a limit. Unless something
            is posted, it is not called then, and the sender's window and the kernel's buffers fill.
        needs_enabling: it crashes when FI_OPT_MIN_MULTI_RECV or fi_close comes before fi_enable.
        must_be_answered: when an endpoint is closed while its first message to a peer is not
            answered, the peer crashes as it comes to look at it. Such an endpoint stays.
        has_segments: addresses are names of shared memory, which a killed process leaves behind.
    """

    name: str
    lacks: Capability = _NOTHING
    levels: Flag = _ALL_LEVELS
    ignores_levels: bool = False
    peeks: bool = True
    masks_tags: bool = True
    needs_presence: bool = False
    cancels: bool = True
    takes_messages_only: bool = False
    has_descriptor: bool = True
    takes_everything: bool = False
    needs_enabling: bool = False
    must_be_answered: bool = False
    has_segments: bool = False


def provider_of(name: str, version: int) -> Provider:
    """Return what is known of a provider.

    Args:
        name: as libfabric names it.
        version: major version of the provider: 117 in libfabric 1.17, 206 in 2.6.
    """
    if name == "shm":
        is_old = version < _MAJOR_2
        return Provider(
            name,
            peeks=not is_old,
            masks_tags=not is_old,
            needs_presence=is_old,
            lacks=_SOURCES if is_old else _NOTHING,
            needs_enabling=is_old,
            must_be_answered=is_old,
            has_descriptor=False,
            has_segments=True,
        )
    if name == "udp":
        return Provider(
            name,
            levels=Flag.INJECT_COMPLETE | Flag.TRANSMIT_COMPLETE,
            ignores_levels=True,
            peeks=False,
            cancels=False,
            takes_messages_only=True,
        )
    if name.endswith(";ofi_rxm"):
        # it drops the flags of the call before the connection below sees them
        return Provider(
            name, levels=Flag.INJECT_COMPLETE, ignores_levels=True, takes_everything=True
        )
    return Provider(name)
