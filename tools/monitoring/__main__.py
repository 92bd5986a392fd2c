"""Writes deploy/ and the tables of docs/monitoring.md anew: `python -m tools.monitoring`, where the catalogue was changed."""

from __future__ import annotations

from tools.monitoring.outputs import ROOT, outputs

if __name__ == "__main__":
    for path, text in outputs().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")  # noqa: T201
