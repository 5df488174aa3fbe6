"""The size benchmark's own parts: what is fed, and that its table has every figure."""

from benchmarks.size import NOTES, as_markdown, feed, merged


def test_guidance_rows_have_one_latent() -> None:
    given = feed(0.5, 16, 2)
    assert (given["sample"][0] == given["sample"][1]).all() and given["sample"].shape == (2, 4, 16, 16)
    assert given["token_keep"].min() == 1.0 and not given["token_transfer"].any()


def test_the_table_has_every_figure() -> None:
    row = {"seconds": 2.0, "load": 1.5, "peak": 3.2, "own": 0.4, "error": 3e-6}
    run = {"title": "half", "gflop": 100.0, "product": 80.0, "filtered": "22 convolutions at levels 0, 1",
           "engines": {"eager": row | {"seconds": 8.0}, "filtered": row},
           "first loads": {"filtered": {"seconds": 9.0, "peak": 5.5}}}  # fmt: skip
    text = as_markdown({"runs": [run]})
    assert f"| {NOTES['filtered']} | 2.00 | 0.25 | - | 50 | 1.5 | 3.2 | 0.4 | 3e-06 |" in text
    assert (
        "A call has 100 GFLOP; a large matrix product reaches 80 a second." in text and "9.0 CPU s and 5.5 GiB" in text
    )


def test_runs_of_other_sizes_are_kept() -> None:
    half, whole = {"title": "half", "gflop": 1.0}, {"title": "whole", "gflop": 2.0}
    assert merged({"runs": [whole]}, {"runs": [half]}) == {"runs": [half, whole]}
    assert merged({"runs": [half, whole]}, {"runs": [whole | {"gflop": 3.0}]})["runs"][1]["gflop"] == 3.0
