"""Every question has both languages, asks for one decision, and recommends what its default is."""

import re
import string

import pytest

from apexgpu import questions
from apexgpu.questions import QuestionForm

FORMS = {name: form for name, form in vars(questions).items() if isinstance(form, QuestionForm)}
NO_QUESTION = {
    "ACCOUNT", "DOMAIN_PASSWORD", "NEW_PASSPHRASE", "SAME_PASSPHRASE", "PASSPHRASE",
    "RECOVER_RUNNING", "RECOVER_STOPPED", "REMOVE_ONLY_KEY", "REMOVE_OWN_KEY", "TYPE_NAME",
}  # fmt: skip
"""Something to type, or the effect of an answer."""


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_both_languages_ask_the_same(name: str) -> None:
    form = FORMS[name]
    # A count stands in Chinese where English has a noun with its number.
    assert placeholders(form.chinese) - {"count"} <= placeholders(form.english)
    assert placeholders(form.english) - {"runs"} <= placeholders(form.chinese)
    assert re.search("[\u4e00-\u9fff]", form.chinese)
    assert not re.search("[\u4e00-\u9fff][,;:!?()]|[,;:!?()][\u4e00-\u9fff]", form.chinese)
    assert "您" not in form.chinese


@pytest.mark.parametrize("name", sorted(set(FORMS) - NO_QUESTION))
def test_a_question_has_one_question_mark_at_its_end(name: str) -> None:
    form = FORMS[name]
    assert form.english.count("?") == 1
    assert form.english.endswith("?")
    assert form.chinese.count("？") == 1
    assert form.chinese.endswith(("？", "}"))


def test_what_a_value_contains_is_no_placeholder() -> None:
    assert questions.STOP.fill(hosts="{busy}").english == "Stop the running container on {busy}?"
