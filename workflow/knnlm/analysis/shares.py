"""The tables of shares: what every component reaches and removes, and what is left of the gain beside the best."""

from collections.abc import Sequence

import pandas as pd

from knnlm.analysis.candidates import candidates
from knnlm.analysis.evidence import REACHES, REMOVES, Evidence, Ratio
from knnlm.analysis.intervals import Confidence
from knnlm.analysis.removal import Beside, in_order
from knnlm.analysis.rule import EXPLANATION
from knnlm.analysis.tables import BASE, JUDGED_ON, Reader, Split, tuned
from knnlm.components.catalogue import may_explain, resolved_name

Table = pd.DataFrame
SHARE_COLUMNS = ["component", "hypothesis", "family", "h", "metric", "rows", "added_parameters", "ppl_alone", "ppl"]
SHARE_COLUMNS += ["ppl_with_knn", "oracle", "gain", *REACHES, *REMOVES, "agreement", "helped", "answers"]
REMAINING = ["remaining", "remaining_low", "remaining_high"]
REMAINING_COLUMNS = ["step", "component", "hypothesis", "family", "ppl", "ppl_with_knn", *REMAINING]
INPUT_COLUMNS = ["component", "h", "rows", "similarity", "added_parameters", "ppl_alone", "ppl", "oracle"]
INPUT_COLUMNS += [*REACHES, *REMOVES]
INPUT_HYPOTHESIS = "input-representation"
MOST_STEPS = 12


def share_table(components: Table, evidence: Evidence, judged: Table, confidence: Confidence) -> Table:
    """Return the table of SHARE_COLUMNS: every component on test, what it reaches of the kNN's gain and removes.

    `answers` names the hypotheses of `judged`, the table of verdicts, that ask for an explanation and that the
    component answers.
    """
    rows = components[components["split"] == JUDGED_ON].set_index("component", drop=False)
    numbers = [
        evidence.reaches(name).named("reaches", confidence) | evidence.removes(name).named("removes", confidence)
        for name in rows.index
    ]
    rows = rows.join(pd.DataFrame(numbers, index=rows.index)).assign(ppl_with_knn=pd.Series(evidence.with_knn))
    explained = judged[judged["asks"] == EXPLANATION]
    rows["answers"] = explained.groupby("component")["hypothesis"].agg(", ".join).reindex(rows.index)
    return rows[SHARE_COLUMNS].reset_index(drop=True)


def remaining_table(
    components: Table, evidence: Evidence, read: Reader, splits: Sequence[Split], least: float, confidence: Confidence
) -> Table:
    """Return the table of REMAINING_COLUMNS: what is left of the kNN's gain beside more and more components.

    They stand in the order in which they remove most together, chosen and tuned on valid and judged on test; each takes
    away at least the share `least` on valid. Variants of the kNN are left out (`may_explain`). The first row is the
    base LM alone, beside which all of the gain is left.
    """
    known = components[components["split"] == JUDGED_ON].set_index("component")
    names = [name for name, family in known["family"].items() if may_explain(name, family)]
    beside = Beside(read, splits, evidence.reference)
    whole, rows = beside.left(), []
    steps = [(BASE, whole), *in_order(beside, names, least, MOST_STEPS)]
    for step, (name, left) in enumerate(steps):
        facts = {"step": step, "component": name, "ppl": left.ppl, "ppl_with_knn": left.ppl_with_knn}
        facts |= {key: known.loc[name, key] for key in ("hypothesis", "family")}
        rows.append(facts | Ratio(left.gain, whole.gain).named("remaining", confidence))
    return pd.DataFrame(rows, columns=REMAINING_COLUMNS)


def input_representation_table(components: Table, shares: Table, entries: dict[str, dict], main: dict) -> Table:
    """Return the table of INPUT_COLUMNS, the paper's Table 2: the exact kNN, and learned embeddings on the same inputs.

    `shares` is what `share_table` made of `components`. The learned embeddings are what the entry
    `input-representation` compares, if there is one: its candidates, and what they stand against. They have no metric:
    their similarity is the inner product.
    """
    test = components[components["split"] == JUDGED_ON]
    exact = (test["mask"] == "real") & (test["score"] == "real") & (test["fraction"] == 1) & tuned(test)
    chosen = [*test.loc[(test["family"] == "knn") & test["hypothesis"].isna() & exact, "component"]]
    if INPUT_HYPOTHESIS in entries:
        patterns, by_name = entries[INPUT_HYPOTHESIS]["candidates"], test.set_index("component")
        chosen += [*candidates(INPUT_HYPOTHESIS, patterns, by_name, main, set(entries)).index]
        chosen.append(resolved_name(entries[INPUT_HYPOTHESIS]["against"] or BASE, main))
    rows = shares[shares["component"].isin(chosen)]
    return rows.assign(similarity=rows["metric"].astype(object).fillna("ip"))[INPUT_COLUMNS].reset_index(drop=True)
