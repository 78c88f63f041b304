"""Values that make no sense are refused before anything is installed, with the value's path and what would be right."""

import pytest

import chart

POSTGRESQL = 'database={"engine":"postgresql","postgresql":{"urlSecret":{"name":"db"}}}'
ROOTS = 'rootSecrets={"secretName":"roots"}'

TYPOS = {
    ('replica=3',): "- at '': additional properties 'replica' not allowed",
    ('tls={"enable":true}',): "- at '/tls': additional properties 'enable' not allowed",
    ('settings={"purgeafter":"1h"}',): "- at '/settings': additional properties 'purgeafter' not allowed",
    ('database={"postgres":{}}',): "- at '/database': additional properties 'postgres' not allowed",
    ('image={"tags":"1"}',): "- at '/image': additional properties 'tags' not allowed",
    ('extraEnv=[{"name":"A","vale":"b"}]',): "- at '/extraEnv/0': additional properties 'vale' not allowed",
    ('containerSecurityContext={"privileged":true}',): "- at '/containerSecurityContext': additional properties 'privileged' not allowed",
}
WRONG_KINDS = {
    ('replicas="3"',): "- at '/replicas': got string, want integer",
    ('replicas=0',): "- at '/replicas': minimum: got 0, want 1",
    ('tls={"enabled":"yes"}',): "- at '/tls/enabled': got string, want boolean",
    ('tls=null',): "- at '': missing property 'tls'",
    ('database={"engine":"mysql"}',): "- at '/database/engine': value must be one of 'embedded', 'postgresql'",
    ('plaintext="yes"',): "- at '/plaintext': value must be one of 'anywhere', 'loopback'",
    ('settings={"keyPrefix":"Acme"}',): "- at '/settings/keyPrefix': 'Acme' does not match pattern '^[a-z0-9]([a-z0-9_]{0,18}[a-z0-9])?$'",
    ('settings={"databaseConnections":1}',): "- at '/settings/databaseConnections': minimum: got 1, want 2",
    ('settings={"hashProfile":"md5"}',): "- at '/settings/hashProfile': value must be one of 'random256', 'owasp'",
    ('telemetry={"samplerRatio":2}',): "- at '/telemetry/samplerRatio': maximum: got 2, want 1",
    ('drain={"timeoutSeconds":601}',): "- at '/drain/timeoutSeconds': maximum: got 601, want 600",
    ('rootSecrets={"secretName":"Not A Name"}',): "- at '/rootSecrets/secretName': 'Not A Name' does not match pattern '^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$'",
    ('image={"digest":"sha256:12"}',): "- at '/image/digest': 'sha256:12' does not match pattern '^(sha256:[0-9a-f]{64})?$'",
}
SENSELESS = {
    ('replicas=3',): "replicas: 3 pods cannot share the embedded database, which belongs to one process; write replicas: 1, or database.engine: postgresql",
    ('autoscaling={"enabled":true}',): "autoscaling.enabled: the embedded database belongs to one process, so there is nothing to scale; write false, or database.engine: postgresql",
    ('podDisruptionBudget={"enabled":true}',): "podDisruptionBudget.enabled: with the embedded database there is one pod, and a budget could only keep its node from being drained; write false, or database.engine: postgresql",
    ('topologySpread={"enabled":true}',): "topologySpread.enabled: with the embedded database there is one pod, which cannot be spread; write false, or database.engine: postgresql",
    ('migrations={"mode":"job"}',): "migrations.mode: a Job cannot open the embedded database beside the service; write start, or database.engine: postgresql",
    ('migrations={"job":{"urlSecret":{"name":"owner"}}}',): "migrations.job.urlSecret.name: is set, and there is no Job; write migrations.mode: job, or leave the Secret out",
    ('database={"postgresql":{"urlSecret":{"name":"db"}}}',): "database.postgresql.urlSecret.name: is set, and database.engine is embedded; write database.engine: postgresql, or leave the Secret out",
    ('database={"engine":"postgresql"}', ROOTS): "database.postgresql.urlSecret.name: is missing; name an existing Secret that holds postgres://USER:PASSWORD@HOST/DATABASE",
    (POSTGRESQL,): "rootSecrets.secretName: is missing; name an existing Secret whose keys are root secrets, each named by one character (openssl rand -hex 32 makes one)",
    (POSTGRESQL, ROOTS, 'database.embedded.existingClaim="old"'): "database.embedded.existingClaim: is set, and database.engine is postgresql; write database.engine: embedded, or leave the claim out",
    (POSTGRESQL, ROOTS, 'podDisruptionBudget={"enabled":true}'): "podDisruptionBudget.enabled: a budget keeps nothing up where there is one pod; write replicas: 2 or more, or false",
    (POSTGRESQL, ROOTS, 'autoscaling={"enabled":true}', 'replicas=4'): "replicas: is 4, and autoscaling.enabled decides how many there are; leave replicas out and write autoscaling.minReplicas",
    (POSTGRESQL, ROOTS, 'autoscaling={"enabled":true,"minReplicas":9}'): "autoscaling.minReplicas: 9 is more than autoscaling.maxReplicas, 6; write the smaller number first",
    ('bootstrap={"secretName":"first"}',): "bootstrap.secretName: is set, and its key string was made under a root secret that this set-up would not have; name that in rootSecrets.secretName, or leave the Secret out",
    ('tls={"enabled":true}',): "tls.secretName: is missing; name an existing Secret with a certificate and its private key, or write tls.enabled: false",
    ('tls={"secretName":"cert"}',): "tls.secretName: is set, and TLS is off; write tls.enabled: true, or leave the Secret out",
    ('plaintext="loopback"',): "plaintext: with loopback and without TLS nobody outside the pod could call; write tls.enabled: true, or plaintext: anywhere if key strings may cross the cluster's network in clear",
    ('terminationGracePeriodSeconds=30',): "terminationGracePeriodSeconds: 30 is too short for a stop that may take 37 s before the pause, the drain and 12 s for changes that have begun, and 5 s for telemetry; write 37 or more, or leave it out",
    ('telemetry={"endpoint":"collector:4317"}',): "telemetry.endpoint: collector:4317 is no address of a collector; write it like http://collector.monitoring:4317",
    ('telemetry={"endpoint":"http://me:secret@collector:4317"}',): "telemetry.endpoint: holds a user or a path, and OTLP over gRPC has neither; write it like http://collector.monitoring:4317, and headers by extraEnv from a Secret",
    ('grpcRoute={"enabled":true}',): "grpcRoute.parentRefs: is empty; name the gateway, as in [{name: GATEWAY, namespace: NAMESPACE}]",
    ('networkPolicy={"egress":{"enabled":true}}',): "networkPolicy.egress.enabled: has no effect without the policy; write networkPolicy.enabled: true",
    ('extraEnv=[{"name":"CLAVIGER_LISTEN","value":"[::]:1"}]',): "extraEnv: CLAVIGER_LISTEN is a setting of the service; write it as a value of its own (README.md has the table)",
    ('extraEnv=[{"name":"OTEL_SERVICE_NAME","value":"x"}]', 'telemetry={"endpoint":"http://c:4317"}'): "extraEnv: OTEL_SERVICE_NAME is set from the values under telemetry; write it there",
    ('extraEnv=[{"name":"K8S_POD","value":"x"}]',): "extraEnv: K8S_POD is a name that this chart keeps for itself; choose another",
}


@pytest.mark.parametrize("sets", TYPOS | WRONG_KINDS, ids=" ".join)
def test_the_schema_refuses(sets):
    assert (TYPOS | WRONG_KINDS)[sets] in chart.refusal(*sets)
    # The other generation says it in words of its own.
    assert chart.refusal(*sets, version="helm3").count("- ") >= 1


@pytest.mark.parametrize("sets", SENSELESS, ids=" ".join)
@pytest.mark.parametrize("version", chart.HELMS)
def test_the_chart_refuses(sets, version):
    assert chart.refusal(*sets, version=version) == f"one value makes no sense:\n{SENSELESS[sets]}"


def test_all_that_makes_no_sense_is_told_at_once():
    told = chart.refusal('replicas=2', 'tls={"enabled":true}', 'plaintext="loopback"', 'podDisruptionBudget={"enabled":true}')
    assert told.splitlines()[0] == "3 values make no sense:" and len(told.splitlines()) == 4


def test_a_release_whose_name_is_none_for_a_service_needs_another():
    told = chart.refusal(release="1st")
    assert told.splitlines()[1].startswith("fullnameOverride: is missing; the name that release and chart make, 1st-claviger, is none")
    assert chart.rendered(release="1st", sets=('fullnameOverride="first"',))


def test_a_value_of_a_parent_chart_is_let_through():
    assert chart.rendered(sets=('global={"region":"eu"}',)) == chart.rendered()


def test_the_schema_and_the_values_name_the_same():
    import json

    import yaml

    def paths(values, schema, at=""):
        assert set(values) == set(schema["properties"]) - {"global"}, at
        for name, value in values.items():
            inner = schema["properties"][name]
            if isinstance(value, dict) and inner.get("additionalProperties") is False:
                # Security contexts and resources may say more than the defaults do.
                if set(inner.get("required", [])):
                    paths(value, inner, f"{at}.{name}")

    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    paths(values, json.loads((chart.CHART / "values.schema.json").read_text()))
