"""The demo passes only after counting its results."""

import json

from abstream.ops import demo


def test_the_demo_on_the_real_model_gives_every_abstract_one_result(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    (tmp_path / "url").write_text("redis://elsewhere")
    monkeypatch.setenv("ABSTREAM_REDIS_URL_FILE", str(tmp_path / "url"))  # which the demo's workers must ignore

    assert demo.run(None, None, tmp_path, "phi3-nano")

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["submitted"] == summary["predictions"] == 252
    assert summary["duplicates"] == summary["missing"] == summary["refusals"] == summary["pending"] == 0
    assert summary["answered_after_takeover"] >= summary["killed_while_holding"] > 0
    assert len(summary["by_adapter"]) == 2, "the one that was served at first, and the one trained on the way"
    assert summary["stale"] == 0
    assert (tmp_path / "train/report.html").exists()
    assert summary["passed"] is True
