"""The chart in a cluster of processes: the rendered pods are started as they are, with their environment, their Secrets as
volumes and their user, on a real PostgreSQL and on an empty volume.

Usage: check.py PROGRAM HELM, as root.
"""

import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

import kubelet

DATABASE, PODS = "10.244.0.2", ["10.244.0.11", "10.244.0.12", "10.244.0.13"]
EXAMPLES = kubelet.ROOT / "helm/examples"


def say(what):
    print(f"ok  {what}", flush=True)


def require(condition, what, *more):
    if not condition:
        raise SystemExit(f"FAILED: {what} {more}")
    say(what)


def with_cluster(program, scene):
    """Plays `scene` in a cluster of its own; if it fails, what the services wrote is shown."""
    with tempfile.TemporaryDirectory(prefix="claviger-cluster-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        cluster = kubelet.Cluster(folder, program)
        try:
            scene(cluster)
        except BaseException:
            cluster.tell()
            raise
        finally:
            cluster.end()


def make_root_secret(cluster):
    """As README.md says: 64 hexadecimal digits under the name of one character."""
    cluster.secrets["claviger-root-secrets"] = {"0": secrets.token_hex(32) + "\n"}


def make_bootstrap_key(cluster):
    """As README.md says: `claviger bootstrap --offline` with the root secret and nothing else."""
    folder = cluster.folder / "desk"
    (folder / "root").mkdir(parents=True)
    (folder / "root-secrets").mkdir()
    file = folder / "root-secrets/0"
    file.write_text(cluster.secrets["claviger-root-secrets"]["0"])
    for path in (folder / "root-secrets", file):
        os.chown(path, kubelet.container.USER, kubelet.container.USER)
        path.chmod(0o700 if path.is_dir() else 0o600)
    kubelet.container.lay_out(cluster.program, folder / "root")
    desk = kubelet.container.Container(
        folder / "root", [(folder / "root-secrets", "/root-secrets", False)], {"CLAVIGER_ROOT_SECRETS": "/root-secrets"}
    )
    cluster.secrets["claviger-bootstrap"] = {"key": desk.get("bootstrap", "--offline")}


def unfinished_call(address):
    """Begins a call over HTTP/2 and never ends it: the most that a drain waits for."""
    def frame(kind, flags, stream, payload):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    headers = {
        ":method": "POST", ":scheme": "http", ":authority": "claviger", ":path": "/grpc.health.v1.Health/Check",
        "content-type": "application/grpc", "te": "trailers",
    }
    # Literals that are not kept (RFC 7541, 6.2.2).
    packed = b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in headers.items())
    connection = socket.create_connection((address, 50051))
    end_of_headers = 0x4
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, end_of_headers, 1, packed))
    # The service has taken it up once it has answered the settings.
    connection.settimeout(10)
    answered = b""
    while frame(4, 1, 0, b"") not in answered:
        answered += connection.recv(4096)
    return connection


def stop(pod, in_the_middle_of_a_call=False):
    """SIGTERM after the pause before it; how many seconds until the end, which has to be clean and in time."""
    connection = unfinished_call(pod.address) if in_the_middle_of_a_call else None
    pause = pod.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    patience = pod.spec["terminationGracePeriodSeconds"] - pause
    begun = time.monotonic()
    pod.process.send_signal(signal.SIGTERM)
    try:
        code = pod.process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"FAILED: {pod.name} was still there {patience} s after SIGTERM, when Kubernetes kills it")
    took = time.monotonic() - begun
    how = "with a call that never ends, " if connection else ""
    require(code == 0, f"{how}{pod.name} ends cleanly {took:.1f} s after SIGTERM; Kubernetes would wait {patience} s", code)
    if connection:
        connection.close()


def several_replicas(helm):
    def scene(cluster):
        database = kubelet.Postgres(cluster.folder, DATABASE)
        try:
            password = secrets.token_urlsafe(24)
            database.sql(f"CREATE ROLE claviger LOGIN PASSWORD '{password}'")
            database.sql("CREATE DATABASE claviger OWNER claviger")
            cluster.hosts["database.keys.svc"] = DATABASE
            cluster.hosts["claviger.keys.svc"] = PODS[1]
            cluster.secrets["claviger-database"] = {"url": database.url("claviger", password, "database.keys.svc", "claviger")}
            make_root_secret(cluster)
            make_bootstrap_key(cluster)
            objects = kubelet.render(helm, EXAMPLES / "postgresql.yaml")
            spec = kubelet.pod_of(objects, "Deployment")
            # Made first and then started at once, so that none has a head start.
            pods = [cluster.start(f"claviger-{number}", spec, address, only_run=True) for number, address in enumerate(PODS)]
            for pod in pods:
                pod.start()
            for pod in pods:
                pod.wait_ready()
            say(f"{len(pods)} replicas that started at once on an empty PostgreSQL are ready")
            administrators = database.sql("SELECT count(*) FROM api_key", "claviger")
            require(administrators == "1", "there is one key in the database, the administrator's", administrators)
            key_file = ["--key-file", "/etc/claviger/bootstrap/key"]
            seen = [pod.list(*key_file) for pod in pods]
            require(
                all(len(keys) == 1 and keys[0]["merchantUsername"] == "claviger" for keys in seen)
                and len({keys[0]["id"] for keys in seen}) == 1,
                "every replica knows the same one administrator, whose key is the one in the Secret",
            )
            key = pods[0].exec("keys", "create", "--merchant", "acme", "--field", "key", *key_file)
            code = lambda pod: pod.inside.run("keys", "validate", "--field", "code", *key_file, input=key)[1].strip()
            require([code(pod) for pod in pods] == ["VALID"] * 3, "a key that one made is valid at all")
            (made,) = pods[1].list("--merchant", "acme", *key_file)
            require(pods[2].exec("keys", "delete", made["id"], "--field", "enforced", *key_file) == "true\n", "a third revokes it")
            require([code(pod) for pod in pods] == ["DELETED"] * 3, "and none takes it any more")
            test = cluster.start("claviger-test", kubelet.pod_of(objects, "Pod"), only_run=True)
            ended, told = test.run_to_the_end()
            require(ended == 0 and told.count("ok  ") == 5, "the pod of helm test goes through the Service's name and ends well", told)
            words = "--merchant helm-test --scope claviger:keys.write --scope claviger:validate --field key"
            cluster.secrets["claviger-test-key"] = {"key": pods[0].exec("keys", "create", *words.split(), *key_file)}
            values = cluster.folder / "test-key.yaml"
            values.write_text("test: {keySecret: {name: claviger-test-key}}\n")
            objects = kubelet.render(helm, EXAMPLES / "postgresql.yaml", values)
            test = cluster.start("claviger-test-2", kubelet.pod_of(objects, "Pod"), only_run=True)
            ended, told = test.run_to_the_end()
            require(ended == 0 and "key_" in told, "so it does with a key that may make and validate and nothing else", told)
            stop(pods[0], in_the_middle_of_a_call=True)
            require(pods[1].list(*key_file) != [], "while the others serve")
            stop(pods[1])
            stop(pods[2])
            # Once it has done its work the Secret may go.
            del cluster.secrets["claviger-bootstrap"]
            later = cluster.start("claviger-later", spec, PODS[0])
            later.wait_ready()
            require(database.sql("SELECT count(*) FROM api_key WHERE delete_time IS NULL AND merchant_username = 'claviger'", "claviger") == "1", "a later start, without the bootstrap Secret, makes no other administrator")
            stop(later)
            logs = "".join(pod.log.read_text() for pod in cluster.pods if pod.log.exists())
            hidden = [password, key.strip(), cluster.secrets["claviger-root-secrets"]["0"].strip()]
            require(not any(one in logs for one in hidden), "no secret is in any log")
        finally:
            database.end()

    return scene


def migration_by_a_job(helm):
    def scene(cluster):
        database = kubelet.Postgres(cluster.folder, DATABASE)
        try:
            password = secrets.token_urlsafe(24)
            database.sql(f"CREATE ROLE owner LOGIN PASSWORD '{password}'")
            database.sql(f"CREATE ROLE service LOGIN PASSWORD '{password}'")
            database.sql("CREATE DATABASE claviger OWNER owner")
            # As README.md says: the service may work with rows and change no table.
            for statement in (
                "ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO service",
                "ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT USAGE, SELECT ON SEQUENCES TO service",
                "ALTER SCHEMA public OWNER TO owner",
            ):
                database.sql(statement, "claviger")
            cluster.hosts["database.keys.svc"] = DATABASE
            for name, role in (("claviger-database", "service"), ("claviger-database-owner", "owner")):
                cluster.secrets[name] = {"url": database.url(role, password, "database.keys.svc", "claviger")}
            make_root_secret(cluster)
            make_bootstrap_key(cluster)
            values = cluster.folder / "job.yaml"
            values.write_text("migrations: {mode: job, job: {urlSecret: {name: claviger-database-owner}}}\n")
            objects = kubelet.render(helm, EXAMPLES / "postgresql.yaml", values)
            job = cluster.start("claviger-migrate", kubelet.pod_of(objects, "Job"), only_run=True)
            ended, told = job.run_to_the_end()
            require(ended == 0, "the Job brings an empty database up to date, before there is anything else", told)
            ended, told = job.run_to_the_end()
            require(ended == 0, "and changes nothing when it runs again", told)
            pod = cluster.start("claviger-0", kubelet.pod_of(objects, "Deployment"), PODS[0])
            pod.wait_ready()
            require(len(pod.list("--key-file", "/etc/claviger/bootstrap/key")) == 1, "a service that may change no table serves on it")
            stop(pod)
        finally:
            database.end()

    return scene


def one_replica_on_a_volume(helm):
    def scene(cluster):
        objects = kubelet.render(helm)
        (claim,) = [one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"]
        cluster.claim(claim)
        cluster.hosts["claviger.keys.svc"] = PODS[0]
        spec = kubelet.pod_of(objects, "StatefulSet")
        pod = cluster.start("claviger-0", spec, PODS[0])
        pod.wait_ready()
        say("the defaults run on an empty volume and are ready")
        key = pod.exec("keys", "create", "--merchant", "acme", "--name", "first key", "--field", "key")
        require(pod.exec("keys", "validate", "--field", "code", input=key) == "VALID\n", "what the notes say to paste makes a key and validates it")
        test = cluster.start("claviger-test", kubelet.pod_of(objects, "Pod"), only_run=True)
        ended, told = test.run_to_the_end()
        require(ended == 0 and told.count("ok  ") == 5, "the pod of helm test reads the administrator's key from the volume and ends well", told)
        second = cluster.start("claviger-1", spec, PODS[1])
        require(second.process.wait(timeout=60) == 6 and "another claviger is using" in second.log.read_text(), "a second process on the volume is refused")
        stop(pod)
        again = cluster.start("claviger-2", spec, PODS[0])
        again.wait_ready()
        require(again.exec("keys", "validate", "--field", "code", input=key) == "VALID\n", "after a restart of the pod the key is valid")
        stop(again)

    return scene


def tls(helm):
    def scene(cluster):
        objects = kubelet.render(helm, EXAMPLES / "embedded-tls.yaml")
        (claim,) = [one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"]
        cluster.claim(claim)
        cluster.hosts["claviger.keys.svc"] = PODS[0]
        make_root_secret(cluster)
        make_bootstrap_key(cluster)
        cluster.secrets["claviger-tls"] = certificate(cluster.folder)
        pod = cluster.start("claviger-0", kubelet.pod_of(objects, "StatefulSet"), PODS[0])
        pod.wait_ready()
        listed = pod.list("--key-file", "/etc/claviger/bootstrap/key")
        require(len(listed) == 1, "with TLS the command line in the pod trusts the authority in the Secret")
        test = cluster.start("claviger-test", kubelet.pod_of(objects, "Pod"), only_run=True)
        ended, told = test.run_to_the_end()
        require(ended == 0 and told.count("ok  ") == 5, "and so does the pod of helm test, without the private key", told)
        require(not (cluster.claims[claim] / "root-secrets").exists(), "the root secret is not on the volume")
        stop(pod)

    return scene


def certificate(folder):
    """An authority and a certificate, in the Secret's three keys as cert-manager writes them."""
    folder = folder / "certificate"
    folder.mkdir()
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    constraints = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    commands = [
        ["req", "-x509", *new, "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt", *constraints],
        ["req", *new, "-subj", "/CN=claviger", "-addext", "subjectAltName=DNS:claviger.keys.svc", "-keyout", "tls.key", "-out", "tls.csr"],
        ["x509", "-req", "-days", "20", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy", "-out", "tls.crt"],
    ]
    for command in commands:
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return {name: (folder / name).read_text() for name in ("ca.crt", "tls.crt", "tls.key")}


SCENES = {"postgresql": several_replicas, "job": migration_by_a_job, "embedded": one_replica_on_a_volume, "tls": tls}


def main():
    program, helm, *wanted = sys.argv[1:]
    if os.geteuid() != 0:
        raise SystemExit("the cluster check has to run as root: it makes mounts and networks and changes root and user")
    kubelet.network.alone(DATABASE, *PODS)
    for name in wanted or SCENES:
        print(f"-- {name}", flush=True)
        with_cluster(pathlib.Path(program).resolve(), SCENES[name](helm))


main()
