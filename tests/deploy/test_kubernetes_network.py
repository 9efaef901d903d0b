"""Who may reach whom by the Kubernetes manifests, and that there is somebody to be reached."""

from __future__ import annotations

import pytest
import yaml
from support.deployments.manifests import (
    ENVOY,
    KUBERNETES,
    RENDERED,
    documents,
    of_kind,
    pods_of,
    ports_of,
    selected,
)

everywhere = pytest.mark.parametrize("name", ["base", *RENDERED])


@everywhere
def test_services_lead_to_ports_that_are_there(name: str) -> None:
    for service in of_kind(name, "Service"):
        pods = selected(name, service["spec"]["selector"])
        assert len(pods) == 1
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports_of(pods)
            # A name without an address of its own leads to pods as they are.
            if service["spec"].get("clusterIP") == "None":
                assert port["port"] == ports_of(pods)[port["targetPort"]]


@everywhere
def test_network_policies_open_exactly_the_ports_there_are(name: str) -> None:
    policies = of_kind(name, "NetworkPolicy")
    for policy in policies:
        pods = selected(name, policy["spec"]["podSelector"]["matchLabels"])
        opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        assert sorted(opened) == sorted(ports_of(pods).values())
        for rule in policy["spec"]["egress"]:
            for peer in rule.get("to", []):
                reached = ports_of(selected(name, peer["podSelector"]["matchLabels"]))
                assert {port["port"] for port in rule["ports"]} <= set(reached.values())
    assert len(policies) == len(pods_of(name))


@everywhere
def test_disruption_budgets_are_of_pods_that_are_there(name: str) -> None:
    for budget in of_kind(name, "PodDisruptionBudget"):
        assert len(selected(name, budget["spec"]["selector"]["matchLabels"])) == 1


def test_prometheus_scrapes_every_container() -> None:
    (monitor,) = documents(KUBERNETES / "components" / "pod-monitor" / "pod-monitor.yaml")
    scraped = {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]}
    assert scraped == {port for port in ports_of(pods_of("base")) if port.endswith("metrics")}
    assert len(selected("base", monitor["spec"]["selector"]["matchLabels"])) == len(pods_of("base"))


def test_the_proxy_listens_and_leads_where_the_manifests_say() -> None:
    settings = yaml.safe_load((ENVOY / "envoy.yaml").read_text())["static_resources"]
    listeners = {
        one["name"]: one["address"]["socket_address"]["port_value"] for one in settings["listeners"]
    }
    proxy = next(one for one in documents(ENVOY / "proxy.yaml") if one["kind"] == "Deployment")
    assert ports_of([proxy["spec"]["template"]]) == listeners
    assert proxy["spec"]["template"]["metadata"]["labels"]["triptych-client"] == "true"
    (endpoints,) = settings["clusters"][0]["load_assignment"]["endpoints"]
    (endpoint,) = endpoints["lb_endpoints"]
    routers = endpoint["endpoint"]["address"]["socket_address"]
    (service,) = (
        one for one in of_kind("base", "Service") if one["metadata"]["name"] == routers["address"]
    )
    assert service["spec"]["clusterIP"] == "None"
    assert [one["port"] for one in service["spec"]["ports"]] == [routers["port_value"]]
