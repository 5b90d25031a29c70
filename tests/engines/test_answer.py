from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ktqueue.job import Usage
from tests.support.tiny_models import END, byte_tokenizer
from worker.engines.base import Delta, Finished, Output
from worker.engines.causal.answer import UNLIKELIEST, Answer
from worker.engines.causal.chances import Chances
from worker.engines.causal.flight import Landed
from worker.engines.causal.sampling import Sampling
from worker.engines.causal.voice import voice_of

TOKENIZER = byte_tokenizer()
END_TOKEN = TOKENIZER.get_vocab()[END]
VOICE = voice_of(TOKENIZER, frozenset([END_TOKEN]))


def tokens(text: str) -> list[int]:
    return list(TOKENIZER(text).input_ids)


def answer(most: int = 40, **wishes: Any) -> Answer:
    return Answer("a", 7, Sampling(**wishes), most, VOICE)


def give(to: Answer, some: Sequence[int], choice: int = 0) -> list[Output]:
    """All that is said of these tokens; only the last one may be the last of its choice."""
    outputs: list[Output] = []
    for token in some[:-1]:
        more, over = to.take(choice, token, None, 1)
        assert not over
        outputs += more
    return outputs + to.take(choice, some[-1], None, 1)[0]


def finished(outputs: Sequence[Output]) -> Finished:
    (end,) = [output for output in outputs if isinstance(output, Finished)]
    assert outputs[-1] is end
    return end


def text_of(outputs: Sequence[Output], choice: int = 0) -> str:
    """The text of a choice, as its pieces tell it."""
    text = ""
    for output in outputs:
        if isinstance(output, Delta) and output.choice == choice:
            assert output.offset == len(text)
            text += output.text
    return text


def test_a_text_grows_until_there_is_no_more_room() -> None:
    outputs = give(answer(most=4), tokens("né!"))
    assert outputs[:-1] == [
        Delta("a", "n", 0, 0.25, 1),
        Delta("a", "é", 1, 0.75, 2),
        Delta("a", "!", 2, 1.0, 3),
    ]
    assert finished(outputs).result == {"text": "né!", "finish_reason": "length", "tokens": tokens("né!")}
    assert finished(outputs).usage == Usage(prompt_tokens=7, completion_tokens=4)


@pytest.mark.parametrize("wishes", [{}, {"stop_token_ids": frozenset(tokens("x"))}])
def test_the_token_that_ends_a_text_is_not_in_it(wishes: dict[str, Any]) -> None:
    last = tokens("x")[0] if wishes else END_TOKEN
    result = finished(give(answer(**wishes), [*tokens("tea"), last])).result
    assert result == {"text": "tea", "finish_reason": "stop", "tokens": [*tokens("tea"), last]}


def test_end_tokens_can_be_ignored_but_not_ones_own() -> None:
    stop = tokens("x")[0]
    result = finished(
        give(answer(ignore_eos=True, stop_token_ids=frozenset([stop])), [END_TOKEN, *tokens("tea"), END_TOKEN, stop])
    ).result
    assert (result["text"], result["finish_reason"]) == ("tea", "stop")


def test_a_stop_string_cuts_the_text_wherever_tokens_end() -> None:
    outputs = give(answer(stop=("né",)), tokens("an né"))
    assert text_of(outputs) == "an "
    assert finished(outputs).result["text"] == "an "
    assert finished(outputs).result["finish_reason"] == "stop"


def test_no_stop_string_counts_before_there_are_tokens_enough() -> None:
    outputs = give(answer(stop=("a",), min_tokens=3), tokens("aaaba"))
    assert finished(outputs).result["text"] == "aaab"


def test_what_was_held_back_is_told_at_the_end() -> None:
    outputs = give(answer(most=7, stop=("stop",)), tokens("now sto"))
    assert text_of(outputs) == finished(outputs).result["text"] == "now sto"
    assert finished(outputs).result["finish_reason"] == "length"


def test_several_choices_grow_side_by_side() -> None:
    both = answer(most=3, n=2)
    outputs: list[Output] = []
    for choice, token in ((0, tokens("a")), (1, tokens("x")), (0, [END_TOKEN]), (1, tokens("y")), (1, tokens("z"))):
        outputs += both.take(choice, token[0], None, 5)[0]
    assert [output.told for output in outputs[:-1] if isinstance(output, Delta)] == [1, 2, 3, 4]
    progress = [output.progress for output in outputs[:-1] if isinstance(output, Delta)]
    assert progress == sorted(progress)
    assert (text_of(outputs, 0), text_of(outputs, 1)) == ("a", "xyz")
    end = finished(outputs)
    assert end.result == {
        "choices": [
            {"text": "a", "finish_reason": "stop", "tokens": [*tokens("a"), END_TOKEN]},
            {"text": "xyz", "finish_reason": "length", "tokens": tokens("xyz")},
        ]
    }
    assert end.usage == Usage(prompt_tokens=7, completion_tokens=5)
    assert end.largest_batch == 5


def test_chances_are_told_of_each_token() -> None:
    of_tea = answer(most=2, logprobs=True, top_logprobs=2)
    (a, b, c) = tokens("abc")
    of_tea.take(0, a, Chances(-0.5, [(a, -0.5), (b, -1.5)]), 1)
    outputs, over = of_tea.take(0, END_TOKEN, Chances(float("-inf"), [(b, -0.25), (c, float("-inf"))]), 1)
    assert over
    assert finished(outputs).result["logprobs"] == [
        {
            "token": "a",
            "id": a,
            "logprob": -0.5,
            "top": [{"token": "a", "id": a, "logprob": -0.5}, {"token": "b", "id": b, "logprob": -1.5}],
        },
        {
            "token": END,
            "id": END_TOKEN,
            "logprob": UNLIKELIEST,
            "top": [{"token": "b", "id": b, "logprob": -0.25}, {"token": "c", "id": c, "logprob": UNLIKELIEST}],
        },
    ]


def test_as_many_tokens_have_their_likeliest_told_as_there_are() -> None:
    (a, b) = tokens("ab")
    told = answer(most=3, top_logprobs=20, logprobs=True)
    for chances in (Chances(-1.0), Chances(-2.0, [(a, -2.0), (b, -4.0)])):
        told.take(0, a, chances, 1)
    outputs, _ = told.take(0, b, Chances(-3.0, [(b, -3.0)]), 1)
    logprobs = finished(outputs).result["logprobs"]
    assert [one["logprob"] for one in logprobs] == [-1.0, -2.0, -3.0]
    assert [[each["id"] for each in one["top"]] for one in logprobs] == [[], [a, b], [b]]


def test_a_step_knows_no_more_of_the_likeliest_than_are_asked_for() -> None:
    chances = np.array([[-0.5, -1.5, -2.5]], dtype=np.float32)
    landed = Landed(np.array([7]), chances[:, 0], np.array([[7, 8, 9]]), chances)
    assert landed.chances(0, 2) == Chances(-0.5, [(7, -0.5), (8, -1.5)])
    assert landed.chances(0, 0) == Chances(-0.5, [])


def test_chances_take_little_memory_until_they_are_told() -> None:
    count, token = 500, tokens("a")[0]
    told = answer(most=count + 1, logprobs=True, top_logprobs=20)
    likeliest = [(token + place, -1.5 - place) for place in range(20)]
    told.take(0, token, Chances(-0.5, likeliest), 1)
    tracemalloc.start()
    for place in range(count - 1):
        told.take(0, token, Chances(-0.5 - place, [(token + each, -0.5 - each - place) for each in range(20)]), 1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / count < 20 * 25


def test_chances_are_told_choice_by_choice() -> None:
    spelled: list[int] = []

    def spell(token: int) -> str:
        spelled.append(token)
        return VOICE.spell(token)

    both = Answer("a", 7, Sampling(n=2, logprobs=True), 2, replace(VOICE, spell=spell))
    (a, b) = tokens("ab")
    for token in (a, b):
        both.take(0, token, Chances(-0.5), 1)
    assert spelled == [a, b]
    both.take(1, b, Chances(-0.5), 1)
    both.cut()
    assert spelled == [a, b, b]


def test_chances_that_nobody_asked_for_are_not_told() -> None:
    outputs, _ = answer(most=1).take(0, tokens("a")[0], Chances(-1.0), 1)
    assert "logprobs" not in finished(outputs).result
