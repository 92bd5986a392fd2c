"""The `demo` command: the whole path on the example network, from its recorded traffic to a sized plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli import learn, live, network, observe
from adumbra.cli.output import console, progress_bar, say
from adumbra.cli.session import now_ns, own_workspace

if TYPE_CHECKING:
    from adumbra.service.networks import Network
    from adumbra.service.workspace import Workspace

_SOURCE_TREE = Path(__file__).parents[3] / "examples" / "shop"
_INSTALLED = Path(__file__).parents[1] / "examples" / "shop"
_RECORDING = "shop.pcap.zst"


def register(root: typer.Typer) -> None:
    """Adds this room's top-level commands."""
    root.command("demo")(demo)


def example_folder() -> Path:
    """Where the example network lies: in the source tree, or installed with the package. Raises InputError."""
    from adumbra.schema.errors import InputError

    for folder in (_SOURCE_TREE, _INSTALLED):
        if (folder / _RECORDING).is_file():
            return folder
    raise InputError("the example network is not installed", "run this in a clone of the project, or install its wheel")


def demo(
    home: Annotated[Path | None, typer.Option("--home", help="A folder for its state; by default ADUMBRA_HOME.")] = None,
) -> None:
    """The whole path on examples/shop: shadow, traffic, metrics, models, sizes, Terraform. No root, no cloud."""
    from adumbra.service import activations, learning, observations, profiles

    folder, out = example_folder(), console()
    began = time.monotonic()
    with own_workspace("demo", home) as opened:
        out.rule("1  a network is created, and its shadow with it", align="left")
        shop = _network(opened, folder / "shop.yaml")
        out.print(network.network_table(shop, f"{shop.name}: {len(shop.vms)} intended VMs, none of them booted"))
        out.rule("2  recorded traffic that was meant for it passes the shadow", align="left")
        with progress_bar("observing") as tell:
            observation = observations.observe(opened, shop.name, f"pcap:{folder / _RECORDING}", now_ns, tell)
        out.print(observe.accounts_table(observation))
        out.print(observe.summary_table(observations.metrics(opened, shop.name, {})))
        out.rule("3  models learn from what the shadow saw", align="left")
        with progress_bar("training") as tell:
            trained = learning.train(opened, shop.name, now_ns, tell)
        out.print(learn.training_table(trained.found()))
        out.rule("4  a plan with sizes for the week to come", align="left")
        sized = profiles.profile(opened, shop.name, now_ns)
        activation = activations.activate(opened, shop.name, "terraform", now_ns)
        out.print(live.plan_table(activation.plan))
        out.print(learn.first_reasons(sized), markup=False)
        out.print(learn.profile_table(sized))
    out.print(f"Terraform JSON: {activation.place}", soft_wrap=True)
    took_s = time.monotonic() - began
    say(f"done in {took_s:.1f} s. Look further: adumbra metrics shop, adumbra profile shop --shortfall 5%, adumbra events shop")


def _network(opened: Workspace, path: Path) -> Network:
    """The example network: made now, or the one that an earlier demo made."""
    from adumbra.schema.errors import ConflictError
    from adumbra.service import networks

    text = networks.read_spec(path)
    for there in networks.listing(opened):
        if there.name == "shop":
            if there.record.spec_text != text:
                raise ConflictError("there is a network shop of your own", "give the demo a folder of its own with --home")
            return there
    return networks.create(opened, text, str(path), now_ns())
