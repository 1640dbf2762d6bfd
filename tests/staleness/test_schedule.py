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


def test_a_bound_on_the_drift_is_due_when_it_is_passed():
    trigger = StalenessConfig(refresh_schedule=" drift > 0.05 ", probe_every=4).trigger(3)
    measured = []

    def drift(value):
        measured.append(value)
        return value

    assert [step for step in range(14) if trigger.is_due(step, lambda: drift(0.06))] == [4, 8, 12]
    assert not any(trigger.is_due(step, lambda: drift(0.05)) for step in range(14))
    assert len(measured) == 6, "measured only when it could matter"


@pytest.mark.parametrize("text", ["drift>0", "drift>2", "drift>7.5"])
def test_a_bound_that_no_cosine_can_meet_is_refused(text):
    with pytest.raises(InputError, match="between 0 and 2"):
        StalenessConfig(refresh_schedule=text)


@pytest.mark.parametrize("text", ["drift<0.1", "drift>", "drift>a", "drift=0.1", "drift>-1"])
def test_another_form_of_bound_is_refused(text):
    with pytest.raises(InputError, match=r"cannot read.*drift>0\.05"):
        StalenessConfig(refresh_schedule=text)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"refresh": "some"}, "staleness.refresh='some'"),
        ({"refresh": "background"}, "refresh_schedule='never'"),
        ({"refresh": "partial", "refresh_schedule": "5"}, "partial.budget is not given"),
        ({"refresh_schedule": "drift>0.1", "probe_passages": 0}, "probe_passages=0"),
        ({"refresh_schedule": "drift>0.1", "query_side": True}, "query_side=true"),
        ({"probe_every": 0}, "probe_every=0"),
        ({"probe_passages": -2}, "probe_passages=-2"),
    ],
)
def test_contradictions_are_refused(values, words):
    with pytest.raises(InputError) as error:
        StalenessConfig(**values)
    assert words in str(error.value)
