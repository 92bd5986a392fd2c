"""How a command's result is shown: a table that fits the terminal, or JSON or YAML for programs. Computes nothing."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from adumbra.schema.units import format_time as iso

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from adumbra.service.observations import Progress


__all__ = ["Output", "OutputOption", "asked", "console", "iso", "plain", "progress_bar", "say", "show", "table_of"]


class Output(StrEnum):
    """The forms of a result."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to show the result.", show_default=True)]


def show(output: Output, data: Any, table: Callable[[], RenderableType]) -> None:
    """Prints a result: `data` as JSON or YAML, or what `table` gives."""
    if output is Output.JSON:
        sys.stdout.write(json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif output is Output.YAML:
        from ruamel.yaml import YAML

        writer = YAML(typ="safe", pure=True)
        writer.default_flow_style = False
        writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        writer.dump(plain(data), sys.stdout)
    else:
        console().print(table())


def plain(value: Any) -> Any:
    """Plain data that JSON can hold: NaN and infinities become null, tuples lists, enumerations their values."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):
        return plain(value.item())
    return value


def console(*, stderr: bool = False) -> Console:
    """Where people read. Its width is the terminal's; in a pipe what COLUMNS says, or 110."""
    from rich.console import Console

    piped = not (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=110 if piped and "COLUMNS" not in os.environ else None, highlight=False)


def table_of(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "",
    *, text: frozenset[str] = frozenset(), names: frozenset[str] = frozenset(), close: bool = False,
) -> RenderableType:  # fmt: skip
    """A table whose first column, and those in `names`, hold names, which never break. The other columns hold figures and
    stand to the right, except those in `text`, which hold words and are folded. close: columns stand one space apart, not two.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if close else 1, 0, 0))
    for number, column in enumerate(columns):
        words, left = column in text, number == 0 or column in text | names
        table.add_column(Text(column), justify="left" if left else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    below = [Text(caption, style="dim"), Text()] if caption else []
    return Group(Text(title, style="bold"), table, *below)


def say(text: str) -> None:
    """A sentence for people, beside the result: to standard error, so that a pipe holds the result alone."""
    console(stderr=True).print(text, markup=False, soft_wrap=True)


_Value = TypeVar("_Value")


def asked(parse: Callable[[str], _Value], text: str, option: str) -> _Value:
    """An option's value, parsed. Raises InputError naming the option."""
    from adumbra.schema.errors import InputError

    try:
        return parse(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on a terminal, for work longer than a second; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[doing]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0, doing="")

        def tell(share: float | None, doing: str) -> None:
            bar.update(task, completed=share or 0.0, total=None if share is None else 1.0, doing=doing)

        yield tell
