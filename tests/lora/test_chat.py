"""A chat template that asks for today's date gets the study's, so that a prompt is the same on any day."""

from __future__ import annotations

import datetime as clock
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM

from registry.config.study import CHAT_DATE
from registry.errors import Refused
from registry.lora.chat import (
    depends_on_date,
    header_digest,
    render_chat,
    require_fixed_template,
)
from tests.lora.tokenizer_kinds import tokenizer_of

TURNS = "{% for turn in messages %}<{{ turn['role'] }}>{{ turn['content'] }}{% endfor %}"
#: How the published templates of these families ask for the date.
DATED = {
    "llama-3.2": (
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
        '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
        '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
        '{{- "Cutting Knowledge Date: December 2023\\n" }}\n{{- "Today Date: " + date_string + "\\n\\n" }}\n' + TURNS
    ),
    "granite-3": (
        '{%- set system = "Knowledge Cutoff Date: April 2024.\nToday\'s Date: " + strftime_now(\'%B %d, %Y\') + "." %}'
        "{{ system }}" + TURNS
    ),
    "smollm3": "{%- set today = strftime_now('%d %B %Y') -%}\n<system>Today Date: {{ today }}\n" + TURNS,
    "gpt-oss": (
        "  {% macro system() %}{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}{% endmacro %}{{ system() }}" + TURNS
    ),
    "mistral-small": (
        "{%- set today = strftime_now('%Y-%m-%d') %}\n"
        "{% set year = strftime_now('%Y') | int %}{{ year - 1 }} {{ today }}" + TURNS
    ),
}
UNDATED = {
    "plain": TURNS,
    "default system prompt": "{% if messages[0]['role'] != 'system' %}<system>You are helpful.{% endif %}" + TURNS,
    "date of its own": "Today Date: 26 Jul 2024\n" + TURNS,
}


def with_template(template: str):
    tokenizer = tokenizer_of("bytes", "begins")
    tokenizer.chat_template = template
    return tokenizer


def at_midnight(template: str, day: date, monkeypatch) -> str:
    """What transformers itself renders on a day."""

    class Stopped(clock.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(day.year, day.month, day.day)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Stopped)
    turns = [{"role": "user", "content": "Is it so?"}]
    # The template's cache holds the true clock.
    text = template + "{#" + day.isoformat() + "#}"
    return str(with_template(text).apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("day", [date(2024, 7, 26), date(2031, 2, 3)], ids=str)
@pytest.mark.parametrize("template", [*DATED, *UNDATED])
def test_it_is_rendered_as_transformers_would_on_that_day(template: str, day: date, monkeypatch) -> None:
    text = (DATED | UNDATED)[template]
    (found,) = render_chat(with_template(text), ["Is it so?"], day=day)
    assert found == at_midnight(text, day, monkeypatch)


@settings(max_examples=100, deadline=None)
@given(
    day=st.dates(date(1970, 1, 1), date(2100, 1, 1)),
    form=st.lists(st.sampled_from([*"aAwdbBmyYHIpMSjUWcxXGuV%-", "-d", "-m", "-j", ""]), min_size=1, max_size=6),
)
def test_any_format_is_written_as_python_writes_it(day: date, form: list[str]) -> None:
    directives = " of ".join(f"%{letter}" for letter in form if letter not in ("", "-"))
    (found,) = render_chat(with_template("{{ strftime_now('" + directives + "') }}"), ["q"], day=day)
    assert found == clock.datetime(day.year, day.month, day.day).strftime(directives)


@pytest.mark.parametrize("template", DATED)
def test_a_prompt_of_today_is_not_that_of_the_study(template: str) -> None:
    tokenizer = with_template(DATED[template])
    turns = [{"role": "user", "content": "Is it so?"}]
    today = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert render_chat(tokenizer, ["Is it so?"], day=CHAT_DATE) != [today]
    assert render_chat(tokenizer, ["Is it so?"], day=clock.datetime.now().date()) == [today]


def test_the_usual_date_is_the_one_that_the_harness_can_be_given() -> None:
    tokenizer = with_template(DATED["llama-3.2"])
    engine = HFLM.__new__(HFLM)  # its way with a template needs no model
    engine.tokenizer, engine.chat_template_args = tokenizer, {"date_string": "26 Jul 2024"}
    told = engine.apply_chat_template([{"role": "user", "content": "Is it so?"}])
    assert render_chat(tokenizer, ["Is it so?"], day=CHAT_DATE) == [told]


def test_a_template_tells_whether_the_date_shows_in_it() -> None:
    assert {name: depends_on_date(with_template(text)) for name, text in (DATED | UNDATED).items()} == {
        **dict.fromkeys(DATED, True),
        **dict.fromkeys(UNDATED, False),
    }


def test_the_header_is_what_a_template_says_besides_the_question() -> None:
    days = (date(2024, 7, 26), date(2024, 7, 27))
    for text in DATED.values():
        one, other = (header_digest(with_template(text), day=day) for day in days)
        assert one != other
    headers = {header_digest(with_template(text), day=day) for text in UNDATED.values() for day in days}
    assert len(headers) == len(UNDATED)


@pytest.mark.parametrize(
    "template",
    ["{{ ['Be brief.', 'Be right.'] | random }}" + TURNS, "{{ lipsum(n=1, html=false, min=5, max=9) }}" + TURNS],
    ids=["random", "lipsum"],
)
def test_a_template_that_draws_lots_is_refused(template: str) -> None:
    with pytest.raises(Refused, match=r"of the base 'tiny' draws lots.*set chat_template: false"):
        require_fixed_template(with_template(template), "tiny", day=CHAT_DATE)
    for text in (DATED | UNDATED).values():
        require_fixed_template(with_template(text), "tiny", day=CHAT_DATE)


@pytest.mark.parametrize(
    "template",
    ["{{ now() }}" + TURNS, "{{ raise_exception('a system turn must come first') }}", "{{ messages[0].content + 1 }}"],
    ids=["a clock that is not there", "other roles wanted", "a type error"],
)
def test_a_template_that_cannot_be_rendered_is_refused_with_words(template: str) -> None:
    with pytest.raises(Refused, match=r"cannot put a lone question .*set chat_template: false"):
        render_chat(with_template(template), ["q"], day=CHAT_DATE)
