"""The table of values in helm/README.md, made of values.yaml and the comments in it. With `--write` it is put there."""

import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).resolve().parents[2] / "helm"
BEGIN, END = "<!-- values: written by tests/chart/values_table.py -->\n", "<!-- values: end -->\n"


def rows():
    """Path, default and meaning of each value. A comment right above a key is its meaning; a key without one is a heading."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    path, comment, told = [], [], []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        found = re.match(r"^( *)([A-Za-z0-9]+):", line)
        if not found:
            comment = []
            continue
        path = path[: len(found[1]) // 2] + [found[2]]
        if any(path[: len(one)] == one for one in told):
            comment = []
            continue
        if comment:
            default = values
            for name in path:
                default = default[name]
            told.append(list(path))
            yield ".".join(path), default, " ".join(comment)
        comment = []
    left = [leaf for leaf in leaves(values) if not any(leaf[: len(one)] == one for one in told)]
    if left:
        raise SystemExit(f"without a comment: {['.'.join(one) for one in left]}")


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield list(path)


def table():
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in rows():
        shown = "" if default in ("", None) else f"`{default if isinstance(default, str) else json.dumps(default)}`"
        lines.append(f"| `{path}` | {shown} | {meaning} |")
    return "\n".join(lines) + "\n"


def page():
    return (CHART / "README.md").read_text()


def with_table(text):
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    if "--write" in sys.argv:
        (CHART / "README.md").write_text(with_table(page()))
    else:
        print(table(), end="")
