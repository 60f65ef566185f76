#!/usr/bin/env python3
"""Writes which key of an `alpha_pattern` PEFT takes for a module.

    golden/lora-patterns.json    `[keys in their order, the module's path, the key that is taken or null]`
"""

import itertools
import json
import pathlib

from peft.utils.other import get_pattern_key

OUT = pathlib.Path(__file__).parent / "golden" / "lora-patterns.json"
KEYS = [
    ["to_q"],
    ["attn1.to_q", "to_q"],
    ["to_q", "attn1.to_q"],
    ["attn1\\.to_q"],
    ["^to_q", "^down.attn1.to_q"],
    ["^down\\.attn1\\.to_q$"],
    ["to_q$", "to_k$"],
    ["down.attn1", "k", ""],
    ["$"],
    ["down\\.attn2\\.to_k", "attn.\\.to_q"],
    ["to-q", "to\\-q", "to_ü"],
]
PATHS = [
    "to_q", "to_k", "down.attn1.to_q", "down.attn2.to_q", "down.attn2.to_k", "down.attn1xto_q", "down.attn1.xto_q", "up.down.attn1.to_q",
    "down.attn1", "down.attn1.to_q.x", "a.to-q", "a.to_ü",
]


def main():
    cases = []
    for keys, path in itertools.product(KEYS, PATHS):
        # a path that is no key stands for none
        found = get_pattern_key(keys, path)
        cases.append([keys, path, found if found in keys else None])
    OUT.write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
