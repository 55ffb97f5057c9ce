"""Many conversations through the real Go in one process, and what it must write."""

from __future__ import annotations

import json
import subprocess

import go_mirror


def run_go(program, work):
    """``work``: pairs of a Go template and messages; the text of each."""
    given = json.dumps([{"template": template, "messages": messages} for template, messages in work])
    done = subprocess.run([program], input=given.encode(), capture_output=True, check=True, timeout=120)
    results = json.loads(done.stdout)
    assert [result["error"] for result in results] == [""] * len(work)
    return [result["text"] for result in results]


def expected(template, messages):
    """Ollama: joined neighbours, and a last assistant message left open."""
    _, joined = go_mirror.collate(messages)
    if joined[-1]["role"] != "assistant":
        return template.render(joined, add_generation_prompt=True).removeprefix(template.bos)
    whole = template.render(joined).removesuffix(template.suffix).removeprefix(template.bos)
    return whole[: len(whole) - len(template.assistant.after)]
