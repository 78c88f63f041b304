"""What Kubernetes makes of a rendered pod, as far as processes show it: volumes laid out as the kubelet lays them out, the
environment filled in, the containers started. The root file system and the user are those of tests/image/container.py.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "image"))

import container  # noqa: E402
import network  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMESPACE = "keys"


def render(helm, *values):
    """The objects of the chart with these files of values."""
    command = [helm, "template", "claviger", ROOT / "helm", "--namespace", NAMESPACE]
    for one in values:
        command += ["--values", one]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"FAILED: {done.stderr}")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def pod_of(objects, kind):
    """The spec of the pod that the only object of this kind makes, and its labels."""
    (one,) = [one for one in objects if one["kind"] == kind]
    if kind == "Pod":
        return one["spec"]
    return one["spec"]["template"]["spec"]


class Cluster:
    """Secrets and volumes that exist, the program that images hold, and the names that are known."""

    def __init__(self, folder, program):
        self.folder, self.program = folder, program
        self.secrets, self.claims, self.hosts, self.pods = {}, {}, {"localhost": "127.0.0.1"}, []

    def claim(self, name):
        """A volume as a new one comes: root's, and then its group's because of `fsGroup`."""
        path = self.folder / f"claim-{name}"
        path.mkdir()
        os.chown(path, 0, container.USER)
        path.chmod(0o2775)
        self.claims[name] = path

    def start(self, name, spec, address=None, only_run=False):
        pod = Pod(self, name, spec, address)
        self.pods.append(pod)
        if not only_run:
            pod.start()
        return pod

    def end(self):
        for pod in self.pods:
            if pod.process is not None and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()

    def tell(self):
        """What the services wrote, for whoever has to find out why a check failed."""
        for pod in self.pods:
            if pod.log.exists():
                sys.stderr.write(f"-- {pod.name}\n{pod.log.read_text(errors='replace')}\n")


class Pod:
    """A pod with one container."""

    def __init__(self, cluster, name, spec, address):
        self.cluster, self.name, self.spec, self.address, self.process = cluster, name, spec, address, None
        (self.container,) = spec["containers"]
        self.folder = cluster.folder / f"pod-{name}"
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.log = self.folder / "log"
        hosts = "".join(f"{ip} {host}\n" for host, ip in cluster.hosts.items())
        root = self.folder / "root"
        root.mkdir()
        container.lay_out(cluster.program, root, hosts)
        self.holds_to_the_check(spec)
        self.inside = container.Container(
            root, list(self.mounts()), self.environment(), self.container.get("workingDir", container.WORKDIR)
        )

    def holds_to_the_check(self, spec):
        """The pod asks for no more than processes here are given."""
        wanted = spec["securityContext"]
        assert wanted["runAsUser"] == wanted["runAsGroup"] == wanted["fsGroup"] == container.USER
        assert self.container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "command" not in self.container, "the image's own program"

    def mounts(self):
        volumes = {one["name"]: one for one in self.spec.get("volumes", [])}
        for mount in self.container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            writable = not mount.get("readOnly", False)
            if "secret" in volume:
                outside = self.secret(mount["name"], volume["secret"])
            elif "persistentVolumeClaim" in volume:
                outside = self.cluster.claims[volume["persistentVolumeClaim"]["claimName"]]
            elif "emptyDir" in volume:
                outside = None
            else:
                raise SystemExit(f"FAILED: {self.name}: this check does not know the volume {volume}")
            if "subPath" in mount:
                outside = outside / mount["subPath"]
            yield outside, mount["mountPath"], writable

    def secret(self, name, wanted):
        """A Secret as a volume: files behind a link that can be swapped, root's and readable for the pod's group."""
        path = self.folder / f"volume-{name}"
        path.mkdir()
        values = self.cluster.secrets.get(wanted["secretName"])
        if values is None:
            assert wanted.get("optional"), f"{self.name} needs the Secret {wanted['secretName']}, which does not exist"
            values = {}
        chosen = {one["key"]: one["path"] for one in wanted.get("items", [])} or {key: key for key in values}
        generation = path / "..2026_11_24_00_00_00.1"
        generation.mkdir()
        for key, file in chosen.items():
            target = generation / file
            target.write_text(values[key])
            os.chown(target, 0, container.USER)
            # What the pod asks for, and the group's right to read, which `fsGroup` brings.
            target.chmod(wanted["defaultMode"] | 0o040)
            (path / file).symlink_to(f"..data/{file}")
        (path / "..data").symlink_to(generation.name)
        for folder, mode in ((generation, 0o2755), (path, 0o3777)):
            os.chown(folder, 0, container.USER)
            folder.chmod(mode)
        return path

    def environment(self):
        fields = {"metadata.namespace": NAMESPACE, "metadata.name": self.name, "spec.nodeName": "node-1"}
        filled = {}
        for one in self.container["env"]:
            if "valueFrom" in one:
                source = one["valueFrom"]
                if "secretKeyRef" in source:
                    value = self.cluster.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
                else:
                    value = fields[source["fieldRef"]["fieldPath"]]
            else:
                value = re.sub(r"\$\((\w+)\)", lambda found: filled.get(found[1], found[0]), one.get("value", ""))
            # Pods here share one network, so "every address of the pod" is said by the pod's own.
            if one["name"] in ("CLAVIGER_LISTEN", "CLAVIGER_OPS_LISTEN") and self.address:
                assert value.startswith("0.0.0.0:"), value
                value = value.replace("0.0.0.0", self.address)
            filled[one["name"]] = value
        if self.address:
            # `kubectl exec` finds the service on the pod's own loopback.
            scheme = "https" if "CLAVIGER_TLS_CERT" in filled else "http"
            filled["CLAVIGER_ADDR"] = f"{scheme}://{self.address}:50051"
        return filled

    def start(self):
        self.process = self.inside.start(*self.container["args"], log=self.log)

    def probe(self, name):
        wanted = self.container[name]["httpGet"]
        port = {one["name"]: one["containerPort"] for one in self.container["ports"]}[wanted["port"]]
        return network.http_says_yes(f"http://{self.address}:{port}{wanted['path']}")

    def wait_ready(self):
        probe = self.container["startupProbe"]
        patience = probe["periodSeconds"] * probe["failureThreshold"]
        network.until(lambda: self.probe("startupProbe"), patience, f"{self.name} has started", self.process)
        network.until(lambda: self.probe("readinessProbe"), 30, f"{self.name} is ready", self.process)
        assert self.probe("livenessProbe")

    def exec(self, *arguments, **keywords):
        return self.inside.get(*arguments, **keywords)

    def list(self, *arguments):
        return json.loads(self.exec("keys", "list", "-o", "json", *arguments))

    def run_to_the_end(self):
        """For a Job or a test: exit code and what it said."""
        code, out, err = self.inside.run(*self.container["args"], timeout=120)
        return code, out + err


class Postgres:
    """A real PostgreSQL at `address`, port 5432."""

    # `nobody`: PostgreSQL refuses to run as root.
    USER = 65534

    def __init__(self, folder, address):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            raise SystemExit("there is no PostgreSQL here; Debian has it as `postgresql`")
        self.binaries, self.address = found[-1].parent, address
        self.folder = folder / "postgres"
        self.folder.mkdir()
        os.chown(self.folder, self.USER, self.USER)
        self.call("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata", self.folder / "data")
        hba = "local all all trust\nhost all all all scram-sha-256\n"
        (self.folder / "data/pg_hba.conf").write_text(hba)
        self.process = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.folder / "data", "-h", address, "-k", self.folder, "-c", "fsync=off"],
            preexec_fn=self.become, stdout=open(folder / "postgres.log", "wb"), stderr=subprocess.STDOUT,
        )
        ready = [self.binaries / "pg_isready", "-q", "-h", self.folder]
        network.until(lambda: subprocess.run(ready).returncode == 0, 60, "PostgreSQL is ready", self.process)

    def become(self):
        os.setgroups([])
        os.setgid(self.USER)
        os.setuid(self.USER)

    def call(self, program, *arguments):
        done = subprocess.run(
            [self.binaries / program, *map(str, arguments)], preexec_fn=self.become, cwd=self.folder,
            capture_output=True, text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"FAILED: {program}: {done.stderr}")
        return done.stdout

    def sql(self, statement, database="postgres"):
        return self.call("psql", "-h", self.folder, "-U", "postgres", "-d", database, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement).strip()

    def url(self, role, password, host, database):
        return f"postgres://{role}:{urllib.parse.quote(password)}@{host}:5432/{database}"

    def end(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
