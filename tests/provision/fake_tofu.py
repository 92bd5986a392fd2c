"""A fake `tofu`, for the tests: no real provider can be had where they run, so that no real tool can apply these documents.

It is strict where the real one is: it reads *.tf.json, knows each resource type's arguments by the providers' own schemas
(tofu_facts.json: flags R required, O optional, C computed, F made anew when changed; hashicorp/aws 6.x as far as it is used,
terraform-provider-openstack 3.4.0, dmacvicar/libvirt 0.8.3), and refuses unknown and missing ones, wrong types, dangling
references, cycles, clashing names and addresses, and variables without a value. It keeps terraform.tfstate, version 4, plans
into a file that is stale once the state has moved on, and applies in the order of references. It makes nothing anywhere, and
of HCL, modules, count, functions and backends it knows nothing. What the real tool does with the same calls is tested beside.

Told by the environment: FAKE_TOFU_FAIL_AT=k, FAKE_TOFU_KILL_AT=k: at the k-th change of an apply; FAKE_TOFU_QUOTA=TYPE:n: no
more than n of a type; FAKE_TOFU_SLEEP_S: how long each change takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import signal
import sys
import time
import uuid
from pathlib import Path

FACTS = json.loads((Path(__file__).parent / "tofu_facts.json").read_text())
STATE = "terraform.tfstate"
META = {"depends_on", "lifecycle", "//"}
REFERENCE = re.compile(r"(?<!\$)\$\{([^}]*)\}")
UNKNOWN = {"unknown": True}
# No two of these may stand at once with the same values.
UNIQUE = {
    "openstack_compute_flavor_v2": ("name",),
    "libvirt_pool": ("name",),
    "libvirt_network": ("name",),
    "libvirt_domain": ("name",),
    "libvirt_volume": ("pool", "name"),
    "libvirt_cloudinit_disk": ("pool", "name"),
    "aws_security_group": ("vpc_id", "name"),
    "openstack_networking_secgroup_rule_v2": (
        "security_group_id", "direction", "ethertype", "remote_ip_prefix", "protocol", "port_range_min", "port_range_max",
    ),
}  # fmt: skip
TYPES = {"Int": int, "Bool": bool, "String": str, "Map": dict, "Float": (int, float)}


class RefusedError(Exception):
    """What the tool ends with: a summary, and the address it is about."""

    def __init__(self, summary, address=""):
        super().__init__(summary)
        self.summary, self.address = summary, address


class Killed(BaseException):
    """Stands for a kill -9 where the fake runs within a test's own process."""


class Folder:
    """A root module: its documents as one, and its state."""

    def __init__(self, path, environment):
        self.path, self.environment = path, environment
        self.resources, self.data, self.variables, self.providers, self.outputs = {}, {}, {}, {}, {}
        for file in sorted(path.glob("*.tf.json")):
            self._merge(json.loads(file.read_text()))
        file = path / STATE
        text = file.read_text() if file.exists() else ""
        self.state = json.loads(text) if text else {"version": 4, "serial": 0, "lineage": "fake", "resources": []}
        self.state = {"terraform_version": "1.11.0", "outputs": {}, "serial": 0, "check_results": None, **self.state}

    def _merge(self, document):
        unknown = document.keys() - {"//", "terraform", "variable", "provider", "data", "resource", "output"}
        if unknown:
            raise RefusedError(f"Extraneous JSON object property: {sorted(unknown)[0]}")
        self.providers |= document.get("terraform", {}).get("required_providers", {})
        self.variables |= document.get("variable", {})
        self.outputs |= document.get("output", {})
        for section, into in (("resource", self.resources), ("data", self.data)):
            for kind, named in document.get(section, {}).items():
                for name, body in named.items():
                    if f"{kind}.{name}" in into:
                        raise RefusedError(f"Duplicate {section}", f"{kind}.{name}")
                    into[f"{kind}.{name}"] = body

    @property
    def entries(self):
        """The state's managed resources by address."""
        return {f"{entry['type']}.{entry['name']}": entry for entry in self.state["resources"]}

    def save(self, entries):
        self.state["resources"] = [entries[address] for address in sorted(entries)]
        self.state["serial"] += 1
        new = self.path / f"{STATE}.new"
        new.write_text(json.dumps(self.state, indent=2))
        new.rename(self.path / STATE)

    def digest(self):
        """What a saved plan is for."""
        return hashlib.sha256(json.dumps([self.state, self.resources], sort_keys=True).encode()).hexdigest()

    def variable(self, name):
        if name not in self.variables:
            raise RefusedError(f"Reference to undeclared input variable: {name}")
        value = self.environment.get(f"TF_VAR_{name}", self.variables[name].get("default"))
        if value is None:
            raise RefusedError(f"No value for required variable: {name}")
        return value

    # Validation

    def validate(self):
        for address, body in self.resources.items():
            kind = address.partition(".")[0]
            if kind == "terraform_data":
                continue
            if kind not in FACTS["resource"]:
                raise RefusedError(f"Invalid resource type {kind}", address)
            self._provider_of(kind, address)
            check(FACTS["resource"][kind], {key: part for key, part in body.items() if key not in META}, address)
        for address, body in self.data.items():
            kind = address.partition(".")[0]
            self._provider_of(kind, address)
            check(FACTS["data"][kind], body, f"data.{address}")
        for address, body in self.resources.items():
            for found in references(body):
                self._lead(found, address)
            for other in body.get("depends_on", []):
                if other not in self.resources:
                    raise RefusedError(f"Reference to undeclared resource {other}", address)
        for name, body in self.outputs.items():
            for found in references(body):
                self._lead(found, f"output.{name}")
        self.order()

    def _provider_of(self, kind, address):
        if kind.partition("_")[0] not in self.providers:
            raise RefusedError(f"Missing required provider for {kind}", address)

    def _lead(self, found, address):
        """Refuses a reference that leads nowhere."""
        parts = found.split(".")
        if parts[0] == "var":
            if parts[1] not in self.variables:
                raise RefusedError(f"Reference to undeclared input variable: {parts[1]}", address)
            return
        section, where = ("data", self.data) if parts[0] == "data" else ("resource", self.resources)
        parts = parts[1:] if parts[0] == "data" else parts
        if f"{parts[0]}.{parts[1]}" not in where:
            raise RefusedError(f"Reference to undeclared resource {found}", address)
        if parts[0] != "terraform_data" and parts[2] != "id" and parts[2] not in FACTS[section][parts[0]]:
            raise RefusedError(f"Unsupported attribute {found}", address)

    def needs(self, address):
        """The resources that must stand before this one."""
        body = self.resources[address]
        named = {".".join(found.split(".")[:2]) for found in references(body) if found.split(".")[0] not in {"var", "data"}}
        named |= {".".join(each.split(".")[:2]) for each in body.get("lifecycle", {}).get("replace_triggered_by", [])}
        return named | set(body.get("depends_on", []))

    def order(self):
        """All addresses, each after what it needs."""
        left = {address: set(self.needs(address)) for address in sorted(self.resources)}
        done = []
        while left:
            ready = [address for address, needs in left.items() if not needs & left.keys()]
            if not ready:
                raise RefusedError(f"Cycle: {', '.join(sorted(left)[:5])}")
            done += ready
            left = {address: needs for address, needs in left.items() if address not in ready}
        return done

    # Planning

    def resolved(self, value, attributes):
        """A value with its templates filled in; UNKNOWN where a resource isn't made yet."""
        if isinstance(value, dict):
            return {key: self.resolved(part, attributes) for key, part in value.items() if key not in META}
        if isinstance(value, list):
            return [self.resolved(part, attributes) for part in value]
        if not isinstance(value, str):
            return value
        whole = REFERENCE.fullmatch(value)
        if whole:
            return self._value(whole[1], attributes)
        parts = [self._value(found, attributes) for found in references(value)]
        if UNKNOWN in parts:
            return UNKNOWN
        given = iter(parts)
        return REFERENCE.sub(lambda _: str(next(given)), value).replace("$${", "${").replace("%%{", "%{")

    def _value(self, found, attributes):
        parts = found.split(".")
        if parts[0] == "var":
            return self.variable(parts[1])
        if parts[0] == "data":
            return "data-" + ".".join(parts[1:3])
        known = attributes.get(f"{parts[0]}.{parts[1]}")
        return UNKNOWN if known is None else known.get(parts[2], f"{parts[2]}-of-{known['id']}")

    def plan(self, targets):
        """address -> actions, and the wanted arguments of each."""
        standing = self.entries
        attributes = {address: entry["instances"][0]["attributes"] for address, entry in standing.items()}
        changes, known = {}, dict(attributes)
        chosen = self._chosen(targets)
        for address in self.order():
            if chosen is not None and address not in chosen:
                continue
            want = shaped(address, self.resolved(self.resources[address], known))
            actions = self._actions(address, want, standing.get(address), changes)
            if actions:
                changes[address] = actions
            if "create" in actions:
                known[address] = None
        for address in sorted(standing.keys() - self.resources.keys()):
            if chosen is None or address in chosen:
                changes[address] = ["delete"]
        return changes

    def _chosen(self, targets):
        if not targets:
            return None
        chosen, new = set(), set(targets)
        while new:
            chosen |= new
            new = {need for address in new if address in self.resources for need in self.needs(address)} - chosen
        return chosen

    def _actions(self, address, want, entry, changes):
        if entry is None:
            return ["create"]
        instance = entry["instances"][0]
        lifecycle = self.resources[address].get("lifecycle", {})
        ignored = set(lifecycle.get("ignore_changes", []))
        have = instance["attributes"]
        differ = {
            key for key in want.keys() | (have.keys() & entry["given"].keys())
            if key not in ignored and want.get(key) != have.get(key)
        }  # fmt: skip
        facts = FACTS["resource"].get(address.partition(".")[0], {})
        triggers = {".".join(each.split(".")[:2]) for each in lifecycle.get("replace_triggered_by", [])}
        anew = instance.get("status") == "tainted" or any("create" in changes.get(each, []) for each in triggers)
        if anew or any("F" in facts.get(key, [""])[0] for key in differ):
            return ["delete", "create"]
        return ["update"] if differ else []

    # Applying

    def apply(self, changes, say):
        entries, count = self.entries, 0
        gone = [address for address in changes if "delete" in changes[address]]
        late = [address for address in gone if entries[address]["instances"][0].get("create_before_destroy")]
        for address in late:  # and what they need stays until they are gone
            late += [need for need in entries[address]["instances"][0]["dependencies"] if need in gone and need not in late]
        leaving = [address for address in gone if address not in late]
        coming = [address for address in self.order() if {"create", "update"} & set(changes.get(address, []))]
        acts = [("delete", address) for address in backwards(leaving, entries)] + [("make", address) for address in coming]
        acts += [("delete", address) for address in backwards(late, entries)]
        while acts:
            act, address = acts.pop(0)
            count += 1
            self._mishap(count, address)
            if act == "delete":
                self._delete(address, entries)
            else:
                self._make(address, changes[address], entries)
            self.save(entries)
            say({"@level": "info", "type": "apply_complete", "hook": {"resource": {"addr": address}, "action": act}})
        return count

    def _mishap(self, count, address):
        time.sleep(float(self.environment.get("FAKE_TOFU_SLEEP_S", 0)))
        if count == int(self.environment.get("FAKE_TOFU_KILL_AT", 0)):
            if self.environment.get("FAKE_TOFU_WITHIN"):
                raise Killed
            os.kill(os.getpid(), signal.SIGKILL)
        if count == int(self.environment.get("FAKE_TOFU_FAIL_AT", 0)):
            raise RefusedError(f"the provider said no, with {self.environment.get('OS_PASSWORD', 'no password')}", address)

    def _delete(self, address, entries):
        ident = entries[address]["instances"][0]["attributes"]["id"]
        users = [other for other, entry in entries.items() if other != address and holds(entry["held"], ident)]
        if users:
            raise RefusedError(f"it is in use by {users[0]}", address)
        del entries[address]

    def _make(self, address, actions, entries):
        kind, _, name = address.partition(".")
        attributes = {other: entry["instances"][0]["attributes"] for other, entry in entries.items()}
        want = shaped(address, self.resolved(self.resources[address], attributes))
        if holds(want, UNKNOWN["unknown"]) and UNKNOWN in list(want.values()):
            raise RefusedError("a value is not known", address)
        type_, _, most = self.environment.get("FAKE_TOFU_QUOTA", "").partition(":")
        if "create" in actions and kind == type_ and sum(other.startswith(f"{kind}.") for other in entries) >= int(most):
            raise RefusedError("Quota exceeded for resources", address)
        self._clash(kind, address, want, entries)
        made = entries[address]["instances"][0]["attributes"]["id"] if actions == ["update"] else str(uuid.uuid4())
        flavors = {each["id"]: each["name"] for other, each in attributes.items() if "compute_flavor" in other}
        more = {"flavor_name": flavors.get(want.get("flavor_id"))} if kind == "openstack_compute_instance_v2" else {}
        entries[address] = {
            "mode": "managed", "type": kind, "name": name, "provider": f'provider["fake/{kind.partition("_")[0]}"]',
            "given": dict.fromkeys(want, True), "held": self._held(address, attributes),
            "instances": [{
                "schema_version": 0, "attributes": {**want, **more, "id": made},
                "dependencies": sorted(self.needs(address)), "create_before_destroy": self._first(address),
            }],
        }  # fmt: skip

    def _first(self, address):
        return self.resources[address].get("lifecycle", {}).get("create_before_destroy", False)

    def _held(self, address, attributes):
        """The ids that a resource holds: what they name can't go while it stands."""
        named = {".".join(found.split(".")[:2]) for found in references(self.resources[address])}
        return [attributes[need]["id"] for need in sorted(named) if need in attributes]

    def _clash(self, kind, address, want, entries):
        for other, entry in entries.items():
            if other == address or entry["type"] != kind:
                continue
            have = entry["instances"][0]["attributes"]
            names = UNIQUE.get(kind, ())
            if names and all(want.get(name) == have.get(name) for name in names):
                raise RefusedError(f"{names} is taken by {other}", address)
            taken = addresses(have) & addresses(want)
            if taken:
                raise RefusedError(f"the address {sorted(taken)[0]} is taken by {other}", address)


def addresses(attributes):
    """The addresses of a port or interface, with the subnet that they are in."""
    fixed = {(each["subnet_id"], each["ip_address"]) for each in attributes.get("fixed_ip", []) if "network_id" in attributes}
    names = ("private_ips", "private_ip_list", "ipv6_addresses", "ipv6_address_list")
    return fixed | {(attributes["subnet_id"], one) for name in names for one in attributes.get(name) or []}


def backwards(leaving, entries):
    """Those that go, each before what it needed."""
    left, done = set(leaving), []
    while left:
        needed = {need for address in left for need in entries[address]["instances"][0]["dependencies"]}
        ready = sorted(left - needed) or sorted(left)
        done += ready
        left -= set(ready)
    return done


def references(value):
    if isinstance(value, dict):
        return [found for key, part in value.items() if key not in META for found in references(part)]
    if isinstance(value, list):
        return [found for part in value for found in references(part)]
    return REFERENCE.findall(value) if isinstance(value, str) else []


def holds(value, sought):
    if isinstance(value, dict):
        return any(holds(part, sought) for part in value.values())
    if isinstance(value, list):
        return any(holds(part, sought) for part in value)
    return value == sought


def shaped(address, body):
    """Arguments as the state has them: blocks are lists."""
    facts = FACTS["resource"].get(address.partition(".")[0], {})
    blocks = {key for key, fact in facts.items() if fact[1] in {"List", "Set"}}
    return {key: [part] if key in blocks and isinstance(part, dict) else part for key, part in body.items()}


def check(facts, body, address):
    """Refuses arguments that a schema doesn't have, lacks, or has of another type."""
    for key, value in body.items():
        fact = facts.get(key)
        if fact is None or fact[0] == "C":
            raise RefusedError(f'Extraneous JSON object property: no argument or block type is named "{key}"', address)
        given = [value] if isinstance(value, dict) and fact[1] in {"List", "Set"} else value
        if fact[1] in {"List", "Set"} and not isinstance(given, list):
            raise RefusedError(f"Incorrect attribute value type: {key} is to be a list", address)
        wanted = TYPES.get(fact[1])
        template = isinstance(value, str) and REFERENCE.search(value)
        if wanted and not template and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
            raise RefusedError(f"Incorrect attribute value type: {key} is to be {fact[1]}", address)
        if len(fact) > 2:
            for block in given:
                check(fact[2], block, f"{address}.{key}")
    for key, fact in facts.items():
        if "R" in fact[0] and key not in body:
            raise RefusedError(f'Missing required argument "{key}"', address)


def locked(path, args):
    """Holds the state's lock, as long as the process lives; waits for as long as it is told to."""
    wait = next((float(arg[len("-lock-timeout=") : -1]) for arg in args if arg.startswith("-lock-timeout=")), 0.0)
    file = (path / f".{STATE}.lock.info").open("w")
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise RefusedError("Error acquiring the state lock") from None
            time.sleep(0.02)
        else:
            return file


def run(argv, path, environment, say):
    """One call. say: takes a line, as text or plain data. Returns the exit status."""
    command, args = argv[0], argv[1:]
    ready = path / ".terraform" / "fake.json"
    if command == "init":
        ready.parent.mkdir(exist_ok=True)
        ready.write_text(json.dumps(Folder(path, environment).providers))
        return 0
    if command == "state" and args == ["pull"]:
        file = path / STATE
        say(file.read_text() if file.exists() else "")
        return 0
    if command == "show":
        say(json.loads((path / args[1]).read_text()) if len(args) > 1 else Folder(path, environment).state)
        return 0
    folder = Folder(path, environment)
    folder.validate()
    if command == "validate":
        say({"valid": True, "diagnostics": []})
        return 0
    if not ready.exists() or folder.providers.keys() - json.loads(ready.read_text()).keys():
        raise RefusedError("Inconsistent dependency lock file: run init")
    with locked(path, args):
        return changing(command, args, path, environment, say)


def changing(command, args, path, environment, say):
    """plan and apply, which hold the lock."""
    folder = Folder(path, environment)
    if command == "plan":
        targets = [arg[len("-target=") :] for arg in args if arg.startswith("-target=")]
        changes = folder.plan(targets)
        told = [
            {"address": address, "mode": "managed", "type": address.partition(".")[0], "change": {"actions": actions}}
            for address, actions in changes.items()
        ]
        out = next(arg[len("-out=") :] for arg in args if arg.startswith("-out="))
        plan = {"format_version": "1.2", "for": folder.digest(), "resource_changes": told}
        (path / out).write_text(json.dumps(plan))
        return 0
    if command == "apply" and not args[-1].startswith("-"):
        plan = json.loads((path / args[-1]).read_text())
        if plan["for"] != folder.digest():
            raise RefusedError("Saved plan is stale")
        changes = {each["address"]: each["change"]["actions"] for each in plan["resource_changes"]}
        count = folder.apply(changes, say)
        say({"@level": "info", "type": "change_summary", "changes": {"operation": "apply", "count": count}})
        return 0
    raise RefusedError(f"what the fake doesn't know: {command} {' '.join(args)}")


def told(argv, path, environment, out, err):
    """run, with errors as the tool tells them."""

    def say(line):
        out.write((line if isinstance(line, str) else json.dumps(line)) + "\n")

    try:
        return run(argv, path, environment, say)
    except RefusedError as error:
        if "-json" in argv:
            diagnostic = {"severity": "error", "summary": error.summary, "detail": "", "address": error.address}
            say({"@level": "error", "@message": f"Error: {error.summary}", "type": "diagnostic", "diagnostic": diagnostic})
        else:
            err.write(f"╷\n│ Error: {error.summary}\n│ {error.address}\n╵\n")
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
    sys.exit(told(sys.argv[1:], Path.cwd(), os.environ, sys.stdout, sys.stderr))
