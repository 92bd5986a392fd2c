"""What the environment says is read whole or refused in a line; what is secret in it is not shown."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from adumbra.schema.access import Role
from adumbra.schema.errors import InputError
from adumbra.settings import (
    RoleRule,
    TerraformApply,
    TerraformFlavors,
    TerraformTarget,
    load_oidc_settings,
    load_provision_settings,
    load_serve_settings,
    load_settings,
    parse_role_rules,
)


def test_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"HOME": "/h", "STORE": "duckdb: prometheus+http://u:pw@h", "STATE": "postgresql://u:pw@h/d", "SPOOL_GB": "2.5"}
    for name, value in told.items():
        monkeypatch.setenv(f"ADUMBRA_{name}", value)
    settings = load_settings()
    assert (settings.home, settings.spool_gb, settings.drain_s) == (Path("/h"), 2.5, 30.0)
    assert settings.store.get_secret_value() == told["STORE"]
    assert settings.state.get_secret_value() == told["STATE"]
    assert "pw" not in repr(settings)


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan", "inf"])
def test_what_is_wrong_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ADUMBRA_SPOOL_GB", value)
    with pytest.raises(InputError, match=r"ADUMBRA_SPOOL_GB: input should be .*; correct it, or unset it") as refusal:
        load_settings()
    assert "\n" not in str(refusal.value)


def test_how_a_server_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_serve_settings()
    assert (plain.host, plain.port, plain.insist, plain.trusted_proxies, plain.tls_cert) == ("127.0.0.1", 8642, False, (), None)
    told = {"HOST": "::", "PORT": "443", "TLS_CERT": "/c", "TLS_KEY": "/k", "INSIST": "1", "URL": "https://a.test"}
    for name, value in (told | {"TRUSTED_PROXIES": " 10.0.0.1, 10.1.0.0/16,::1,"}).items():
        monkeypatch.setenv(f"ADUMBRA_SERVE_{name}", value)
    found = load_serve_settings()
    assert (found.host, found.port, found.tls_cert, found.tls_key, found.insist) == ("::", 443, Path("/c"), Path("/k"), True)
    assert found.trusted_proxies == (ip_network("10.0.0.1"), ip_network("10.1.0.0/16"), ip_network("::1"))


def test_who_vouches_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_oidc_settings().issuer == ""
    monkeypatch.setenv("ADUMBRA_OIDC_ISSUER", "https://login.test")
    monkeypatch.setenv("ADUMBRA_OIDC_ROLES", "cn=admins,dc=test=admin; net ops = operator : shop, lab;staff=viewer;")
    found = load_oidc_settings()
    assert found.roles == (
        RoleRule("cn=admins,dc=test", Role.ADMIN), RoleRule("net ops", Role.OPERATOR, ("shop", "lab")),
        RoleRule("staff", Role.VIEWER),
    )  # fmt: skip
    for wrong in ("admins", "=admin", "a=root", "a=viewer:", "a=viewer: ,"):
        with pytest.raises(ValueError, match="is no rule; write GROUP=ROLE"):
            parse_role_rules(wrong)


@pytest.mark.parametrize(
    ("name", "value", "load"),
    [("SERVE_PORT", "65536", load_serve_settings), ("SERVE_TRUSTED_PROXIES", "proxy.test", load_serve_settings),
     ("SERVE_TRUSTED_PROXIES", "10.0.0.1/8", load_serve_settings), ("SERVE_CONNECTIONS", "1", load_serve_settings),
     ("SERVE_INSIST", "perhaps", load_serve_settings), ("OIDC_ROLES", "nobody", load_oidc_settings)],
)  # fmt: skip
def test_what_is_wrong_of_a_server_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, load: Callable[[], object]
) -> None:
    monkeypatch.setenv(f"ADUMBRA_{name}", value)
    with pytest.raises(InputError, match=f"ADUMBRA_{name}: .*; correct it, or unset it") as refusal:
        load()
    assert "\n" not in str(refusal.value)


def test_how_networks_are_provisioned(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = load_provision_settings()
    assert (usual.terraform_target, usual.terraform_apply) == (TerraformTarget.AWS, TerraformApply.NEVER)
    assert usual.terraform_place is None
    told = {"TARGET": "openstack", "APPLY": "apply", "PLACE": "lab", "FLAVORS": "named", "TIMEOUT": "30m"}
    for name, value in told.items():
        monkeypatch.setenv(f"ADUMBRA_TERRAFORM_{name}", value)
    settings = load_provision_settings()
    assert (settings.terraform_target, settings.terraform_apply) == (TerraformTarget.OPENSTACK, TerraformApply.APPLY)
    assert (settings.terraform_place, settings.terraform_timeout) == ("lab", 1800.0)
    assert settings.terraform_flavors is TerraformFlavors.NAMED


@pytest.mark.parametrize(("name", "value"), [("TARGET", "azure"), ("APPLY", "yes"), ("TIMEOUT", "long"), ("FLAVORS", "")])
def test_a_wrong_word_about_terraform_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ADUMBRA_TERRAFORM_{name}", value)
    with pytest.raises(InputError, match=f"ADUMBRA_TERRAFORM_{name}: .*; correct it, or unset it"):
        load_provision_settings()
