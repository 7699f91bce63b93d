"""BPE against a naive learner, and the conventions that later stages rely on."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from knnlm.corpus import bpe, dictionary, sotu
from knnlm.corpus.text import SPLITS
from knnlm.corpus.tokenise import tokenise
from knnlm.errors import KnnlmError
from knnlm.steps import bpe as step
from knnlm.storage.manifests import read_manifest, write_manifest

YEARS = {"first_year": 1948, "last_year": 1950, "kinds": ["spoken"], "period": 3, "valid": 0, "test": 1}
TEXT = "low low low lower lower newest newest newest widest <unk> <unk> @-@\n"


def learn(folder: Path, text: str, merges: int) -> Tokenizer:
    """Write `text` to a file and learn from it."""
    path = folder / "train.txt"
    path.write_text(text, encoding="utf-8")
    return bpe.learn(path, set(text.split()), merges)


def naive_merges(text: str, merges: int) -> list[tuple[str, str]]:
    """Learn by counting all pairs anew for every merge; ties go to the pair whose pieces are older."""
    counts = Counter(word for word in text.split() if word not in dictionary.UNITS)
    words = {word: [*word[:-1], word[-1] + bpe.END] for word in counts}
    symbols = {symbol for word in words.values() for symbol in word}
    age = {
        symbol: number
        for number, symbol in enumerate(sorted(s for s in symbols if len(s) == 2) + sorted({s[0] for s in symbols}))
    }
    learned = []
    for _ in range(merges):
        pairs = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs or max(pairs.values()) < bpe.MINIMUM_COUNT:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))
        learned.append(best)
        age.setdefault("".join(best), len(age))
        for word, pieces in words.items():
            merged = []
            for piece in pieces:
                if merged and (merged[-1], piece) == best:
                    merged[-1] = "".join(best)
                else:
                    merged.append(piece)
            words[word] = merged
    return learned


@pytest.mark.parametrize("seed", range(5))
def test_merges_are_those_of_a_naive_learner(tmp_path, seed):
    generator = random.Random(seed)
    words = [
        "".join(generator.choices("abcdé", weights=[5, 4, 3, 2, 1], k=generator.randint(1, 6))) for _ in range(150)
    ]
    words = [
        word for word in words if not any(a == b for a, b in pairwise(word))
    ]  # pairs that overlap may be counted either way
    text = " ".join(generator.choices([*words, "<unk>", "@-@"], k=800)) + "\n"
    expected = naive_merges(text, 60)
    assert len(expected) == 60
    assert bpe.merges_of(learn(tmp_path, text, 60)) == expected


def test_number_of_merges_and_its_limit(tmp_path):
    assert len(bpe.merges_of(learn(tmp_path, TEXT, 7))) == 7
    everything = bpe.merges_of(learn(tmp_path, TEXT, 1000))
    assert everything == naive_merges(TEXT, 1000)  # stops where no pair occurs twice, so "widest" stays in pieces
    assert bpe.encode_word(learn(tmp_path, TEXT, 1000), "widest") != "widest"


def test_learning_twice_gives_the_same_codes(tmp_path):
    generator = random.Random(1)
    text = " ".join("".join(generator.choices("abcdefgh", k=generator.randint(1, 7))) for _ in range(2000))
    assert len({learn(tmp_path, text, 300).to_str() for _ in range(4)}) == 1


def test_encoding_by_hand(tmp_path):
    tokenizer = learn(tmp_path, TEXT, 3)
    # (l, o) and (w, e) both occur 5 times, and l is numbered before w; then (s, t at the end) occurs 4 times.
    assert bpe.merges_of(tokenizer) == [("l", "o"), ("w", "e"), ("s", "t ")]
    assert bpe.Encoder(tokenizer)("lowest newer low") == "lo@@ we@@ st n@@ e@@ we@@ r lo@@ w"
    for unit in dictionary.UNITS:
        assert bpe.encode_word(tokenizer, unit) == unit
    assert not any(
        set(merge) & {"<", ">", "> ", "@", "@ ", "u", "k"} for merge in bpe.merges_of(learn(tmp_path, TEXT, 100))
    )


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("zoo", "a character that the training text lacks"),
        ("wol", "l never ends a word of the training text"),
        ("two", "t never stands inside a word of the training text"),
        ("low@@", "would read as an unfinished word"),
    ],
)
def test_words_that_cannot_be_said_are_one_unknown(tmp_path, word, reason):
    assert bpe.encode_word(learn(tmp_path, TEXT + "@@ @@@\n", 50), word) == "<unk>", reason


@pytest.mark.parametrize("name", ["<s>", "<pad>", "</s>"])
def test_fairseq_names_in_the_text_are_unknown_words(tmp_path, name):
    text = f"{name} {name} x{name} x{name} spad/ spad/\n"
    tokenizer = learn(tmp_path, text, 50)
    assert bpe.encode_word(tokenizer, name) == "<unk>"
    names = [line.rsplit(" ", 1)[0] for line in dictionary.dictionary_lines(bpe.vocabulary_of(tokenizer), Counter())]
    assert not set(names) & set(dictionary.SPECIAL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Tokenizer:
    """BPE of a real text."""
    splits = sotu.splits(YEARS)
    text = "".join(f"{tokenise(line)}\n" for line in splits["train"][0])
    return learn(tmp_path_factory.mktemp("bpe"), text, 300)


WORD = st.one_of(
    st.text("abcdetionsABZ.'@", min_size=1, max_size=9),
    st.sampled_from([*dictionary.UNITS, "naïve", "@@", "1949", "zz\u4e2d"]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORD, max_size=10))
def test_joined_pieces_are_the_words(trained, words):
    pieces = bpe.Encoder(trained)(" ".join(words))
    joined = pieces.replace("@@ ", "").split()
    assert len(joined) == len(words)
    assert all(back in (word, "<unk>") for back, word in zip(joined, words, strict=True))
    tokens = [*pieces.split(), "</s>"]
    assert len(tokens) - sum(token.endswith("@@") for token in tokens) == len(words) + 1
    vocabulary = bpe.vocabulary_of(trained) | set(dictionary.UNITS)
    assert set(pieces.split()) <= vocabulary


def test_dictionary(tmp_path):
    text = "aab aab aab b madeupword0000 madeupword0000 @-@\n"
    tokenizer = learn(tmp_path, text, 40)
    counts = bpe.count_pieces(Counter(text.split()), bpe.Encoder(tokenizer))
    lines = [line.rsplit(" ", 1) for line in dictionary.dictionary_lines(bpe.vocabulary_of(tokenizer), counts)]
    names, numbers = [name for name, _ in lines], [int(number) for _, number in lines]
    padding = [
        name for name in names if name.startswith("madeupword") and name != "madeupword0000" and not name.endswith("@@")
    ]
    assert (len(names) + 4) % 8 == 0
    assert len(padding) < 8
    assert len(set(names)) == len(names)
    real = len(names) - len(padding)
    rows = list(zip([-number for number in numbers], names, strict=True))
    assert rows[:real] == sorted(rows[:real])
    assert names[real:] == padding
    assert dict(zip(names, numbers, strict=True))["madeupword0000"] == 2
    assert set(names[:real]) == {bpe.marked(piece) for piece in tokenizer.get_vocab()} | {"@-@", "@,@", "@.@"}
    encoded = Counter(bpe.Encoder(tokenizer)(text).split())
    assert {name: number for name, number in zip(names, numbers, strict=True) if number} == dict(encoded)


def manifest_of(tokenised, folder):
    """Return the manifest of tokenised texts that the step before writes."""
    write_manifest(folder / "manifest.json", tokenised, kind="tokenised text")
    return folder / "manifest.json"


def test_step(tmp_path, capsys):
    tokenised = [tmp_path / f"{split}.txt" for split in SPLITS]
    pieces = [tmp_path / "pieces" / f"{split}.txt" for split in SPLITS]
    for path, text in zip(tokenised, (TEXT, "lowest\n\nzoo <unk> low\n", "newer\n"), strict=True):
        path.write_text(text)
    names = {"codes": tmp_path / "bpe.json", "dictionary": tmp_path / "dictionary.txt"}
    names |= {"of_tokenised": manifest_of(tokenised, tmp_path), "manifest": tmp_path / "pieces" / "manifest.json"}
    step.main({"corpus": {"bpe_merges": 500}}, tokenised, pieces=pieces, **names)
    assert "corpus.bpe_merges is 500, but" in capsys.readouterr().err
    assert len(read_manifest(names["manifest"], kind="pieces")["files"]) == 5
    assert pieces[1].read_text().replace("@@ ", "") == "lowest\n\n<unk> <unk> low\n"
    stored = Tokenizer.from_file(str(names["codes"]))
    assert " ".join(bpe.marked(piece) for piece in stored.encode("lowest newer").tokens) == bpe.Encoder(stored)(
        "lowest newer"
    )


def test_text_without_words_leaves_nothing_behind(tmp_path):
    tokenised = [tmp_path / f"{split}.txt" for split in SPLITS]
    for path in tokenised:
        path.write_text("<unk> @-@\n")
    names = {"codes": tmp_path / "out/bpe.json", "dictionary": tmp_path / "out/dictionary.txt"}
    names |= {"pieces": [tmp_path / "out/p"] * 3, "manifest": tmp_path / "out/manifest.json"}
    names["of_tokenised"] = manifest_of(tokenised, tmp_path)
    with pytest.raises(KnnlmError, match=r"train\.txt: the training text has no word"):
        step.main({"corpus": {"bpe_merges": 5}}, tokenised, **names)
    assert not (tmp_path / "out").exists()
