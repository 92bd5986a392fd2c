#!/usr/bin/env python3
"""Fills the forum: its threads and posts, and static files.

usage: contents.py FOLDER SEED
"""

import random
import sqlite3
import sys
from pathlib import Path

THREADS, FILES = 600, 60
WORDS = [
    a + b
    for a in ("ra", "to", "mi", "ke", "lun", "sar", "vo", "pel")
    for b in ("den", "lo", "ka", "mer", "stin", "vu", "ras", "no")
]


def sizes(rng: random.Random) -> list[int]:
    """Sizes of the static files, bytes: Pareto between 2 and 150 kB."""
    return [min(150_000, int(2000 * rng.paretovariate(0.9))) for _ in range(FILES)]


def sentence(rng: random.Random, words: int) -> str:
    marks = ("{}", "{}", "{}", "{}", "*{}*", "_{}_")
    return " ".join(rng.choice(marks).format(rng.choice(WORDS)) for _ in range(words)) + "."


def main() -> None:
    folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    static = folder / "www" / "static"
    static.mkdir(parents=True)
    (folder / "data" / "sessions").mkdir(parents=True)
    (static / "forum.css").write_bytes(rng.randbytes(6000))
    for number, size in enumerate(sizes(random.Random(int(sys.argv[2])))):
        (static / f"{number}.jpg").write_bytes(rng.randbytes(size))
    with sqlite3.connect(folder / "data" / "forum.db") as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE threads (id INTEGER PRIMARY KEY, title TEXT)")
        db.execute("CREATE TABLE posts (id INTEGER PRIMARY KEY, thread INTEGER, author TEXT, text TEXT)")
        for thread in range(1, THREADS + 1):
            db.execute("INSERT INTO threads VALUES (?, ?)", (thread, sentence(rng, 6)))
            posts = min(90, int(3 * rng.paretovariate(0.8)))
            texts = ((thread, rng.choice(WORDS), sentence(rng, rng.randint(8, 120))) for _ in range(posts))
            db.executemany("INSERT INTO posts (thread, author, text) VALUES (?, ?, ?)", texts)
        db.execute("CREATE INDEX posts_of ON posts (thread)")


if __name__ == "__main__":
    main()
