"""A machine's seed, read back: its label, its exact files under both kinds of names, and what cloud-init makes of them."""

from __future__ import annotations

import io
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.provision.libvirt_seed import seed_files, seed_image
from adumbra.schema.plans import Item, Kind

pycdlib = pytest.importorskip("pycdlib", reason="needs adumbra[libvirt]")
yaml = pytest.importorskip("ruamel.yaml").YAML(typ="safe", pure=True)
MAC = "02:ad:00:00:00:01"


def machine(name="web-1", addresses=("10.20.1.10",)):
    return Item(Kind.MACHINE, name, {"addresses": list(addresses), "mac": MAC})


def read_image(data, names):
    """The files of an image, by the names of either kind: "rr_path" or "joliet_path"."""
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(data))
    try:
        assert image.pvd.volume_identifier.decode().rstrip() == "cidata"
        assert image.joliet_vd.volume_identifier.decode("utf-16-be").rstrip("\0 ") == "cidata"
        found = {}
        for child in image.list_children(**{names: "/"}):
            if child is None or child.is_dot() or child.is_dotdot():
                continue
            name = child.rock_ridge.name().decode() if names == "rr_path" else child.file_identifier().decode("utf-16-be")
            read = io.BytesIO()
            image.get_file_from_iso_fp(read, **{names: f"/{name}"})
            found[name] = read.getvalue()
        return found
    finally:
        image.close()


@pytest.mark.parametrize("names", ["rr_path", "joliet_path"])
@settings(deadline=None, max_examples=15)
@given(user_data=st.one_of(st.just(""), st.text(min_size=1, max_size=5000)))
def test_the_image_holds_exactly_the_files(names, user_data):
    files = seed_files(machine(), "10.20.1.0/24", "an-instance", user_data.encode(errors="replace").decode())
    assert read_image(seed_image(files), names) == {name: text.encode() for name, text in files.items()}
    assert set(files) == {"meta-data", "user-data", "network-config"}


def test_the_largest_user_data_has_room():
    files = seed_files(machine(), "10.20.1.0/24", "an-instance", "#" * (1 << 20))
    assert read_image(seed_image(files), "rr_path")["user-data"] == b"#" * (1 << 20)


def test_user_data_goes_in_as_it_is_and_is_valid_without():
    assert seed_files(machine(), "10.20.1.0/24", "i", "#!/bin/sh\necho 1\n")["user-data"] == "#!/bin/sh\necho 1\n"
    without = seed_files(machine(), "10.20.1.0/24", "i", "")["user-data"]
    assert without.startswith("#cloud-config\n")
    assert yaml.load(without) == {}


@pytest.mark.parametrize("name", ["web-1", "no", "on", "null", "1", "007", "1e3", "0x1f", "true", "12-01-02"])
def test_a_machine_is_called_by_its_name_whatever_yaml_would_make_of_it(name):
    assert yaml.load(seed_files(machine(name), "10.20.1.0/24", "i-1", "")["meta-data"]) == {
        "instance-id": "i-1", "local-hostname": name,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cidr", "addresses", "want"),
    [
        ("10.20.1.0/24", ["10.20.1.10"], {"dhcp4": True}),
        ("10.20.1.0/25", ["10.20.1.10-10.20.1.12"], {"dhcp4": True, "addresses": ["10.20.1.11/25", "10.20.1.12/25"]}),
        ("10.20.1.0/24", ["10.20.1.10", "10.20.1.64/31"], {"dhcp4": True, "addresses": ["10.20.1.64/24", "10.20.1.65/24"]}),
        (
            "2001:db8::/64", ["2001:db8::10", "2001:db8::20"],
            {
                "dhcp4": False, "addresses": ["2001:db8::10/64", "2001:db8::20/64"],
                "routes": [{"to": "::/0", "via": "2001:db8::1"}], "nameservers": {"addresses": ["2001:db8::1"]},
            },
        ),
    ],
)  # fmt: skip
def test_the_first_ipv4_address_comes_by_dhcp_and_all_others_stand(cidr, addresses, want):
    config = yaml.load(seed_files(machine(addresses=addresses), cidr, "i", "")["network-config"])
    whole = {"match": {"macaddress": MAC}, "dhcp6": False, "accept-ra": False} | want
    assert config == {"version": 2, "ethernets": {"port": whole}}


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_machines_network_config_has_its_addresses(data):
    version = data.draw(st.sampled_from([4, 6]))
    cidr = "10.20.0.0/16" if version == 4 else "fd00:1::/64"
    base = int(ipaddress.ip_network(cidr).network_address)
    numbers = data.draw(st.lists(st.integers(2, 65_000), min_size=1, max_size=10, unique=True))
    addresses = [str(ipaddress.ip_address(base + number)) for number in numbers]
    port = yaml.load(seed_files(machine(addresses=addresses), cidr, "i", "")["network-config"])["ethernets"]["port"]
    length = cidr.partition("/")[2]
    fixed = [f"{address}/{length}" for address in addresses][1 if version == 4 else 0 :]
    assert port.get("addresses", []) == fixed
    assert port["dhcp4"] is (version == 4)
