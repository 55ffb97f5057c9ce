"""The part of Go's text/template that whet writes, run as Ollama runs it. The real Go checks this too."""

from __future__ import annotations

import json
import re

ACTION = re.compile(r'\{\{((?:[^"}]|"(?:[^"\\]|\\.)*"|\}(?!\}))*)\}\}')


def collate(messages):
    """As Ollama: system texts gathered, neighbours of one role joined by an empty line."""
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append(dict(message))
    return "\n\n".join(m["content"] for m in messages if m["role"] == "system"), joined


def render(template, messages):
    system, joined = collate(messages)
    tokens, at = [], 0
    for found in ACTION.finditer(template):
        tokens += [("text", template[at : found.start()]), ("action", found.group(1).strip())]
        at = found.end()
    assert "{{" not in template[at:]
    tokens.append(("text", template[at:]))
    tree, rest = _block(tokens)
    assert not rest
    return _run(tree, {"system": system, "messages": joined, "last": False, "message": None, "set": {}})


def _block(tokens):
    """Nodes up to the end or else of the block: (nodes, tokens from that action on)."""
    nodes = []
    while tokens:
        (kind, value), tokens = tokens[0], tokens[1:]
        if kind == "action" and (value == "end" or value.startswith("else")):
            return nodes, [(kind, value), *tokens]
        if kind == "action" and value.startswith(("range ", "if ")):
            node, tokens = _branch(value, tokens)
            nodes.append(node)
        else:
            nodes.append((kind, value))
    return nodes, []


def _branch(head, tokens):
    word, _, condition = head.partition(" ")
    body, tokens = _block(tokens)
    (_, stop), tokens = tokens[0], tokens[1:]
    other = []
    if stop.startswith("else if "):
        node, tokens = _branch(stop.removeprefix("else "), tokens)
        other = [node]
    elif stop == "else":
        other, tokens = _block(tokens)
        tokens = tokens[1:]
    return (word, condition, body, other), tokens


def _run(nodes, scope):
    out = []
    for node in nodes:
        if node[0] == "text":
            out.append(node[1])
        elif node[0] == "if":
            out.append(_run(node[2] if _test(node[1], scope) else node[3], scope))
        elif node[0] == "range":
            assert node[1] == "$i, $m := .Messages"
            for i, message in enumerate(scope["messages"]):
                out.append(_run(node[2], {**scope, "message": message, "index": i}))
        else:
            out.append(_value(node[1], scope))
    return "".join(out)


def _value(action, scope):
    if action == "$last := eq (len (slice $.Messages $i)) 1":
        scope["last"] = scope["index"] == len(scope["messages"]) - 1
        return ""
    if action in ("$open := true", "$open = false"):
        scope["set"]["open"] = action.endswith("true")
        return ""
    if action.startswith('"'):
        return json.loads(re.sub(r"\\U([0-9a-f]{8})", lambda found: chr(int(found.group(1), 16)), action))
    return {".Content": lambda: scope["message"]["content"], "$.System": lambda: scope["system"]}[action]()


def _test(condition, scope):
    role = scope["message"] and scope["message"]["role"]
    first = scope["messages"][0] if scope["messages"] else {"role": "", "content": ""}
    tests = {
        "not $last": lambda: not scope["last"],
        'and $last (ne .Role "assistant")': lambda: scope["last"] and role != "assistant",
        "$open": lambda: scope["set"]["open"],
        "$i": lambda: scope["index"] > 0,
        ".Content": lambda: bool(scope["message"]["content"]),
        "$.System": lambda: bool(scope["system"]),
        'or $.System (eq (index $.Messages 0).Role "system")': lambda: scope["system"] or first["role"] == "system",
        ".Messages": lambda: bool(scope["messages"]),
        'ne (index .Messages 0).Role "system"': lambda: first["role"] != "system",
        'or (ne (index .Messages 0).Role "system") (not (index .Messages 0).Content)': lambda: (
            first["role"] != "system" or not first["content"]
        ),
    }
    if condition.startswith('eq .Role "'):
        return role == condition.split('"')[1]
    return tests[condition]()
