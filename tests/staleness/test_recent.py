from atlas_lm.staleness.recent import RecentQueries


def test_the_last_different_queries_newest_last():
    recent = RecentQueries(window=3)
    recent.add("abca")
    assert recent.texts() == ["b", "c", "a"]
    recent.add("d")
    assert recent.texts() == ["c", "a", "d"]
    assert len(recent) == 3


def test_restored_is_as_before():
    recent, again = RecentQueries(), RecentQueries()
    recent.add("abcb")
    again.add("xyz")
    again.restore(recent.texts())
    assert again.texts() == recent.texts()
