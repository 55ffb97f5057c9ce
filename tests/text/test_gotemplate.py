"""The Go form writes what the template writes: in a Python mirror always, in Go itself where it is installed."""

from __future__ import annotations

import go_mirror
from go_run import expected, run_go
from hypothesis import given, settings
from hypothesis import strategies as st
from template_cases import TEMPLATES, chat, chats

from whet.text.gotemplate import literal
from whet.text.template import Turn, TurnTemplate

PIECE = st.text(
    st.one_of(st.sampled_from('{}"\\`\n\t %#-<|\u00a0'), st.characters(blacklist_categories=("Cs",))), max_size=8
)


def cases():
    for name, template in TEMPLATES.items():
        if template.no_go:
            continue
        for messages in chats(template):
            yield name, messages
            yield name, [*messages, *chat("aSELECT ")]
            yield name, [*messages, *chat("umore")]


def test_the_mirror_renders_what_the_template_renders():
    for name, messages in cases():
        template = TEMPLATES[name]
        assert go_mirror.render(template.go(), messages) == expected(template, messages), name


@settings(max_examples=200, deadline=None)
@given(PIECE)
def test_literal_text_is_safe_in_go_and_in_a_modelfile(text):
    written = literal(text) + "{{ .Content }}"
    rendered = go_mirror.render("{{ range $i, $m := .Messages }}" + written + "{{ end }}", chat("ux"))
    assert rendered == text + "x"
    assert '"""' not in written
    assert all(character.isprintable() or character == "\n" for character in written)


def test_go_renders_what_the_template_renders(go_program):
    work = [(TEMPLATES[name], messages) for name, messages in cases()]
    texts = run_go(go_program, [(template.go(), messages) for template, messages in work])
    assert texts == [expected(template, messages) for template, messages in work]


def test_go_renders_any_pieces(go_program):
    """Many templates of random pieces, in one run of Go."""
    work = []

    @settings(max_examples=150, deadline=None, database=None, derandomize=True)
    @given(pieces=st.tuples(*[PIECE] * 7), default=st.one_of(st.none(), PIECE), each=st.booleans())
    def collect(pieces, default, each):
        a, b, c, d, e, f, prefix = pieces
        template = TurnTemplate(
            Turn(a, b),
            Turn(c, d),
            Turn(e, f),
            default,
            prefix=prefix,
            system_place="each_turn" if each else "turn",
            generation=c[:3],
        )
        work.extend((template, messages) for messages in (chat("uone", "atwo", "uthree"), chat("sS", "uone", "atwo")))

    collect()
    assert len(work) > 200
    texts = run_go(go_program, [(template.go(), messages) for template, messages in work])
    assert texts == [expected(template, messages) for template, messages in work]
