import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import RefreshSchedule, StalenessConfig


def due(text, until=300, **options):
    schedule = RefreshSchedule.parse(text, **options)
    return [step for step in range(until) if schedule.is_due(step)]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("never", [0]),
        ("-1", [0]),
        ("100", [0, 100, 200]),
        ("0-20:10,100-:50", [0, 10, 100, 150, 200, 250]),
        (" 50-101:50 , 200-220:10 ", [0, 50, 100, 200, 210]),
    ],
)
def test_due_steps(text, steps):
    assert due(text) == steps


def test_nothing_is_due_until_the_retriever_has_moved():
    assert due("10", 50, freeze_retriever_steps=25) == [0, 30, 40]
    assert due("10", 50, freeze_retriever_steps=30) == [0, 40]
    assert due("10", 50, passages_move=False) == [0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sometimes", "cannot read 'sometimes'"),
        ("", "cannot read ''"),
        ("0-100", "cannot read '0-100'"),
        ("0-100:10;100-:50", "cannot read"),
        ("0-100:-5", "cannot read"),
        ("-7", "cannot read '-7'"),
        ("0", "a period of 0 steps"),
        ("0-100:0", "a period of 0 steps"),
        ("100-100:5", "100-100 is empty"),
        ("0-100:10,50-:20", "starts before"),
        ("0-:10,50-:20", "starts before"),
        ("100-200:10,0-100:5", "starts before"),
    ],
)
def test_nonsense_is_refused(text, words):
    with pytest.raises(InputError, match="refresh_schedule") as error:
        RefreshSchedule.parse(text)
    assert words in str(error.value)


def test_a_schedule_has_no_effect_on_query_side_training():
    with pytest.raises(InputError, match=r"refresh_schedule='50'.*query_side=true"):
        StalenessConfig(refresh_schedule="50", query_side=True)
    assert StalenessConfig(refresh_schedule="50").trigger(7).freeze_retriever_steps == 7
