"""A network of this process and its children alone: the ports of the image are free, and nobody else can call."""

import errno
import fcntl
import socket
import struct
import time
import urllib.request

from container import CLONE_NEWNET, unshare

SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, IFF_UP = 0x8916, 0x891C, 0x8914, 1


def alone(*addresses):
    """Leaves the machine's network for a new one that has the loopback and these addresses."""
    unshare(CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        for number, address in enumerate(addresses):
            name = f"lo:{number}".encode()
            family = struct.pack("H2x", socket.AF_INET)
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s4s4s8x", name, family, socket.inet_aton(address)))
            fcntl.ioctl(control, SIOCSIFNETMASK, struct.pack("16s4s4s8x", name, family, socket.inet_aton("255.255.255.255")))


def until(condition, seconds, what, process=None):
    """Waits until `condition` holds, and no longer than this, nor than `process` lives."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise SystemExit(f"FAILED: {what}: the program ended with {process.returncode}")
        if time.monotonic() > end:
            raise SystemExit(f"FAILED: {what}: not within {seconds} s")
        time.sleep(0.02)


def answers(address, port):
    """Whether somebody listens there."""
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex((address, port)) in (0, errno.EISCONN)


def http_says_yes(url):
    """Whether a probe of the kubelet would be content."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return 200 <= answer.status < 400
    except OSError:
        return False
