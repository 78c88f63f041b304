"""The image without an engine: the release program in a bare root file system that it cannot write to, as user 65532, from
the first start to the first validated key and a clean end.

Usage: check.py PROGRAM, as root.
"""

import os
import pathlib
import re
import signal
import stat
import sys
import tempfile

import container
import network

ROOT = pathlib.Path(__file__).resolve().parents[2]


def say(what):
    print(f"ok  {what}", flush=True)


def require(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    say(what)


def files(root):
    return {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in root.rglob("*")}


def the_dockerfile_says_the_same():
    text = (ROOT / "Dockerfile").read_text()
    last = text[text.rindex("\nFROM "):]
    said = dict(re.findall(r"^(WORKDIR|USER|EXPOSE|ENTRYPOINT|ARG) (.*)$", last, re.M))
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    require(
        said == {
            "WORKDIR": container.WORKDIR, "USER": f"{container.USER}:{container.USER}", "EXPOSE": "50051 50052",
            "ENTRYPOINT": f'["{container.PROGRAM}"]', "ARG": f"VERSION={version}",
        },
        "the Dockerfile's user, folder, ports, program and version are those of this check",
    )


def the_process_has_no_rights(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    field = lambda name: re.search(rf"^{name}:\s*(.*)$", status, re.M)[1].split()
    require(field("Uid") == [str(container.USER)] * 4 and field("Gid") == [str(container.USER)] * 4, "it runs as 65532")
    require(int(field("CapEff")[0], 16) == int(field("CapBnd")[0], 16) == 0, "without any capability, nor a way to one")
    mounts = pathlib.Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    require("ro" in options["/"], "on a root file system that cannot be written to")


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    if os.geteuid() != 0:
        raise SystemExit("the image check has to run as root: it makes mounts and changes root and user")
    the_dockerfile_says_the_same()
    network.alone()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        root, volume = folder / "root", folder / "volume"
        root.mkdir()
        volume.mkdir()
        container.lay_out(program, root)
        os.chown(volume, container.USER, container.USER)
        image = container.Container(root, [(volume, f"{container.WORKDIR}/data", True)])
        before = files(root)

        def served(log):
            process = image.start(log=folder / log)
            # It listens before there is an administrator.
            network.until(lambda: image.run("whoami")[0] == 0, 30, "the administrator can call", process)
            return process

        process = served("first.log")
        try:
            say("it starts on an empty volume")
            the_process_has_no_rights(process)
            key = image.get("keys", "create", "--merchant", "acme", "--name", "first key", "--field", "key")
            require(re.fullmatch(r"clv_[0-9A-Za-z]{22}_[0-9A-Za-z]{61}\n", key), "it makes a key")
            require(image.get("keys", "validate", "--field", "code", input=key) == "VALID\n", "and finds it valid")
            require(image.get("doctor").count("ok  ") == 5, "doctor takes another from its making to its end")
            process.send_signal(signal.SIGTERM)
            require(process.wait(timeout=30) == 0, "SIGTERM ends it, with exit code 0")
            process = served("second.log")
            require(image.get("keys", "validate", "--field", "code", input=key) == "VALID\n", "after another start the key is valid")
            process.send_signal(signal.SIGTERM)
            require(process.wait(timeout=30) == 0, "and it ends as well again")
        except SystemExit:
            for log in sorted(folder.glob("*.log")):
                sys.stderr.write(f"-- {log.name}\n{log.read_text(errors='replace')}")
            raise
        finally:
            if process.poll() is None:
                process.kill()
        require(files(root) == before, "nothing was written but to the volume")
        secrets = [volume / "admin.key", volume / "claviger.db", *(volume / "root-secrets").iterdir()]
        modes = {stat.S_IMODE(path.stat().st_mode) for path in secrets}
        require(modes == {0o600} and len(secrets) == 3, "its secrets are for nobody else")
        logs = "".join(log.read_text() for log in folder.glob("*.log"))
        require(key.strip() not in logs and (volume / "admin.key").read_text().strip() not in logs, "and in no log")


main()
