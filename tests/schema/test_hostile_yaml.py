"""Text that is no spec: always one clear line, soon, whatever it is."""

from __future__ import annotations

import random
import string
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.schema.errors import SpecError
from adumbra.schema.spec import parse_spec
from adumbra.schema.yamllines import MAX_CHARACTERS, MAX_DEPTH, YamlError, read_document


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as refused:
        parse_spec(text, "noise.yaml")
    assert "\n" not in str(refused.value)
    assert str(refused.value).isprintable()
    return str(refused.value)


CHANCE = random.Random(7)
LAUGHS = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}]\n" for b, c in pairwise("abcdefghi"))


def noise(letters: str, lines: int = 10_000) -> str:
    return "\n".join("".join(CHANCE.choices(letters, k=60)) for _ in range(lines))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (noise(string.printable), "noise.yaml:1: this is not YAML"),
        (noise(string.ascii_letters + "  :-"), "this is not YAML: mapping values are not allowed here; check the indentation"),
        (noise(string.ascii_letters + " "), "noise.yaml:1: this is not a network spec; it begins with `name:`, `cidrs:`"),
        ("\n".join(f"- line {i}" for i in range(10_000)), "noise.yaml:1: this is not a network spec"),
        ("\n".join(f"key{i}: {i}" for i in range(10_000)), "noise.yaml:1: the key 'name' is missing; add it (and 99 more"),
        ("name: a\n" * 10_000, "noise.yaml:2: the key 'name' stands twice; remove one"),
        ("name: shop\ncidrs:\n  - 10.0.0.0/8\nvms: []\ncidrs:\n  - 10.0.0.0/9\n", "noise.yaml:5: the key 'cidrs' stands twice"),
        ("name: shop\nvms:\n  - name: a\n    name: b\n", "noise.yaml:4: the key 'name' stands twice"),
        ("", "noise.yaml:1: the text is empty"),
        ("# only a remark\n", "noise.yaml:1: the text is empty"),
        ("\n" * 100_000, "noise.yaml:1: the text is empty"),
        ("42", "noise.yaml:1: this is not a network spec"),
        ("a" * 5_000_000, "noise.yaml:1: the text is longer than 1048576 characters; a spec is a few pages at most"),
        ("name: shop\nvms:\n- \x07\n", "noise.yaml:3: this is not YAML: characters that YAML does not allow"),
        ("name: \ud800", "noise.yaml:1: this is not YAML"),
        ("name: shop\n\tcidrs: []\n", "noise.yaml:2: this is not YAML"),
        ("a: b\n---\nc: d\n", "noise.yaml:2: this is not YAML: but found another document"),
        ('name: "shop\n', "noise.yaml:2: this is not YAML: found unexpected end of stream"),
        ("a: &x [1, 2]\nb: *x\n", "noise.yaml:1: anchors and aliases are not accepted; write the value out"),
        ("a: [1]\nb: *x\n", "noise.yaml:2: this is not YAML: found undefined alias 'x'"),
        ("a: &x 1\nb: &x 2\n", "noise.yaml:1: anchors and aliases are not accepted"),
        ("&x a: 1\n", "noise.yaml:1: anchors and aliases are not accepted"),
        ("&x [*x]", "noise.yaml:1: anchors and aliases are not accepted"),
        (LAUGHS, "noise.yaml:1: anchors and aliases are not accepted"),
        ("name: !!str shop\n", "noise.yaml:1: tags such as !!str are not accepted"),
        ("name: shop\nvms: !!python/object/apply:os.system ['true']\n", "noise.yaml:2: tags such as !!str are not accepted"),
        ("!!set {a, b}", "noise.yaml:1: tags such as !!str are not accepted"),
        ("!x name: shop\n", "noise.yaml:1: tags such as !!str are not accepted"),
        ("? [a, b]\n: c\n", "noise.yaml:1: a key must be a short word; write `key: value`"),
        ("k" * 300 + ": 1\n", "noise.yaml:1: a key must be a short word"),
        ("name: shop\ninterval: 1e999\n", "noise.yaml:2: 1e999 is too large; write a smaller number"),
        ("[" * 100_000, "noise.yaml:1: the text nests too deeply"),
        ("{a: " * 10_000, "noise.yaml:1: the text nests too deeply"),
        ("- " * 100_000, "noise.yaml:1: the text nests too deeply"),
        ("\n".join(" " * i + "a:" for i in range(MAX_DEPTH + 5)), f"noise.yaml:{MAX_DEPTH + 2}: the text nests too deeply"),
        ("<<: {name: shop}\n", "the key 'name' is missing"),
    ],
    ids=range(36),
)  # fmt: skip
def test_noise_is_refused_in_one_line(text: str, want: str) -> None:
    began = time.monotonic()
    assert want in refusal(text)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a: 1", 1), ("a: -17", -17), ("a: 007", "007"), ("a: 0x10", "0x10"), ("a: 0o17", "0o17"), ("a: 1_000", "1_000"),
        ("a: 1.5", 1.5), ("a: .5", 0.5), ("a: 1e3", 1000.0), ("a: .inf", ".inf"), ("a: .nan", ".nan"),
        ("a: 1:30", "1:30"), ("a: 2024-01-01", "2024-01-01"), ("a: '1'", "1"), ('a: "true"', "true"),
        ("a: true", True), ("a: False", False), ("a: yes", "yes"), ("a: no", "no"), ("a: on", "on"),
        ("a: null", None), ("a: ~", None), ("a:", None), ("a: ''", ""), ("a: |\n  x\n  y\n", "x\ny\n"),
        ("a: 999999999999999999", 999999999999999999), ("a: 9999999999999999999999", "9999999999999999999999"),
        ("{a: [1, {b: c}]}", [1, {"b": "c"}]), ("\ufeffa: 1", 1), ("%YAML 1.2\n---\na: 1\n", 1), ("a: x!y", "x!y"),
    ],
)  # fmt: skip
def test_plain_values(text: str, want: object) -> None:
    value = read_document(text).value["a"]
    assert value == want
    assert type(value) is type(want)


def test_lines_are_those_of_the_keys() -> None:
    document = read_document("name: a\nvms:\n\n  - name: b\n    ports:\n      - 1\n      - 2\n  - {name: c,\n     subnet: d}\n")
    places = [
        ("name",),
        ("vms",),
        ("vms", 0),
        ("vms", 0, "ports"),
        ("vms", 0, "ports", 1),
        ("vms", 1, "subnet"),
        ("vms", 9, "x"),
    ]
    assert [document.line(place) for place in places] == [1, 2, 4, 5, 7, 9, 2]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(alphabet="-:?[]{},#&*!|>'\"%@` \nab1", max_size=120)))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    lines = 2 + sum(text.count(end) for end in "\n\r\x85\u2028\u2029")
    try:
        document = read_document(text)
    except YamlError as refused:
        problem = refused
    else:
        assert isinstance(document.value, dict)
        return
    assert 1 <= problem.line <= lines
    assert str(problem).isprintable()


def test_the_longest_text_that_is_read() -> None:
    text = "name: a\n" + "#" * (MAX_CHARACTERS - 8)
    assert read_document(text).value == {"name": "a"}
