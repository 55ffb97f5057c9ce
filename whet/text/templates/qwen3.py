"""Qwen 3: ChatML with thinking and tools.

Thinking stands in ``reasoning_content``, or in the content between <think> and </think>. It is written for what
follows the last question only; the last answer always has a thinking block, an empty one if need be. So a turn is
written in one way while it is the last and in another way later, which fixed pieces cannot say.
"""

from __future__ import annotations

from whet.text.templates.format import Format

_TOOLS_BEFORE = (
    "# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n"
    "You are provided with function signatures within <tools></tools> XML tags:\\n<tools>"
)
_TOOLS_AFTER = (
    "\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\\n<tool_call>\\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>'
)

_SYSTEM = (
    "{%- set first = messages[0] if messages and messages[0]['role'] == 'system' else none -%}"
    "{%- if tools -%}"
    "{{- '<|im_start|>system\\n' -}}"
    "{%- if first -%}{{- first['content'] + '\\n\\n' -}}{%- endif -%}"
    f"{{{{- '{_TOOLS_BEFORE}' -}}}}"
    "{%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}"
    f"{{{{- '{_TOOLS_AFTER}<|im_end|>\\n' -}}}}"
    "{%- elif first -%}"
    "{{- '<|im_start|>system\\n' + first['content'] + '<|im_end|>\\n' -}}"
    "{%- endif -%}"
)

# The last question: a user message that is no tool's answer in disguise.
_LAST_QUESTION = (
    "{%- set ns = namespace(asked=messages | length - 1) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' and not (message['content'].startswith('<tool_response>')"
    " and message['content'].endswith('</tool_response>')) -%}"
    "{%- set ns.asked = loop.index0 -%}"
    "{%- endif -%}{%- endfor -%}"
)

_THOUGHT = (
    "{%- set answer = message['content'] if message['content'] is string else '' -%}"
    "{%- set thought = '' -%}"
    "{%- if message['reasoning_content'] is string -%}"
    "{%- set thought = message['reasoning_content'] -%}"
    "{%- elif '</think>' in answer -%}"
    "{%- set halves = answer.split('</think>') -%}"
    "{%- set thought = halves[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}"
    "{%- set answer = halves[-1].lstrip('\\n') -%}"
    "{%- endif -%}"
)

_CALLS = (
    "{%- if message['tool_calls'] -%}{%- for item in message['tool_calls'] -%}"
    "{%- if answer or not loop.first -%}{{- '\\n' -}}{%- endif -%}"
    "{%- set call = item['function'] if item['function'] else item -%}"
    "{{- '<tool_call>\\n{\"name\": \"' + call['name'] + '\", \"arguments\": ' -}}"
    "{{- call['arguments'] if call['arguments'] is string else call['arguments'] | tojson -}}"
    "{{- '}\\n</tool_call>' -}}"
    "{%- endfor -%}{%- endif -%}"
)

_ASSISTANT = (
    "{{- '<|im_start|>assistant\\n' -}}"
    f"{_THOUGHT}"
    "{%- if loop.index0 > ns.asked and (loop.last or thought) -%}"
    "{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + answer.lstrip('\\n') -}}"
    "{%- else -%}{{- answer -}}{%- endif -%}"
    f"{_CALLS}"
    "{{- '<|im_end|>\\n' -}}"
)

# Answers of several tools in a row share one turn.
_TOOL = (
    "{%- if loop.first or messages[loop.index0 - 1]['role'] != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}"
    "{{- '\\n<tool_response>\\n' + message['content'] + '\\n</tool_response>' -}}"
    "{%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}"
)

_JINJA = (
    f"{_SYSTEM}{_LAST_QUESTION}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' or (message['role'] == 'system' and not loop.first) -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    f"{{%- elif message['role'] == 'assistant' -%}}{_ASSISTANT}"
    f"{{%- elif message['role'] == 'tool' -%}}{_TOOL}"
    "{%- elif message['role'] != 'system' -%}"
    "{{- raise_exception('no place in this template for the role ' + message['role']) -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)

QWEN_3 = Format(
    jinja=_JINJA,
    no_go="it leaves out the thinking of earlier answers, and a Go template cannot do that",
    stops=("<|im_end|>",),
)
