"""When an LM tells something of memorisation: by hand-made perplexities."""

import pytest

from knnlm.hypotheses.memorisation import why_not_tested


@pytest.mark.parametrize(
    ("train", "valid", "begins"),
    [
        (1.8, [200.0, 190.0, 240.0], None),
        (1.8, [200.0, 240.0], None),
        (2.0, [200.0, 190.0, 195.0], None),
        (58.04123, [200.0, 190.0, 240.0], "The LM does not know its training text by heart: its word perplexity there"),
        (1.8, [200.0, 190.0, 190.0], "The LM is still getting better on valid"),
        (1.8, [200.0, 150.0], "The LM is still getting better on valid"),
        (3.0, [200.0, 150.0], "The LM does not know"),
    ],
)  # fmt: skip
def test_only_what_knows_its_text_and_pays_for_it_is_tested(train, valid, begins):
    why = why_not_tested(train, valid, known_by_heart=2.0)
    assert why is None if begins is None else why.startswith(begins)
