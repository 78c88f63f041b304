"""What was rendered holds together: selectors and ports, secrets, the restricted profile, names."""

import json
import re

import pytest

import chart

everywhere = pytest.mark.parametrize("setup", chart.SETUPS)
LONG = "a" * 53
POSTGRESQL = (
    'database={"engine":"postgresql","postgresql":{"urlSecret":{"name":"db"}}}',
    'rootSecrets={"secretName":"roots"}',
)


def test_the_defaults_are_one_replica_on_the_embedded_database_with_a_volume():
    objects = chart.rendered()
    kinds = sorted(one["kind"] for one in objects)
    assert kinds == ["PersistentVolumeClaim", "Pod", "Service", "Service", "ServiceAccount", "StatefulSet"]
    workload = chart.only(objects, "StatefulSet")
    assert workload["spec"]["replicas"] == 1
    claim = chart.only(objects, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    _, pod = chart.server(objects)
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    environment = chart.environment(pod["containers"][0])
    assert environment["CLAVIGER_DATA_DIR"]["value"] == mounts["data"]
    # From there the command line finds ./data/admin.key.
    assert f"{pod['containers'][0]['workingDir']}/data" == mounts["data"]
    assert environment["CLAVIGER_PLAINTEXT"]["value"] == "anywhere"


def test_postgresql_is_shared_by_several_replicas_without_a_volume():
    objects = chart.rendered("postgresql")
    workload = chart.only(objects, "Deployment")
    assert workload["spec"]["replicas"] == 3
    assert not chart.of_kind(objects, "PersistentVolumeClaim")
    _, pod = chart.server(objects)
    assert not any("persistentVolumeClaim" in one or "emptyDir" in one for one in pod["volumes"])
    address = chart.environment(pod["containers"][0])["CLAVIGER_DATABASE_URL"]
    assert address["valueFrom"] == {"secretKeyRef": {"name": "claviger-database", "key": "url"}}


@everywhere
def test_selectors_choose_the_pods_of_the_service_and_no_others(setup):
    objects = chart.rendered(setup)
    chosen_by = {
        "Service": lambda one: one["spec"]["selector"],
        "Deployment": lambda one: one["spec"]["selector"]["matchLabels"],
        "StatefulSet": lambda one: one["spec"]["selector"]["matchLabels"],
        "PodDisruptionBudget": lambda one: one["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": lambda one: one["spec"]["podSelector"]["matchLabels"],
    }
    pods = chart.pods(objects)
    seen = 0
    for one in objects:
        if one["kind"] in chosen_by:
            selector = chosen_by[one["kind"]](one)
            chosen = [name for name, (labels, _) in pods.items() if chart.matches(selector, labels)]
            assert [name.split("/")[0] in ("Deployment", "StatefulSet") for name in chosen] == [True], one
            seen += 1
    assert seen >= 3
    labels, pod = chart.server(objects)
    for spread in pod.get("topologySpreadConstraints", []):
        assert chart.matches(spread["labelSelector"]["matchLabels"], labels)


@everywhere
def test_ports_that_are_named_are_there(setup):
    objects = chart.rendered(setup)
    _, pod = chart.server(objects)
    (container,) = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"grpc": 50051, "ops": 50052}
    environment = chart.environment(container)
    for name, variable in (("grpc", "CLAVIGER_LISTEN"), ("ops", "CLAVIGER_OPS_LISTEN")):
        assert environment[variable]["value"] == f"0.0.0.0:{ports[name]}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "ops"
    services = {one["metadata"]["name"]: one for one in chart.of_kind(objects, "Service")}
    for service in services.values():
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
    for policy in chart.of_kind(objects, "NetworkPolicy"):
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == set(ports)
    for route in chart.of_kind(objects, "GRPCRoute"):
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        assert backend["port"] in [port["port"] for port in services[backend["name"]]["spec"]["ports"]]


@everywhere
def test_one_service_has_an_address_and_one_has_none(setup):
    services = chart.of_kind(chart.rendered(setup), "Service")
    headless = [one for one in services if one["spec"].get("clusterIP") == "None"]
    assert len(services) == 2 and len(headless) == 1
    tls = "tls" in setup or "everything" in setup
    protocols = {port["appProtocol"] for one in services for port in one["spec"]["ports"] if port["name"] == "grpc"}
    assert protocols == {"https" if tls else "kubernetes.io/h2c"}


def test_a_scrape_goes_through_one_service_only():
    objects = chart.rendered("postgresql-everything")
    monitor = chart.only(objects, "ServiceMonitor")
    selector = monitor["spec"]["selector"]["matchLabels"]
    (service,) = [one for one in chart.of_kind(objects, "Service") if chart.matches(selector, one["metadata"]["labels"])]
    assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
    # The alerts look for that Service.
    rules = json.dumps(chart.only(objects, "PrometheusRule"))
    assert f'service=\\"{service["metadata"]["name"]}\\"'.replace("\\", "\\\\\\") in json.dumps(rules)


@everywhere
def test_every_pod_keeps_to_the_restricted_profile(setup):
    # What Kubernetes' pod security standard `restricted` asks for.
    pods = chart.pods(chart.rendered(setup))
    assert len(pods) >= 2
    for name, (_, pod) in pods.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 65532, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        allowed = {"secret", "configMap", "persistentVolumeClaim", "emptyDir"}
        assert all(one.keys() & allowed for one in pod.get("volumes", [])), name
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert not {"privileged", "procMount"} & context.keys(), name
            assert not any("hostPort" in port for port in container.get("ports", [])), name
        # Beyond the profile.
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name


@everywhere
def test_secrets_are_named_and_never_told(setup):
    objects = chart.rendered(setup)
    assert not chart.of_kind(objects, "Secret"), "the chart makes no secret"
    assert not chart.of_kind(objects, "ConfigMap")
    text = json.dumps(objects)
    assert not re.search(r"[0-9a-f]{64}", text) and "://" not in re.sub(r'"https?://[a-z0-9.:-]+"', "", text)
    for name, (_, pod) in chart.pods(objects).items():
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, name
        mounted = {one["name"] for one in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert {one["name"] for one in container.get("volumeMounts", [])} == mounted, name
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in ("data", "tmp") or mount["readOnly"], name


def test_a_secret_in_the_environment_comes_from_a_secret():
    for setup in chart.SETUPS:
        for _, pod in chart.pods(chart.rendered(setup)).values():
            for container in pod["containers"]:
                for one in container["env"]:
                    if one["name"] in ("CLAVIGER_DATABASE_URL", "CLAVIGER_KEY", "CLAVIGER_TEST_KEY"):
                        assert "secretKeyRef" in one["valueFrom"]


@everywhere
def test_a_stop_may_take_as_long_as_the_service_can_need(setup):
    _, pod = chart.server(chart.rendered(setup))
    (container,) = pod["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(chart.environment(container)["CLAVIGER_DRAIN_TIMEOUT"]["value"].removesuffix("s"))
    changes = 0
    for path in (chart.ROOT / "src").rglob("*.rs"):
        for seconds in re.findall(r"CHANGES_END: Duration = Duration::from_secs\((\d+)\)", path.read_text()):
            changes = int(seconds)
    assert changes > 0, "the time for changes is no longer where this test looks for it"
    assert pod["terminationGracePeriodSeconds"] == pause + drain + changes + 5


def test_the_grace_period_grows_with_the_drain():
    _, pod = chart.server(chart.rendered(sets=('drain={"preStopSeconds":0,"timeoutSeconds":120}',)))
    assert pod["terminationGracePeriodSeconds"] == 137
    assert "lifecycle" not in pod["containers"][0]


def test_a_network_policy_lets_in_calls_scrapes_and_the_test():
    objects = chart.rendered("postgresql-everything")
    policy = chart.only(objects, "NetworkPolicy")["spec"]
    grpc, ops = policy["ingress"]
    assert [port["port"] for port in grpc["ports"]] == ["grpc"] and [port["port"] for port in ops["ports"]] == ["ops"]
    labels, _ = chart.pods(objects)["Pod/claviger-test"]
    peers = [peer["podSelector"]["matchLabels"] for peer in grpc["from"] if "podSelector" in peer]
    assert any(chart.matches(peer, labels) for peer in peers), "helm test gets through"
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, 5432, 4317]
    everybody = chart.only(chart.rendered(sets=('networkPolicy.enabled=true',)), "NetworkPolicy")["spec"]
    assert all("from" not in rule for rule in everybody["ingress"]) and everybody["policyTypes"] == ["Ingress"]


def test_the_test_calls_with_the_key_that_is_there():
    def key_of(objects):
        _, pod = chart.pods(objects)["Pod/claviger-test"]
        (container,) = pod["containers"]
        assert container["args"] == ["doctor"]
        return pod, chart.environment(container).get("CLAVIGER_KEY_FILE", {}).get("value")

    pod, path = key_of(chart.rendered())
    assert path == "/etc/claviger/admin.key" and pod["containers"][0]["volumeMounts"][0]["subPath"] == "admin.key"
    assert pod["containers"][0]["volumeMounts"][0]["readOnly"] and "podAffinity" in pod["affinity"]
    pod, path = key_of(chart.rendered("postgresql"))
    assert path == "/etc/claviger/key/key" and pod["volumes"][0]["secret"]["secretName"] == "claviger-bootstrap"
    pod, path = key_of(chart.rendered("postgresql-everything"))
    assert path == "/etc/claviger/key/key" and pod["volumes"][0]["secret"]["secretName"] == "claviger-test-key"
    authority = {one["name"]: one for one in pod["volumes"]}["authority"]
    assert authority["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}], "no private key"
    pod, path = key_of(chart.rendered(sets=('database.embedded.accessMode="ReadWriteOncePod"',)))
    assert path is None and "volumes" not in pod


def test_a_job_migrates_before_an_install_and_needs_nothing_of_it():
    objects = chart.rendered("postgresql-everything")
    job = chart.only(objects, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    made_here = {one["metadata"]["name"] for one in objects if one["kind"] in ("ServiceAccount", "Secret", "ConfigMap")}
    assert pod.get("serviceAccountName") not in made_here
    (container,) = pod["containers"]
    assert container["args"] == ["migrate"]
    address = chart.environment(container)["CLAVIGER_DATABASE_URL"]["valueFrom"]["secretKeyRef"]
    assert address == {"name": "claviger-database-owner", "key": "url"}


def test_telemetry_is_told_where_to_and_by_whom():
    _, pod = chart.server(chart.rendered("postgresql-everything"))
    environment = chart.environment(pod["containers"][0])
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://collector.monitoring:4317"
    assert environment["OTEL_TRACES_SAMPLER_ARG"]["value"] == "0.01"
    assert environment["OTEL_METRIC_EXPORT_INTERVAL"]["value"] == "60000"
    assert environment["OTEL_RESOURCE_ATTRIBUTES"]["value"] == (
        "k8s.namespace.name=$(K8S_NAMESPACE),k8s.pod.name=$(K8S_POD),k8s.node.name=$(K8S_NODE),"
        "deployment.environment.name=production"
    )
    # A reference reaches only back.
    names = [one["name"] for one in pod["containers"][0]["env"]]
    assert max(names.index(name) for name in names if name.startswith("K8S_")) < names.index("OTEL_RESOURCE_ATTRIBUTES")
    _, pod = chart.server(chart.rendered())
    assert not any(name.startswith("OTEL_") for name in chart.environment(pod["containers"][0]))


def test_with_tls_the_command_line_in_the_pod_trusts_the_authority_of_the_secret():
    _, pod = chart.server(chart.rendered("embedded-tls"))
    environment = {name: one.get("value") for name, one in chart.environment(pod["containers"][0]).items()}
    assert "CLAVIGER_PLAINTEXT" not in environment
    assert environment["CLAVIGER_TLS_CERT"] == "/etc/claviger/tls/tls.crt"
    assert environment["CLAVIGER_TLS_KEY"] == "/etc/claviger/tls/tls.key"
    assert environment["CLAVIGER_CA_FILE"] == "/etc/claviger/tls/ca.crt"
    assert environment["CLAVIGER_SERVER_NAME"] == "claviger.keys.svc"
    assert environment["CLAVIGER_ADDR"] == "https://127.0.0.1:50051"
    mounts = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "tls"]
    assert mounts == [{"name": "tls", "mountPath": "/etc/claviger/tls", "readOnly": True}], "no subPath: it would not follow a renewal"


@pytest.mark.parametrize("setup", chart.SETUPS)
@pytest.mark.parametrize("release", [LONG, "a.b", "claviger-live"])
def test_names_are_good_whatever_the_release_is_called(setup, release):
    for one in chart.rendered(setup, release=release):
        name = one["metadata"]["name"]
        assert len(name) <= 63 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name), name
        if one["kind"] == "StatefulSet":
            # Pods carry its name and a digest of 11 characters in a label.
            assert len(name) <= 52
        for value in one["metadata"]["labels"].values():
            assert len(value) <= 63 and re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value)


def test_two_long_releases_do_not_share_a_name():
    names = {chart.only(chart.rendered(release=release), "StatefulSet")["metadata"]["name"] for release in ("a" * 52 + "b", "a" * 52 + "c")}
    assert len(names) == 2


def test_a_name_can_be_given():
    objects = chart.rendered("postgresql-everything", sets=('fullnameOverride="keyring"',))
    assert all(one["metadata"]["name"].startswith("keyring") for one in objects)
    objects = chart.rendered(sets=('nameOverride="keyring"',), release="blue")
    assert chart.only(objects, "StatefulSet")["metadata"]["name"] == "blue-keyring"


def test_labels_of_ones_own_do_not_break_selectors():
    sets = ('podLabels={"app.kubernetes.io/component":"mine","team":"payments"}',)
    objects = chart.rendered(sets=sets)
    labels, _ = chart.server(objects)
    assert labels["team"] == "payments" and labels["app.kubernetes.io/component"] == "server"


def test_autoscaling_leaves_the_number_of_replicas_alone():
    objects = chart.rendered("postgresql-everything")
    workload = chart.only(objects, "Deployment")
    assert "replicas" not in workload["spec"]
    target = chart.only(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload["metadata"]["name"]}


def test_an_image_can_be_pinned_by_its_digest():
    digest = "sha256:" + "0" * 64
    _, pod = chart.server(chart.rendered(sets=(f'image={{"repository":"registry.example.com/claviger","digest":"{digest}"}}',)))
    assert pod["containers"][0]["image"] == f"registry.example.com/claviger:0.1.0@{digest}"


def test_where_the_platform_chooses_the_user_the_numbers_can_be_taken_away():
    sets = ('podSecurityContext={"runAsUser":null,"runAsGroup":null,"fsGroup":null}',)
    _, pod = chart.server(chart.rendered(sets=sets))
    assert pod["securityContext"].keys() == {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}


def test_no_object_is_made_that_was_not_asked_for():
    asked = {"PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor", "PrometheusRule", "GRPCRoute", "Job"}
    assert not asked & {one["kind"] for one in chart.rendered(sets=POSTGRESQL)}
    assert asked < {one["kind"] for one in chart.rendered("postgresql-everything")}
