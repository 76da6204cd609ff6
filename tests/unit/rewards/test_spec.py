"""Names with arguments: how they are read, and the errors for wrong parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.errors import UsageError
from milr.rewards import REWARDS, check_reward, load_reward
from milr.rewards.spec import MixPart, parse_mix, split_name


def test_names_are_split_at_the_first_colon() -> None:
    assert split_name("icons", REWARDS) == ("icons", None)
    assert split_name("gpt-4o:p-yes", REWARDS) == ("gpt-4o", "p-yes")
    assert split_name("unified-reward:/models/a:b", REWARDS) == ("unified-reward", "/models/a:b")
    assert split_name("https://host:8/a", REWARDS) == ("http", "https://host:8/a")


def test_a_mix_has_parts_and_weights() -> None:
    assert parse_mix("icons-soft*0.7+self*0.3") == (MixPart("icons-soft", 0.7), MixPart("self", 0.3))
    assert parse_mix("self:p-yes * 2 + icons") == (MixPart("self:p-yes", 2.0), MixPart("icons", 1.0))
    assert parse_mix("http://127.0.0.1:8/x*.5")[0] == MixPart("http://127.0.0.1:8/x", 0.5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mix", "names no parts"),
        ("mix:", "names no parts"),
        ("mix:icons*0.5+", "part 2 of 'mix:icons*0.5+', '', names no reward"),
        ("mix:icons*0", "part 1 of 'mix:icons*0', 'icons*0', has the weight '0'"),
        ("mix:icons*-1+self", "has the weight '-1'"),
        ("mix:icons*nan+self", "has the weight 'nan'"),
        ("mix:icons*1e400", "has the weight '1e400'"),
        ("mix:icons*0.5+icons*0.5", "'icons' is twice"),
        ("mix:icons+mix:self", "is a mix itself"),
        ("mix:icon*0.5+self", "in 'mix:icon*0.5+self': unknown reward 'icon': did you mean 'icons'?"),
        ("icon", "unknown reward 'icon': did you mean 'icons'?"),
    ],
)
def test_a_wrong_part_is_named(name: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        check_reward(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_every_name_of_the_table_is_known() -> None:
    for name in REWARDS:
        check_reward({"mix": "mix:icons", "http": "http://localhost:1/"}.get(name, name))


def test_arguments_that_a_reward_does_not_take_are_refused() -> None:
    with pytest.raises(UsageError, match="'icons' takes no argument"):
        load_reward("icons:soft")
    with pytest.raises(UsageError, match="unknown variant of 'self' 'p-no': known: p-yes"):
        load_reward("self:p-no", model=object())
    with pytest.raises(UsageError, match="asks the model that draws"):
        load_reward("self")


@given(st.text(alphabet="ab*+.0123456789:- mixself", max_size=40))
def test_any_text_is_parts_or_a_usage_error(text: str) -> None:
    try:
        parts = parse_mix(text)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert parts and all(part.name and part.weight > 0 for part in parts)
