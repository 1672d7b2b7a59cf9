"""Chat templates: contexts rendered as a user's turn, on a fixed date, and what a template adds by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from registry.errors import Refused

__all__ = ["depends_on_date", "header_digest", "render_chat", "require_chat_template", "require_fixed_template"]

_PROBE = "Which of these is right?"

#: Two dates that differ in all that a format can show.
_DATES = (date(2001, 2, 3), date(2020, 11, 28))

#: What ``strftime`` knows, with the forms without padding that platforms add.
_DIRECTIVES = [f"%{letter}" for letter in "aAwdbBmyYHIpMSfzZjUWcxXGuVCDeFhnrRtT"]
_UNPADDED = [f"%-{letter}" for letter in "dmyHIMSj"]

#: Put before a template, in place of the ``strftime_now`` that transformers gives to it, which reads the
#: clock. A newline ends it, which Jinja drops, so that the template begins at the beginning of a line as before.
_FIXED_CLOCK = """\
{%- macro strftime_now(format) -%}
{%- set shown = namespace(text='') -%}
{%- for part in format.split('%%') -%}
{%- set one = namespace(text=part) -%}
{%- for directive, value in fixed_date.items() -%}
{%- set one.text = one.text.replace(directive, value) -%}
{%- endfor -%}
{%- set shown.text = shown.text + ('' if loop.first else '%') + one.text -%}
{%- endfor -%}
{{- shown.text -}}
{%- endmacro %}
"""

_DRAWS = 16  # a template that draws lots among two sentences shows it but once in 2 ** 15 times


def render_chat(tokenizer: PreTrainedTokenizerBase, contexts: Sequence[str], *, day: date) -> list[str]:
    """Render each context as a user's turn that the model is to answer.

    Parameters
    ----------
    day : date
        What the template takes for today, at midnight.

    Raises
    ------
    Refused
        If there is no chat template, or it cannot be rendered.
    """
    require_chat_template(tokenizer, tokenizer.name_or_path)
    if not contexts:
        return []
    fixed: dict[str, Any] = {}
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        fixed = {"chat_template": _FIXED_CLOCK + template, "fixed_date": _written(day)}
    turns = [[{"role": "user", "content": context}] for context in contexts]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **fixed)
    except (TemplateError, TypeError) as error:
        raise Refused(
            f"the chat template of the base {tokenizer.name_or_path!r} cannot put a lone question ({error}); "
            "set chat_template: false"
        ) from None
    return [str(text) for text in rendered]


def require_chat_template(tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Refuse a base whose tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise Refused(f"the base {base!r} has no chat template to score with; set chat_template: false")


def require_fixed_template(tokenizer: PreTrainedTokenizerBase, base: str, *, day: date) -> None:
    """Refuse a base whose chat template draws lots: its prompts would differ from one run to the next.

    Raises
    ------
    Refused
        Also as :func:`render_chat` does.
    """
    state = random.getstate()
    try:
        drawn = set()
        for seed in range(_DRAWS):
            random.seed(seed)
            drawn.update(render_chat(tokenizer, [_PROBE], day=day))
    finally:
        random.setstate(state)
    if len(drawn) > 1:
        raise Refused(
            f"the chat template of the base {base!r} draws lots, so its prompts differ from run to run; "
            "set chat_template: false"
        )


def depends_on_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes something of the date into a prompt."""
    (one,), (other,) = (render_chat(tokenizer, [_PROBE], day=day) for day in _DATES)
    return one != other


def header_digest(tokenizer: PreTrainedTokenizerBase, *, day: date) -> str:
    """SHA-256 of a fixed question as the template puts it: with all that it says besides, such as a system prompt."""
    (text,) = render_chat(tokenizer, [_PROBE], day=day)
    return hashlib.sha256(text.encode()).hexdigest()


def _written(day: date) -> dict[str, str]:
    """Return what each directive of ``strftime`` writes for a date, at midnight."""
    moment = datetime(day.year, day.month, day.day)
    return {directive: moment.strftime(directive) for directive in (*_DIRECTIVES, *_UNPADDED)}
