"""The picture over variants: a panel for each finding, the interval of every variant, and what the marks tell."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color

from knnlm.errors import KnnlmError
from knnlm.figures.plots import draw
from knnlm.steps import redraw

GAIN = "kNN-LM's gain,\npart of the perplexity"
WIDTHS, SHARES = (64, 128, 256), (0.25, 0.5, 1.0)


def table_of(**more: object) -> pd.DataFrame:
    rows = []
    for place, width in enumerate(WIDTHS):
        for share in SHARES:
            ppl = 300 / (1 + place + share)
            row = {"variant": f"w{width}-{share}", "lm.architecture.width": width, "lm.architecture.heads": width // 32}
            row |= {"corpus.share": share, "ppl_valid": ppl - 1, "ppl_test": ppl, "lm_state": "converged", "rows": 10}
            row |= {"temperature": 8.0 + place, "gain": ppl / 10, "gain_low": ppl / 20, "gain_high": ppl / 5}
            for name, value in (("few", 0.5), ("other", -0.1 * place)):
                row |= {f"{name}_reaches{end}": value + ends for end, ends in (("", 0), ("_low", -0.2), ("_high", 0.2))}
                row |= {f"{name}_verdict": "contributes"}
            rows.append(row)
    return pd.DataFrame(rows).assign(**more)


def marks(axes) -> dict[float, float]:
    """Return the values of a panel by base perplexity."""
    return {
        float(line.get_xdata()[0]): float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() != "None"
    }


def panels(table: pd.DataFrame) -> dict[str, object]:
    return {axes.get_title(): axes for axes in draw("variants", table).axes if axes.get_visible()}


def test_every_finding_has_a_panel_with_all_variants_at_their_perplexity():
    table = table_of()
    found = panels(table)
    assert set(found) == {GAIN, "best temperature τ", "few:\nreaches", "other:\nreaches"}
    for title, column in (("best temperature τ", "temperature"), ("other:\nreaches", "other_reaches")):
        assert marks(found[title]) == pytest.approx(dict(zip(table["ppl_test"], table[column], strict=True)))
    assert list(marks(found[GAIN]).values()) == pytest.approx([0.1] * len(table))


def test_intervals_and_the_line_at_zero_are_drawn():
    table = table_of()
    lines = [line for line in panels(table)["few:\nreaches"].lines if line.get_marker() == "None"]
    assert sum(np.allclose(line.get_ydata(), [0.3, 0.7]) for line in lines) == len(table)
    assert any(list(line.get_ydata()) == [0, 0] for line in lines)


def test_colour_and_mark_tell_two_keys_of_which_neither_follows_from_the_other():
    axes = panels(table_of())["few:\nreaches"]
    drawn = [line for line in axes.lines if line.get_marker() != "None"]
    assert len({line.get_color() for line in drawn}) == len(WIDTHS)
    assert len({line.get_marker() for line in drawn}) == len(SHARES)
    (legend,) = draw("variants", table_of()).legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told == [f"width {width}" for width in WIDTHS] + [f"share {share}" for share in SHARES]


def test_a_key_that_not_every_variant_has_tells_nothing():
    table = table_of()
    table.insert(1, "lm.training.patience", [None, 2, 3] * 3)
    (legend,) = draw("variants", table).legends
    assert "width 64" in {text.get_text() for text in legend.get_texts()}


def test_a_base_lm_that_has_not_converged_is_hollow():
    states = ["still falling"] + ["converged"] * (len(WIDTHS) * len(SHARES) - 1)
    axes = panels(table_of(lm_state=states))["few:\nreaches"]
    hollow = [same_color(line.get_markerfacecolor(), "white") for line in axes.lines if line.get_marker() != "None"]
    assert hollow == [True] + [False] * (len(states) - 1)


def test_seeds_alone_and_a_question_that_nobody_asks_have_a_picture_too():
    seeds = table_of().iloc[:2].drop(columns=["lm.architecture.width", "lm.architecture.heads", "corpus.share"])
    seeds = seeds.assign(other_reaches=np.nan, other_reaches_low=np.nan, other_reaches_high=np.nan)
    assert "other:\nreaches" not in panels(seeds)


def test_redraw_draws_it_again_from_the_table_as_it_is(tmp_path):
    (tmp_path / "tables").mkdir()
    settings = {"tables": {}, "figures": {"dpi": 50}}
    with pytest.raises(KnnlmError, match=r"variants\.csv: the table is missing"):
        redraw.main(settings, [], tmp_path)
    table_of().to_csv(tmp_path / "tables/variants.csv", index=False)
    (tmp_path / "figures").mkdir()
    redraw.main(settings, [], tmp_path)
    assert (tmp_path / "figures/variants.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figures/variants.png").exists()
