"""Runs a program as a container engine would, without one: a bare root file system, read-only, as a user without rights.

What an engine does beyond this, the filter of system calls and the limits of memory, is not done here.
"""

import ctypes
import os
import pathlib
import re
import shutil
import subprocess

USER = 65532
# As the image says it (see Dockerfile).
PROGRAM = "/usr/local/bin/claviger"
WORKDIR = "/var/lib/claviger"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The libraries of the base image. A program that needs another would not start there.
LIBRARIES = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6"}

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare(flags):
    checked(libc.unshare(flags))


def mount(source, target, kind=None, flags=0, options=None):
    encoded = [text and str(text).encode() for text in (source, target, kind)]
    checked(libc.mount(*encoded, ctypes.c_ulong(flags), options and options.encode()))


def lay_out(program, at, hosts=""):
    """Puts the image's files below `at`: the program, what it is linked with, accounts and authorities."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", told, re.M)
    strange = {pathlib.Path(path).name for path in needed} - LIBRARIES
    if not needed or strange:
        raise SystemExit(f"the program needs libraries that the base image does not have: {sorted(strange)}")
    for path in needed:
        place(path, at, path)
    place(program, at, PROGRAM)
    authorities = "/etc/ssl/certs/ca-certificates.crt"
    if os.path.exists(authorities):
        place(authorities, at, authorities)
    write(at, "/etc/passwd", f"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/home/nonroot:/sbin/nologin\n")
    write(at, "/etc/group", f"root:x:0:\nnonroot:x:{USER}:\n")
    write(at, "/etc/nsswitch.conf", "hosts: files dns\n")
    write(at, "/etc/hosts", hosts or "127.0.0.1 localhost\n")
    for folder in ("/tmp", "/home/nonroot", f"{WORKDIR}/data"):
        (at / folder[1:]).mkdir(parents=True, exist_ok=True)
    (at / "tmp").chmod(0o1777)
    for folder in ("home/nonroot", f"{WORKDIR[1:]}/data"):
        os.chown(at / folder, USER, USER)
        (at / folder).chmod(0o700)


def place(source, at, path):
    target = at / path[1:]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(os.path.realpath(source), target)
    target.chmod(0o755)


def write(at, path, text):
    target = at / path[1:]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


class Container:
    """One root file system and what is mounted into it. Programs in it run one beside the other, as by `kubectl exec`."""

    def __init__(self, root, mounts=(), environment=None, workdir=WORKDIR):
        """`mounts`: (path outside, path inside, whether it can be written to); no path outside is an empty folder."""
        self.root, self.mounts, self.workdir = root, list(mounts), workdir
        self.environment = {"PATH": PATH, "HOME": "/home/nonroot", **(environment or {})}
        for source, target, _ in self.mounts:
            inside = root / target[1:]
            if source is None or source.is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()

    def enter(self):
        """Runs in the child, just before the program takes its place."""
        unshare(CLONE_NEWNS)
        mount(None, "/", flags=MS_REC | MS_PRIVATE)
        mount(self.root, self.root, flags=MS_BIND)
        for source, target, writable in self.mounts:
            inside = self.root / target[1:]
            if source is None:
                mount("tmpfs", inside, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
                continue
            mount(source, inside, flags=MS_BIND)
            if not writable:
                mount(None, inside, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
        mount(None, self.root, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
        os.chroot(self.root)
        os.chdir(self.workdir)
        for capability in range(64):
            # Beyond the last that there is, this fails, and nothing is lost.
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([USER])
        os.setgid(USER)
        os.setuid(USER)
        checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        os.umask(0o022)

    def start(self, *arguments, log=None):
        """Starts the program with these arguments; its messages go to the file `log`."""
        output = open(log, "wb") if log else subprocess.DEVNULL
        return subprocess.Popen(
            [PROGRAM, *arguments], env=self.environment, preexec_fn=self.enter, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )

    def run(self, *arguments, input="", timeout=60, **environment):
        """Runs the program to its end, as `kubectl exec -i` does: exit code, standard output, standard error."""
        done = subprocess.run(
            [PROGRAM, *arguments], env={**self.environment, **environment}, preexec_fn=self.enter, input=input,
            capture_output=True, text=True, timeout=timeout,
        )
        return done.returncode, done.stdout, done.stderr

    def get(self, *arguments, **keywords):
        """As `run`, and what it printed; anything but success ends the check."""
        code, out, err = self.run(*arguments, **keywords)
        if code != 0:
            raise SystemExit(f"FAILED: claviger {' '.join(arguments)} ended with {code}\n{out}{err}")
        return out
