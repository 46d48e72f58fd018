"""The cables of virtual nodes: taps that live as long as the QEMU that holds them, so a killed lab leaves none."""

from __future__ import annotations

import fcntl
import os
import struct

from reberth_lab import links
from reberth_lab.proc import LabError, run
from reberth_lab.site import Site

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
REQUEST = struct.Struct("16sH22x")  # struct ifreq with its flags


def open_tap(name: str) -> int:
    """Return a new tap's descriptor, not inherited by programs; raises LabError if there is such an interface."""
    if links.exists(name):
        raise LabError(f"there is an interface {name} already", "reberth lab down, or choose another REBERTH_LAB_NAME")
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(f"/dev/net/tun cannot be opened: {error.strerror}", "modprobe tun") from error
    try:
        # With IFF_VNET_HDR whole segments of 64 KiB cross the tap, not packets of 1500 bytes.
        fcntl.ioctl(descriptor, TUNSETIFF, REQUEST.pack(name.encode("ascii"), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        run(["ip", "link", "set", "dev", name, "group", links.GROUP])
    except OSError as error:
        os.close(descriptor)
        raise LabError(
            f"cannot make the tap {name}: {error.strerror}", "does this machine allow it to root?"
        ) from error
    except LabError:
        os.close(descriptor)
        raise
    return descriptor


def data(site: Site, number: int) -> int:
    """Return the node's link: a port of the lab's bridge, like the veth of the namespace kind."""
    descriptor = open_tap(site.veth(number))
    run(["ip", "link", "set", "dev", site.veth(number), "master", site.bridge, "up"])
    return descriptor


def control(site: Site, number: int) -> int:
    """Return a cable from the outer machine to this node alone: it stays when a test cuts or slows the node's link."""
    name = site.control_link(number)
    descriptor = open_tap(name)
    run(["ip", "link", "set", "dev", name, "up"])
    run(["ip", "addr", "add", site.control_outer, "peer", site.control_address(number), "dev", name])
    return descriptor
