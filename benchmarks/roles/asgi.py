"""The application that stands for the role `app`: plain text, JSON, templates, rows of a database, reports, logins.

Served by uvicorn, one process; its database is a SQLite file named by the environment (APP_DATA). Knows no measurement.
"""

import hashlib
import os
import random
import sqlite3
from collections import defaultdict

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route

ROWS = 5000
PAGE = Environment(autoescape=True).from_string(
    "<!doctype html><html><head><title>{{ title }}</title></head><body><h1>{{ title }}</h1><ul>"
    "{% for row in rows %}<li class='{{ loop.cycle('odd', 'even') }}'><a href='/item/{{ row.id }}'>{{ row.name }}</a> "
    "<b>{{ '%.2f' % (row.price / 100) }}</b> <i>{{ row.text }}</i></li>{% endfor %}</ul></body></html>"
)


def _database():
    made = not os.path.exists(os.environ["APP_DATA"])
    data = sqlite3.connect(os.environ["APP_DATA"])
    data.row_factory = sqlite3.Row
    data.execute("PRAGMA journal_mode=WAL")
    if made:
        rng = random.Random(1)
        data.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, category INT, name TEXT, price INT, text TEXT)")
        data.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)")
        rows = [(i, i % 50, f"item <{i}>", rng.randrange(100, 9999), "text " * 12) for i in range(ROWS)]
        data.executemany("INSERT INTO item VALUES (?, ?, ?, ?, ?)", rows)
        data.execute("CREATE INDEX by_category ON item (category)")
        data.commit()
    return data


DATA = _database()
LIST = [{"id": i, "name": f"name {i}", "tags": ["a", "b"], "price": i * 1.25} for i in range(400)]


async def plain(_request):
    return PlainTextResponse("hello, world")


async def json(_request):
    return JSONResponse({"id": 7, "name": "seven", "items": LIST[:5]})


async def many(_request):
    return JSONResponse(LIST)


async def page(request):
    number = int(request.path_params["n"])
    rows = DATA.execute("SELECT id, name, price, text FROM item WHERE category = ? LIMIT 40", (number % 50,)).fetchall()
    return HTMLResponse(PAGE.render(title=f"page {number}", rows=rows))


async def rows(request):
    number = int(request.path_params["n"])
    found = [
        DATA.execute("SELECT id, name, price FROM item WHERE id = ?", ((number * i) % ROWS,)).fetchone() for i in range(1, 21)
    ]
    return JSONResponse([dict(row) for row in found])


async def report(_request):
    """Totals by category over all rows, added up in Python."""
    totals = defaultdict(lambda: [0, 0, 0])
    for row in DATA.execute("SELECT category, price, length(text) AS size FROM item"):
        total = totals[row["category"]]
        total[0] += 1
        total[1] += row["price"]
        total[2] = max(total[2], row["size"])
    best = sorted(totals.items(), key=lambda each: -each[1][1])
    return JSONResponse([{"category": c, "count": t[0], "mean": t[1] / t[0], "longest": t[2]} for c, t in best])


async def login(request):
    """A password's hash, as logins need it."""
    digest = hashlib.pbkdf2_hmac("sha256", b"secret", request.path_params["n"].encode(), 100_000)
    return JSONResponse({"token": digest.hex()})


async def form(request):
    fields = dict(await request.form())
    DATA.execute("INSERT INTO note (body) VALUES (?)", (" ".join(fields.values()),))
    DATA.commit()
    return JSONResponse({"fields": len(fields)}, status_code=201)


app = Starlette(
    routes=[
        Route("/plain", plain), Route("/json", json), Route("/list", many), Route("/page/{n}", page), Route("/rows/{n}", rows),
        Route("/report/{n}", report), Route("/login/{n}", login), Route("/form", form, methods=["POST"]),
    ]
)  # fmt: skip
