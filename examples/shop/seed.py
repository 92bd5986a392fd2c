#!/usr/bin/env python3
"""Makes the shop's contents: static files (FOLDER/www) and the database (FOLDER/shop.sql).

usage: seed.py FOLDER SEED
"""

import os
import random
import sys

FILES = 1500  # images; bounded Pareto sizes
SMALLEST, LARGEST, SHAPE = 1_000, 300_000, 1.15
PRODUCTS = 12_000
REVIEWS = 3  # a product, on average
CATEGORIES = 40
WORDS = (
    "amber anchor arrow autumn barrel basket beacon birch blanket bottle branch bridge bright bronze candle "
    "canvas carbon cedar chalk cherry clever cloud cobalt copper coral cotton craft crystal desert dune ember "
    "fabric feather fern field finch flint forest frost garden ginger glass grain granite harbor hazel heavy "
    "hollow honey indigo iron island ivory jade juniper kettle lantern leather lemon light linen maple marble "
    "meadow mellow mint mirror moss oak ocean olive orchard paper pearl pebble pine plain plum pocket polished "
    "quartz quiet raven ridge river robust rope rust saddle sage sand shadow silver slate smooth snow soft "
    "spruce stable steel stone summer sturdy thistle timber tin velvet walnut warm wild willow winter wool"
).split()


def sizes(rng, n=FILES):
    low, high = SMALLEST**-SHAPE, LARGEST**-SHAPE
    return [int((low - rng.random() * (low - high)) ** (-1 / SHAPE)) for _ in range(n)]


def main():
    folder, seed = sys.argv[1], int(sys.argv[2])
    rng = random.Random(seed)
    static = os.path.join(folder, "www", "static")
    os.makedirs(static)
    for i, size in enumerate(sizes(rng)):
        with open(f"{static}/{i}.jpg", "wb") as f:
            f.write((b"image %6d " % i * (size // 13 + 1))[:size])
    for name, size in (("style.css", 9_000), ("shop.js", 24_000)):
        with open(f"{static}/{name}", "w") as f:
            f.write("".join(f".{rng.choice(WORDS)}-{n} {{ margin: {rng.randrange(40)}px; }}\n" for n in range(2000))[:size])
    words = lambda n: " ".join(rng.choice(WORDS) for _ in range(n))
    with open(f"{folder}/shop.sql", "w") as f:
        f.write("""CREATE ROLE shop LOGIN; CREATE DATABASE shop OWNER shop;
\\connect shop
SET ROLE shop;
CREATE TABLE product (id int PRIMARY KEY, category int, name text, price int, stock int, description text);
CREATE TABLE review (id int PRIMARY KEY, product int, stars int, body text);
CREATE TABLE cart (session bigint, product int, quantity int, changed timestamptz DEFAULT now(), PRIMARY KEY (session, product));
CREATE TABLE orders (id bigserial PRIMARY KEY, session bigint, product int, total int, made timestamptz DEFAULT now());
COPY product FROM stdin;
""")
        for i in range(PRODUCTS):
            f.write(f"{i}\t{i % CATEGORIES}\t{words(3)}\t{rng.randrange(200, 20000)}\t{rng.randrange(10, 5000)}\t{words(30)}\n")
        f.write("\\.\nCOPY review FROM stdin;\n")
        for i in range(PRODUCTS * REVIEWS):
            f.write(f"{i}\t{int(PRODUCTS * rng.random() ** 2)}\t{rng.randrange(1, 6)}\t{words(rng.randrange(6, 40))}\n")
        f.write(
            "\\.\nCREATE INDEX ON review (product); CREATE INDEX ON product (category, price);\nRESET ROLE; VACUUM ANALYZE;\n"
        )


if __name__ == "__main__":
    main()
