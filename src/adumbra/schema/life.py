"""The life of a network: the states it can be in, and the moves between them. Pure; moves nothing itself.

                            profile made
         +-----------+  ------------------->  +---------+
    o--> | SHADOWING |                        |  READY  | <----------+
         +-----------+  <-------------------  +---------+            |
            |     ^      the spec changed      |       ^             |
            |     |                   activate |       | deactivated |
            |     |                            v       |             |
            |     |   deactivated      +------------+  |             |
            |     +------------------- | ACTIVATING | -+             |
            |                          +------------+                |
            |          activate again    |   ^    |  the plan is done |
            |       +--------------------+   |    v                  |
            |       |  a step failed         |  +--------+           |
            |       v                        +- | ACTIVE | ----------+
            |    +--------+  activate,          +--------+  nothing stood any more
            |    | FAILED |  deactivate ----> ACTIVATING
            |    +--------+
            v
      DELETING --> o        from every state; nothing leads out of it but the end

Each move is one event of kind `network.state`, written in the transaction that makes it. A new profile changes nothing
in the states after READY: it is what the next activation, or a resize, will bring about.
"""

from __future__ import annotations

from adumbra.schema.errors import ConflictError
from adumbra.schema.state import NetworkState as State

MOVES: dict[State, frozenset[State]] = {
    State.SHADOWING: frozenset({State.READY, State.ACTIVATING, State.ACTIVE, State.DELETING}),
    State.READY: frozenset({State.SHADOWING, State.ACTIVATING, State.ACTIVE, State.DELETING}),
    State.ACTIVATING: frozenset({State.ACTIVE, State.READY, State.SHADOWING, State.FAILED, State.DELETING}),
    State.ACTIVE: frozenset({State.ACTIVATING, State.READY, State.SHADOWING, State.DELETING}),
    State.FAILED: frozenset({State.ACTIVATING, State.ACTIVE, State.READY, State.SHADOWING, State.DELETING}),
    State.DELETING: frozenset(),
}
"""From each state, those that a network may come to."""


def check_move(name: str, now: State, to: State) -> None:
    """Raises ConflictError for a move that no network makes."""
    if to is not now and to not in MOVES[now]:
        raise ConflictError(
            f"{name} is {now.value} and can't become {to.value}",
            "it is being deleted: create it again" if now is State.DELETING else f"it can become {_told(now)}",
        )


def _told(state: State) -> str:
    return ", ".join(sorted(each.value for each in MOVES[state]))
