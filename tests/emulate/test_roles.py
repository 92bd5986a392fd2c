"""The role priors: the bundled file is whole and says where its figures come from; a wrong file is refused with its place."""

from __future__ import annotations

import json

import pytest

from adumbra.emulate.roles import BUNDLED, GENERIC, bundled_priors, load_priors
from adumbra.schema.errors import InputError

PRIORS = bundled_priors()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("nginx", "nginx"), ("web", "nginx"), ("postgresql", "postgresql"), ("postgres", "postgresql"), ("redis", "redis"),
        ("haproxy", "haproxy"), ("lb", "haproxy"), ("memcached", "memcached"), ("mysql", "mysql"), ("mariadb", "mysql"),
        ("app", "app"), ("python", "app"), ("https", "nginx-tls"), ("envoy", "haproxy"), ("traefik", "haproxy"),
        ("generic", "generic"), ("mainframe", "generic"), ("apache", "generic"), ("httpd", "generic"), ("php", "generic"),
    ],
)  # fmt: skip
def test_role_names(name, role):
    assert PRIORS.role_of(name) == role
    assert PRIORS.prior(name).cpu.request_s == PRIORS.roles[role].cpu.request_s > 0


@pytest.mark.parametrize("role", sorted(PRIORS.roles))
def test_every_role_is_measured_or_pooled_and_says_so(role):
    prior = PRIORS.roles[role]
    if role == GENERIC:
        assert prior.source.startswith("pooled")
        others = [each.spread.cpu for name, each in PRIORS.roles.items() if name != GENERIC]
        assert prior.spread.cpu > sum(others) / len(others)  # less sure than the others are of themselves
    else:
        assert prior.source.startswith("measured, see benchmarks/roles")
        assert "held_out_error" in prior.source
    costs = prior.cpu.connection_s, prior.cpu.request_s, prior.cpu.byte_in_s, prior.cpu.byte_out_s, prior.cpu.packet_s
    assert min(costs) > 0  # what can't be told apart shares; nothing is free
    assert prior.spread.costs > 0


def test_the_operating_system_is_added_to_every_role():
    own, whole = PRIORS.roles["nginx"], PRIORS.prior("nginx")
    assert whole.cpu.idle_cores == own.cpu.idle_cores + PRIORS.system.idle_cores
    assert whole.memory.base_bytes == own.memory.base_bytes + PRIORS.system.memory_bytes
    assert whole.storage.base_bytes == own.storage.base_bytes + PRIORS.system.storage_bytes


def edited(change):
    plain = json.loads(BUNDLED.read_text())
    change(plain)
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "EOF while parsing"),
        ("[]", "roles.json"),
        (edited(lambda p: p["roles"].pop("generic")), "'generic' is missing"),
        (edited(lambda p: p["roles"]["nginx"]["cpu"].update(request_s=-1)), "roles.nginx.cpu.request_s"),
        (edited(lambda p: p["roles"]["nginx"]["cpu"].pop("request_s")), "roles.nginx.cpu.request_s"),
        (edited(lambda p: p["roles"]["nginx"]["cpu"].update(request_ms=1)), "roles.nginx.cpu.request_ms"),
        (edited(lambda p: p["roles"]["nginx"].update(source="")), "roles.nginx.source"),
        (edited(lambda p: p["roles"]["redis"]["cpu"].update(servers=0)), "roles.redis.cpu.servers"),
        (edited(lambda p: p["aliases"].update(iis="windows")), "'iis' means 'windows'"),
        (edited(lambda p: p["aliases"].update(redis="nginx")), "an alias and a role"),
        (edited(lambda p: p["roles"]["nginx"]["memory"].update(base_bytes=float("inf"))), "roles.nginx.memory.base_bytes"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, text, says):
    file = tmp_path / "roles.json"
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        load_priors(file)
    assert str(file) in str(refused.value)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_priors(tmp_path / "none.json")


def test_a_replaced_file_needs_no_code(tmp_path):
    file = tmp_path / "roles.json"

    def add(plain):
        plain["roles"]["smtp"] = plain["roles"]["nginx"] | {"source": "measured, see benchmarks/roles"}

    file.write_text(edited(add))
    assert load_priors(file).role_of("smtp") == "smtp"
