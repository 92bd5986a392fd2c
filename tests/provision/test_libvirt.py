"""The libvirt provider on libvirt's test driver: it dies at any call, meets strangers, drift and refusals, and is at rest."""

from __future__ import annotations

import contextlib

import pytest
from tests.netns.spaces import Spaces, needs
from tests.provision.hypervisor_places import URI, HypervisorPlace, libvirt
from tests.provision.test_provider_contract import Crash, changed, plan_away, plan_for, run, stands

from adumbra.provision.execute import execute
from adumbra.provision.libvirt import LibvirtProvider
from adumbra.provision.libvirt_connection import host_of, shown
from adumbra.provision.libvirt_rules import Names
from adumbra.provision.libvirt_shaping import Host
from adumbra.provision.libvirt_things import Subnets, masters_of
from adumbra.provision.protocol import Effect
from adumbra.schema.errors import AdumbraError, InputError, ProvisionError
from adumbra.schema.plans import Act, Kind
from adumbra.settings import LibvirtSettings

__all__ = ["changed"]  # a fixture
NAMES = Names("1", "shop")
READS = frozenset({
    "ID", "UUIDString", "XMLDesc", "blockInfo", "blockStats", "close", "getCapabilities", "info", "interfaceStats", "isActive",
    "listAllDomains", "listAllNWFilters", "listAllNetworks", "listAllVolumes", "lookupByName", "lookupByUUIDString",
    "memoryStats", "name", "networkLookupByName", "networkLookupByUUIDString", "storagePoolLookupByName",
    "storagePoolLookupByUUIDString", "storageVolLookupByName",
})  # fmt: skip
"""Calls that change nothing: who dies at one has left what dying at the call before it, or at the next, leaves."""


class Wire:
    """Counts the calls that change something, and does at one of them what it is told: `meet(name)`, before the call."""

    def __init__(self, at=-1, meet=None):
        self.at, self.meet, self.names = at, meet, []

    def pass_(self, name):
        if name in READS:
            return
        self.names.append(name)
        if len(self.names) - 1 == self.at:
            self.meet(name)


class Tapped:
    """One of libvirt's objects, with all that it gives, on a wire."""

    def __init__(self, real, wire):
        self._real, self._wire = real, wire

    def __getattr__(self, name):
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def call(*given):
            self._wire.pass_(name)
            return self._tap(found(*given))

        return call

    def _tap(self, given):
        if isinstance(given, list):
            return [self._tap(each) for each in given]
        ours = (libvirt.virDomain, libvirt.virNetwork, libvirt.virStoragePool, libvirt.virStorageVol)
        return Tapped(given, self._wire) if isinstance(given, ours) else given


def die(name):
    raise Crash(name)


def refuse(message, code=libvirt.VIR_ERR_INTERNAL_ERROR):
    def meet(_name):
        error = libvirt.libvirtError("refused")
        error.err = (code, libvirt.VIR_FROM_TEST, message, libvirt.VIR_ERR_ERROR, None, None, None, -1, -1)
        raise error

    return meet


@contextlib.contextmanager
def opened(place, wire=None, **given):
    """A provider, its calls on a wire. Closed at the end, also where it died: the test driver has no locks to leave behind."""
    provider = place.open(**given)
    try:
        if wire is not None:
            connection = provider._rooms.connection
            connection._open = Tapped(connection._open, wire)
        yield provider
    finally:
        provider.__exit__()


@pytest.fixture
def place(tmp_path):
    place = HypervisorPlace(tmp_path)
    strangers = place.strangers()
    yield place
    assert place.strangers() == strangers
    place.held.close()


@pytest.fixture
def standing(place, shop):
    """The shop, as it stands."""
    with opened(place) as provider:
        run(plan_for(shop, provider), provider)
    return place


def volumes(place):
    return sorted(
        volume.name()
        for pool in place.held.listAllStoragePools()
        if pool.name() == "adumbra-shop" and pool.isActive()
        for volume in pool.listAllVolumes()
    )


def domain_of(place, name):
    return place.held.lookupByName(f"adumbra-shop-{name}")


# What dies half-way is finished by the next.


def sequence(place, networks):
    """Brings a place through networks by whole plans, None for taking all away; gives the last plan, not carried out."""
    for network in networks[:-1]:
        with opened(place) as provider:
            run(plan_away(provider) if network is None else plan_for(network, provider), provider)
    with opened(place) as provider:
        return plan_away(provider) if networks[-1] is None else plan_for(networks[-1], provider)


STORIES = {"made": (None, "shop"), "changed": (None, "shop", "changed"), "taken away": ("shop", None)}


@pytest.mark.parametrize("again", ["the same plan", "a new plan"])
@pytest.mark.parametrize("story", STORIES)
def test_who_dies_at_any_call_is_finished_by_the_next(story, again, place, shop, changed):
    networks = [{"shop": shop, "changed": changed, None: None}[name] for name in STORIES[story]]
    wire = Wire()
    plan = sequence(place, networks)
    with opened(place, wire) as provider:
        run(plan, provider)
        want, disks = stands(provider), volumes(place)
    assert len(wire.names) > 10
    for at in range(len(wire.names)):
        assert sequence(place, networks) == plan
        done = {}
        with pytest.raises(Crash), opened(place, Wire(at, die)) as provider:
            execute(plan, provider, done.__setitem__)
        with opened(place) as provider:
            # The test driver doesn't show a running network as it was last defined, by which a half-changed one is known.
            unseen = wire.names[at] == "update"
            if again == "the same plan" and not unseen:
                run(plan, provider, frozenset(done))
            else:
                run(sequence(place, networks[-1:]), provider)
        with opened(place) as provider:
            assert stands(provider) == want, (at, wire.names[at])
            assert sequence(place, networks[-1:]).empty
            assert volumes(place) == disks
    with opened(place) as provider:
        run(plan_away(provider), provider)
    assert place.is_empty()


# Strangers keep what is theirs.

DOMAIN = """<domain type='test'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os>{more}</domain>"""
NETWORK = "<network><name>{name}</name><bridge name='strange0'/><ip address='10.99.0.1' prefix='24'/></network>"
POOL = "<pool type='dir'><name>{name}</name><target><path>/strange</path></target></pool>"
STRANGERS = {
    "domain": ("adumbra-shop-web-1", lambda held, name: held.defineXML(DOMAIN.format(name=name, more=""))),
    "network": ("adumbra-shop-web", lambda held, name: held.networkDefineXML(NETWORK.format(name=name))),
    "storage pool": ("adumbra-shop", lambda held, name: held.storagePoolDefineXML(POOL.format(name=name))),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_name_that_somebody_else_has_is_refused_and_theirs_is_untouched(kind, place, shop):
    name, make = STRANGERS[kind]
    theirs = make(place.held, name)
    before = theirs.XMLDesc(0)
    with opened(place) as provider:
        with pytest.raises(ProvisionError, match=rf"a {kind} {name} .* isn't ours.* left as it is; rename or remove it there"):
            run(plan_for(shop, provider), provider)
        assert theirs.XMLDesc(0) == before
        run(plan_away(provider), provider)
        assert theirs.XMLDesc(0) == before
        theirs.undefine()
        assert place.is_empty()
        run(plan_for(shop, provider), provider)
        run(plan_away(provider), provider)
    assert place.is_empty()


def test_two_owners_with_a_network_of_one_name_never_touch_each_others(standing, shop):
    with opened(standing) as first, opened(standing, owner="2") as second:
        before = stands(first)
        assert stands(second) == {}
        assert plan_away(second).empty
        with pytest.raises(ProvisionError, match=r"storage pool adumbra-shop .* isn't ours"):
            run(plan_for(shop, second), second)
        for step in plan_for(shop, second).steps:  # and if all before it were out of the way
            with pytest.raises(ProvisionError, match=r"isn't ours|is already|already exists"):
                second.perform(step)
        assert stands(first) == before
        assert plan_for(shop, first).empty
        run(plan_away(first), first)
        run(plan_for(shop, second), second)
        assert stands(first) == {}
        run(plan_away(second), second)
    assert standing.is_empty()


def test_a_copy_of_our_machine_that_somebody_made_is_theirs(standing, shop):
    """Tools that copy a domain copy its metadata, too."""
    ours = domain_of(standing, "web-1")
    text = ours.XMLDesc(0).replace(ours.name(), "somebodys").replace(ours.UUIDString(), "11111111-2222-3333-4444-555555555555")
    mac = NAMES.mac("web-1")
    assert mac in text
    theirs = standing.held.defineXML(text.replace(mac, "52:54:00:00:00:07"))
    try:
        with opened(standing) as provider:
            assert plan_for(shop, provider).empty
            run(plan_away(provider), provider)
        assert standing.is_empty()
        assert theirs.name() == "somebodys"
    finally:
        theirs.undefine()


def test_a_copy_of_our_network_that_somebody_made_is_theirs(standing, shop):
    ours = standing.held.networkLookupByName("adumbra-shop-web")
    text = ours.XMLDesc(0).replace(ours.UUIDString(), "11111111-2222-3333-4444-555555555556")
    text = text.replace("<name>adumbra-shop-web</name>", "<name>somebodys</name>")
    theirs = standing.held.networkDefineXML(text.replace("bridge name='", "bridge name='x"))
    try:
        with opened(standing) as provider:
            assert plan_for(shop, provider).empty
            run(plan_away(provider), provider)
        assert standing.is_empty()
    finally:
        theirs.undefine()


def test_a_volume_of_somebody_in_our_pool_keeps_the_pool(standing):
    pool = standing.held.storagePoolLookupByName("adumbra-shop")
    theirs = pool.createXML("<volume><name>holiday.raw</name><capacity>4096</capacity></volume>")
    with opened(standing) as provider:
        with pytest.raises(ProvisionError, match=r"holds what isn't ours: holiday\.raw; move that away"):
            run(plan_away(provider), provider)
        assert volumes(standing) == ["holiday.raw"]
        assert [item.kind for item in provider.actual("shop").items] == [Kind.NETWORK]
        theirs.delete()
        run(plan_away(provider), provider)
    assert standing.is_empty()


# What somebody changed by hand is seen, and mended by the next plan.


def fewer_cores(place):
    domain_of(place, "web-1").setVcpusFlags(1, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def stopped(place):
    domain_of(place, "web-1").destroy()


def disk_gone(place):
    place.held.storagePoolLookupByName("adumbra-shop").storageVolLookupByName("web-1.qcow2").delete()


def lease_gone(place):
    network = place.held.networkLookupByName("adumbra-shop-web")
    lease = f"<host mac='{NAMES.mac('web-1')}' name='web-1' ip='10.20.1.10'/>"
    command, section = libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    network.update(command, section, -1, lease, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE)


def lease_added(place):
    network = place.held.networkLookupByName("adumbra-shop-web")
    command, section = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    lease = "<host mac='52:54:00:00:00:09' name='guest' ip='10.20.1.77'/>"
    network.update(command, section, -1, lease, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE)


def network_down(place):
    place.held.networkLookupByName("adumbra-shop-web").destroy()


def pool_down(place):
    place.held.storagePoolLookupByName("adumbra-shop").destroy()


def undefined(place):
    domain_of(place, "web-1").destroy()
    domain_of(place, "web-1").undefine()


def port_gone(place):
    domain = domain_of(place, "web-1")
    text = domain.XMLDesc(0)
    domain.destroy()
    place.held.defineXML(text[: text.index("<interface")] + text[text.index("</interface>") + len("</interface>") :])


def tag_mangled(place):
    domain = domain_of(place, "web-1")
    text = domain.XMLDesc(0)
    domain.destroy()
    place.held.defineXML(text.replace("{&quot;", "{").replace('{"', "{"))


WEB = ("machine", "web-1")
DRIFTS = [
    (fewer_cores, {WEB: {"cpu_cores": 1}}),
    (stopped, {WEB: {"running": False}}),
    (disk_gone, {WEB: {"storage_gb": 0.0}}),
    (lease_gone, {("subnet", "web"): {"leases": [{"name": "web-2", "address": "10.20.1.11", "mac": NAMES.mac("web-2")}]}}),
    (lease_added, {("subnet", "web"): ...}),
    (network_down, {("subnet", "web"): {"inactive": True}}),
    (pool_down, {("network", "shop"): {"inactive": True}}),
    (undefined, {WEB: None}),
    (tag_mangled, {WEB: None}),
    (port_gone, {WEB: ...}),
]


@pytest.mark.parametrize(("spoil", "want"), DRIFTS, ids=[spoil.__name__ for spoil, _ in DRIFTS])
def test_what_was_changed_by_hand_is_seen_and_mended(spoil, want, standing, shop):
    with opened(standing) as provider:
        before, disks = stands(provider), volumes(standing)
        spoil(standing)
        now = stands(provider)
        for key, seen in want.items():
            if seen is None:
                assert key not in now
            elif seen is ...:
                assert now[key].settings != before[key].settings
            else:
                assert {name: now[key].settings[name] for name in seen} == seen
        plan = plan_for(shop, provider)
        assert {step.item.key for step in plan.steps} >= want.keys()
        run(plan, provider)
        assert stands(provider) == before
        assert volumes(standing) == disks
        assert plan_for(shop, provider).empty
        run(plan_away(provider), provider)
    assert standing.is_empty()


# What the hypervisor refuses is told.


def test_a_quota_that_is_used_up_is_told_and_the_next_run_goes_on(place, shop):
    wire = Wire()
    with opened(place, wire) as provider:
        run(plan_for(shop, provider), provider)
        run(plan_away(provider), provider)
    last = max(number for number, name in enumerate(wire.names) if name == "create")
    with opened(place, Wire(last, refuse("the quota of\nguests is used up"))) as provider:
        plan = plan_for(shop, provider)
        outcomes = {}
        told = r"create machine db: making the machine adumbra-shop-db: the quota of guests is used up; mend that, then"
        with pytest.raises(ProvisionError, match=told):
            execute(plan, provider, outcomes.__setitem__)
    assert not outcomes[len(plan.steps) - 1].done
    with opened(place) as provider:
        assert stands(provider)["machine", "db"].settings["running"] is False
        run(plan, provider, frozenset(range(len(plan.steps) - 1)))
        assert plan_for(shop, provider).empty
        run(plan_away(provider), provider)
    assert place.is_empty()


def there_and_away(provider, network):
    run(plan_for(network, provider), provider)
    run(plan_away(provider), provider)


def test_every_call_that_the_hypervisor_refuses_is_an_error_of_ours(place, shop):
    wire = Wire()
    with opened(place, wire) as provider:
        run(plan_for(shop, provider), provider)
        run(plan_away(provider), provider)
    for at in range(len(wire.names)):
        with opened(place, Wire(at, refuse("client socket is closed"))) as provider:
            with pytest.raises(ProvisionError, match="client socket is closed"):
                there_and_away(provider, shop)
            run(plan_away(provider), provider)
        assert place.is_empty()


SECRETS = [
    "qemu+nosuch://root:hunter2@hyper.test/system?keyfile=/secret/key",
    "nosuch://root:hunter2@hyper.test/system?keyfile=/secret/key",
    "qemu+unix:///system?socket=/nowhere/libvirt-sock&keyfile=/secret/key",
    "qemu+ssh://root:hunter2@hyper.test:99999/system?keyfile=/secret/key",
    "qemu+ssh://root:hunter2@[::1/system?keyfile=/secret/key",
    "qemu+ext://root:hunter2@hyper.test/system?keyfile=/secret/key&command=/nowhere/command",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_hypervisor_that_is_away_is_told_without_what_is_secret_in_its_uri(uri):
    provider = LibvirtProvider(LibvirtSettings(uri=uri), "shop", "1", lambda: 0)
    with pytest.raises(AdumbraError, match=r"connecting to|correct ADUMBRA_LIBVIRT_URI") as told:
        provider.__enter__()
    for text in (str(told.value), provider.place, shown(uri)):
        assert "hunter2" not in text
        assert "/secret/key" not in text


def test_a_library_that_keeps_its_silence(capfd):
    with pytest.raises(ProvisionError):
        LibvirtProvider(LibvirtSettings(uri=SECRETS[0]), "shop", "1", lambda: 0).__enter__()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("uri", "want"),
    [
        ("qemu:///system", ()),
        (URI, ()),
        ("qemu+ssh://hyper.test/system", ("--", "hyper.test")),
        ("qemu+ssh://me@hyper.test:2222/system?keyfile=/k", ("-p", "2222", "-i", "/k", "--", "me@hyper.test")),
    ],
)
def test_commands_run_where_the_hypervisor_is(uri, want):
    assert host_of(uri).ssh[5:] == want


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("qemu+tls://hyper.test/system", "nothing can be run at qemu.tls://hyper.test"),
        ("qemu+ssh://-oProxyCommand=x@hyper.test/system", "is no host"),
        ("qemu+ssh://hyper.test:99999/system", "correct ADUMBRA_LIBVIRT_URI"),
    ],
)
def test_places_where_no_command_can_run_are_refused(uri, why):
    with pytest.raises(InputError, match=why):
        host_of(uri)


def test_what_is_asked_of_a_closed_provider_and_of_another_network_is_refused(place, tmp_path):
    with opened(place) as provider:
        with pytest.raises(ProvisionError, match="blog can't be made in place of shop"):
            provider.actual("blog")
        with pytest.raises(ProvisionError, match="blog"):
            provider.usage("blog")
    with pytest.raises(RuntimeError, match="isn't open"):
        provider.actual("shop")
    with pytest.raises(InputError, match="No such file"):
        place.open(user_data=tmp_path / "away")
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InputError, match="too large for a seed; give cloud-init at most 1 MiB"):
        place.open(user_data=tmp_path / "large")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is no text"):
        place.open(user_data=tmp_path / "binary")


# What runs is read.


def test_usage_is_of_the_machines_that_run(standing):
    domain_of(standing, "db").destroy()
    with opened(standing) as provider:
        one, other = provider.usage("shop"), provider.usage("shop")
        assert provider.ports("shop") == ()  # they are not on this host
    assert {reading.vm for reading in one} == {"web-1", "web-2"}
    for first, second in zip(one, other, strict=True):
        assert second.time_ns > first.time_ns
        assert first.run == second.run
        assert first.cpu_cores == 2
        assert first.memory_provisioned_bytes == 4 << 30
        assert second.cpu_time_ns >= first.cpu_time_ns
    with opened(standing) as provider, contextlib.suppress(ProvisionError):
        run(plan_away(provider), provider)
    assert standing.is_empty()


def test_machines_ports_are_named_where_the_hypervisor_is_here(standing):
    with opened(standing) as provider:
        ports = provider._rooms.machines.ports()
        assert {port.vm: port.device for port in ports} == {
            name: NAMES.device("adt", name) for name in ("db", "web-1", "web-2")
        }
        assert all(len(port.device) <= 15 for port in ports)
        assert {step.act for step in plan_away(provider).steps} == {Act.DELETE}
        run(plan_away(provider), provider)


@pytest.mark.root
@needs()
def test_a_machine_whose_bridge_was_made_anew_is_put_back_on_it(standing):
    """As it is when we die between making a network anew and joining its machines to it, or somebody restarts it by hand."""
    with opened(standing) as provider, Spaces("hypervisor") as net, net.inside("hypervisor"):
        room = Subnets(provider._rooms.connection, NAMES, Host())
        before = {each.item.name: each.item for each in room.all()}
        web, bridge = before["web"], before["web"].settings["bridge"]
        ports = sorted(NAMES.device("adt", name) for name in ("web-1", "web-2"))
        for port in ports:
            net.run("hypervisor", "ip", "tuntap", "add", port, "mode", "tap")
        net.bridge("hypervisor", bridge, ports[:1])
        seen = {each.item.name: each.item for each in room.all()}
        assert seen["web"].settings == {**web.settings, "apart": ports[1:]}
        assert seen["data"] == before["data"]  # its machine's port is nowhere to be seen, which is nothing to mend
        assert provider.rules.change(seen["web"], web).effect is Effect.LIVE
        room.make(web)
        assert {port: masters_of(Host())[port] for port in ports} == dict.fromkeys(ports, bridge)
        assert {each.item.name: each.item for each in room.all()} == before
        run(plan_away(provider), provider)
